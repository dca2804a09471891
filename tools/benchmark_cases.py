"""What tools/benchmark.py measures: the cases, their inputs, their providers, and what each should return."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from mmdet.models.task_modules import AssignResult, SimOTAAssigner
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext import losses
from mmext.assigners import BatchAssignment, BatchSimOTAAssigner
from mmext.heads.nms import lacks_cuda_ops
from mmext.heads.ops import pad_ground_truth

STRIDES = (8, 16, 32)
CENTER_RADIUS = 2.5
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Costs that differ by no more than this share may be the same number, rounded in another order.
ROUNDING = 8 * torch.finfo(torch.float32).eps

Outputs = dict[str, Tensor]
Run = Callable[[], Outputs]
Levels = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Setting:
    """What a case is measured at: B images of `size` pixels with G boxes each."""

    device: str
    dtype: torch.dtype
    batch: int
    boxes: int
    size: int
    classes: int
    late: bool
    model: str
    providers: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """The largest relative difference that rounding explains."""
        return TOLERANCES[self.dtype]

    def autocast(self) -> torch.autocast:
        """Mixed precision, as a training in this type has it."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)


@dataclass(frozen=True)
class Comparison:
    """How far outputs are from the reference."""

    difference: float
    agrees: bool
    ties: int = 0


@dataclass
class Workload:
    """A case, set up."""

    providers: dict[str, Run]
    """What is measured: a call, forward and backward, that returns what was computed."""
    reference: Callable[[str], Outputs]
    """What a provider should return, computed in float32."""
    compare: Callable[[Outputs, Outputs], Comparison]
    """Compares the reference with what a provider returned."""
    inputs: Sequence[Tensor] = ()
    """What must be read; none: the bytes are not stated."""


@dataclass(frozen=True)
class Case:
    """How a case is set up, and which sizes it depends on."""

    setup: Callable[[Setting], Workload]
    axes: tuple[str, ...] = ('batch', 'boxes', 'dtype')


class Skip(Exception):  # noqa: N818
    """Raised by a case that cannot be measured at a setting."""


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, generator: torch.Generator) -> Tensor:
    """Random numbers, drawn on the CPU: the same for every device."""
    return torch.randn(shape, generator=generator) * std + mean


def random_boxes(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Boxes (n, 4) in an image; small sides are as frequent as large ones."""
    sides = 16 * (size / 32) ** torch.rand(number, 2, generator=generator)
    top_left = torch.rand(number, 2, generator=generator) * (size - sides)
    return torch.cat([top_left, top_left + sides], -1)


def prior_points(size: int) -> Tensor:
    """Corner and stride of each prior, (A, 4)."""
    parts = []
    for stride in STRIDES:
        y, x = torch.meshgrid(*[torch.arange(0, size, stride)] * 2, indexing='ij')
        parts.append(torch.stack([x, y, *[torch.full_like(x, stride)] * 2], -1).flatten(0, 1))
    return torch.cat(parts).float()


def predictions(setting: Setting) -> tuple[Levels, list[InstanceData]]:
    """Logits, as a YOLOX head gives them, and the ground truth.

    Early in a training they are random about the head's initial values. Late, what lies in a box predicts it, with an
    IoU of about 0.8.
    """
    generator = torch.Generator().manual_seed(0)
    priors, (images, boxes) = prior_points(setting.size), (setting.batch, setting.boxes)
    gt_boxes = random_boxes(images * boxes, setting.size, generator).view(images, boxes, 4)
    gt_labels = torch.randint(setting.classes, (images, boxes), generator=generator)
    draw = partial(normal, images, len(priors), generator=generator)
    cls, box, obj = draw(setting.classes, mean=-4.6), draw(4, std=0.5), draw(1, mean=-4.6)
    if setting.late and boxes:
        centres = (priors[:, :2] + priors[:, 2:] / 2).unsqueeze(1)
        inside = (centres > gt_boxes[:, None, :, :2]).all(-1) & (centres < gt_boxes[:, None, :, 2:]).all(-1)
        hit, owner = inside.any(-1, keepdim=True), inside.int().argmax(-1)
        x1y1, x2y2 = gt_boxes.gather(1, owner.unsqueeze(-1).expand(-1, -1, 4)).split(2, -1)
        offset, scale = ((x1y1 + x2y2) / 2 - priors[:, :2]) / priors[:, 2:], ((x2y2 - x1y1) / priors[:, 2:]).log()
        box = torch.where(hit, torch.cat([offset, scale], -1) + 0.2 * box, box)
        cls += 4.6 * F.one_hot(gt_labels.gather(1, owner), setting.classes) * hit
        obj += 4.6 * hit
    levels = tuple(to_levels(part.to(setting.device, setting.dtype), setting.size) for part in (cls, box, obj))
    instances = [
        InstanceData(bboxes=box.to(setting.device), labels=label.to(setting.device))
        for box, label in zip(gt_boxes, gt_labels)
    ]
    return levels, instances


def to_levels(flat: Tensor, size: int) -> list[Tensor]:
    """(B, A, n) -> (B, n, H, W) of each level."""
    sides = [math.ceil(size / stride) for stride in STRIDES]
    parts = flat.split([side * side for side in sides], 1)
    return [part.transpose(1, 2).unflatten(2, (side, side)).contiguous() for part, side in zip(parts, sides)]


def dense_loss(name: str, setting: Setting) -> Workload:
    """A loss of classes, for the logits of all priors; one prior in a hundred is a positive."""
    generator = torch.Generator().manual_seed(0)
    rows = setting.batch * len(prior_points(setting.size))
    logits = normal(rows, setting.classes, mean=-4.6, std=2.0, generator=generator)
    labels = torch.randint(setting.classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) > 0.01] = setting.classes
    target = F.one_hot(labels, setting.classes + 1)[:, :-1].float()
    if name != 'FocalLoss':
        target *= torch.rand(rows, 1, generator=generator)
    labels, target = labels.to(setting.device), target.to(setting.device)
    logits = logits.to(setting.device, setting.dtype)
    mmdet_loss = getattr(mmdet_losses, name)(reduction='sum')
    functions = {'mmdet': mmdet_loss, 'mmext': getattr(losses, name)(reduction='sum')}
    if name == 'FocalLoss':
        functions.update(other_focal_losses(setting, labels))
    if 'compiled' in setting.providers:
        functions['compiled'] = compiled(getattr(losses, name)(reduction='sum'))
    return loss_workload(functions, mmdet_loss, logits, target, setting)


def other_focal_losses(setting: Setting, labels: Tensor) -> dict[str, Callable]:
    """torchvision's focal loss and mmcv's operator, where there are any. The latter takes labels."""
    functions = {}
    if find_spec('torchvision'):
        from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

        functions['torchvision'] = partial(torchvision_focal_loss, reduction='sum')
    if setting.device == 'cuda' and setting.dtype != torch.bfloat16 and not lacks_cuda_ops():
        from mmcv.ops import sigmoid_focal_loss as mmcv_focal_loss

        functions['mmcv'] = lambda logits, target: mmcv_focal_loss(logits, labels, 2.0, 0.25, None, 'sum')
    return functions


# mmext's arguments, mmdet's loss and torchvision's function.
BOX_LOSSES = {
    'iou': (dict(variant='iou', alpha=2.0), partial(mmdet_losses.IoULoss, mode='square'), None),
    'giou': (dict(variant='giou'), mmdet_losses.GIoULoss, 'generalized_box_iou_loss'),
    'ciou': (dict(variant='ciou'), mmdet_losses.CIoULoss, 'complete_box_iou_loss'),
    'siou': (dict(variant='siou'), partial(mmdet_losses.SIoULoss, neg_gamma=True), None),
}


def box_loss(variant: str, setting: Setting) -> Workload:
    """A loss of boxes, for ten positives of each box, with an IoU above 0.6: mmdet's CIoU is another up to 0.5."""
    if not setting.boxes:
        raise Skip('there is nothing to compute')
    generator = torch.Generator().manual_seed(0)
    target = random_boxes(10 * setting.batch * setting.boxes, setting.size, generator)
    sides = (target[:, 2:] - target[:, :2]).repeat(1, 2)
    pred = target + 0.1 * sides * (2 * torch.rand(target.shape, generator=generator) - 1)
    arguments, peer, torchvision_name = BOX_LOSSES[variant]
    mmdet_loss = peer(reduction='sum')
    functions = {'mmdet': mmdet_loss, 'mmext': losses.IoULoss(**arguments, reduction='sum')}
    if torchvision_name and find_spec('torchvision'):
        from torchvision import ops

        functions['torchvision'] = partial(getattr(ops, torchvision_name), reduction='sum')
    if 'compiled' in setting.providers:
        functions['compiled'] = compiled(losses.IoULoss(**arguments, reduction='sum'))
    return loss_workload(functions, mmdet_loss, pred.to(setting.device), target.to(setting.device), setting)


def compiled(module: nn.Module) -> Callable:
    """The module, compiled for one shape."""
    torch.compiler.reset()
    return torch.compile(module, dynamic=False)


def loss_workload(
    functions: dict[str, Callable], mmdet_loss: nn.Module, pred: Tensor, target: Tensor, setting: Setting
) -> Workload:
    """The loss and its gradient by each function."""

    def run(function: Callable, pred: Tensor, setting: Setting) -> Outputs:
        with setting.autocast():
            loss = function(pred, target)
        return dict(loss=loss.detach(), gradient=torch.autograd.grad(loss, pred)[0])

    exact = cache(partial(run, mmdet_loss, pred.float().requires_grad_(), replace(setting, dtype=torch.float32)))
    pred.requires_grad_()
    return Workload(
        providers={
            name: partial(run, function, pred, setting)
            for name, function in functions.items()
            if name in setting.providers
        },
        reference=lambda provider: exact(),
        compare=partial(compare, tolerance=setting.tolerance),
        inputs=[pred, target],
    )


def compare(reference: Outputs, outputs: Outputs, tolerance: float) -> Comparison:
    """The largest difference, relative to the largest value of the tensor. A NaN disagrees."""
    differences = [math.inf] if reference.keys() != outputs.keys() else [0.0]
    for name in reference.keys() & outputs.keys():
        expected, value = reference[name].double(), outputs[name].double()
        if expected.numel():
            scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            differences.append(((value - expected).abs().max() / scale).item())
    # In a maximum a NaN may be lost.
    difference = math.nan if any(map(math.isnan, differences)) else max(differences)
    return Comparison(difference, agrees=difference <= tolerance)


class RecordingSimOTA(SimOTAAssigner):
    """mmdet's assigner, which keeps the costs of an image, and how many priors each box takes, to tell ties."""

    def dynamic_k_matching(
        self, cost: Tensor, pairwise_ious: Tensor, num_gt: int, valid_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mmdet's, which changes the mask."""
        self.cost = cost.new_full((len(valid_mask), num_gt), math.inf)
        self.cost[valid_mask] = cost
        highest = pairwise_ious.topk(min(self.candidate_topk, len(pairwise_ious)), dim=0).values
        self.number = highest.sum(0).int().clamp(min=1)
        return super().dynamic_k_matching(cost, pairwise_ious, num_gt, valid_mask)

    def explain(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Which priors may be assigned otherwise because costs tie, (A,).

        At the last place that a box gives, or between the boxes of a prior that more than one box took.

        Args:
            theirs: The index of each prior's box by mmdet's assigner, -1 where it has none, (A,).
            ours: By another.
        """
        ordered = self.cost.sort(0).values
        place = self.number.long().unsqueeze(0) - 1
        last, following = ordered.gather(0, place), ordered.gather(0, (place + 1).clamp(max=len(ordered) - 1))
        slack = ROUNDING * last.abs()
        at_last_place = (following - last <= slack) & ((self.cost - last).abs() <= slack)
        costs = [self.cost.gather(1, box.clamp(min=0).unsqueeze(1)).squeeze(1) for box in (theirs, ours)]
        between_boxes = (theirs >= 0) & (ours >= 0) & ((costs[0] - costs[1]).abs() <= ROUNDING * costs[0].abs())
        return at_last_place.any(1) | between_boxes


class Assignment:
    """mmdet's assigner and mmext's, each from flattened logits as its head lays them out in memory."""

    def __init__(self, setting: Setting, levels: Levels, instances: list[InstanceData]):
        self.setting, self.levels, self.instances = setting, levels, instances
        self.theirs = SimOTAAssigner(center_radius=CENTER_RADIUS)
        self.ours = BatchSimOTAAssigner(center_radius=CENTER_RADIUS)
        corners = prior_points(setting.size).to(setting.device)
        self.priors = torch.cat([corners[:, :2] + corners[:, 2:] / 2, corners[:, 2:]], -1)
        self.cls, offsets, self.obj = (
            torch.cat([level.detach().flatten(2) for level in part], 2).transpose(1, 2) for part in levels
        )
        self.their_cls, self.their_obj = self.cls.contiguous(), self.obj.squeeze(-1)
        centre = offsets[..., :2].float() * corners[:, 2:] + corners[:, :2]
        half = offsets[..., 2:].float().exp() * corners[:, 2:] / 2
        self.boxes = torch.cat([centre - half, centre + half], -1)

    @torch.no_grad()
    def mmdet(self) -> Outputs:
        """The index of the box of each prior, or -1, and the IoU with it, (B, A): image by image."""
        results = []
        for image, gt_instances in enumerate(self.instances):
            if len(gt_instances):
                result = self.mmdet_image(image, self.theirs)
                results.append((result.gt_inds - 1, result.max_overlaps.clamp(min=0)))
            else:
                nothing = self.boxes.new_zeros(len(self.priors))
                results.append((nothing.long() - 1, nothing))
        boxes, ious = zip(*results)
        return dict(box=torch.stack(boxes), iou=torch.stack(ious))

    def mmdet_image(self, image: int, assigner: SimOTAAssigner) -> AssignResult:
        """mmdet's result for an image."""
        scores = self.their_cls[image].sigmoid() * self.their_obj[image].unsqueeze(1).sigmoid()
        instances = InstanceData(bboxes=self.boxes[image], scores=scores.sqrt_(), priors=self.priors)
        return assigner.assign(instances, self.instances[image])

    @torch.no_grad()
    def mmext(self) -> Outputs:
        """mmext's, for the whole batch at once."""
        ground_truth = pad_ground_truth(self.instances, self.boxes)
        result = self.ours.assign_batch(self.boxes, (self.cls, self.obj), self.priors, *ground_truth)
        return result._asdict()

    @torch.no_grad()
    def compare(self, reference: Outputs, outputs: Outputs) -> Comparison:
        """How many priors differ in their box, without a tie, or in their IoU with it; and how many by a tie."""
        if 'candidates' in outputs:
            result = BatchAssignment(**outputs)
            outputs = dict(
                box=result.scatter_to_priors(result.gt_inds, -1), iou=result.scatter_to_priors(result.ious, 0)
            )
        differ = reference['box'] != outputs['box']
        wrong = ~differ & ((reference['iou'] - outputs['iou']).abs() > self.setting.tolerance)
        ties = torch.zeros_like(differ)
        assigner = RecordingSimOTA(center_radius=CENTER_RADIUS)
        for image in differ.any(1).nonzero().flatten().tolist():
            self.mmdet_image(image, assigner)
            ties[image] = differ[image] & assigner.explain(reference['box'][image], outputs['box'][image])
        number = (wrong | differ & ~ties).sum().item()
        return Comparison(number, agrees=not number, ties=ties.sum().item())

    def exact(self) -> 'Assignment':
        """The same numbers in float32."""
        levels = tuple([level.float() for level in part] for part in self.levels)
        return Assignment(replace(self.setting, dtype=torch.float32), levels, self.instances)


def assigner(setting: Setting) -> Workload:
    """From flattened logits to the assignment, as the heads do it."""
    assignment = Assignment(setting, *predictions(setting))
    exact = assignment.exact()
    reference = cache(exact.mmdet)

    def run(function: Run) -> Outputs:
        with setting.autocast():
            return function()

    return Workload(
        providers={
            name: partial(run, getattr(assignment, name)) for name in ('mmdet', 'mmext') if name in setting.providers
        },
        reference=lambda provider: reference(),
        compare=exact.compare,
        inputs=[assignment.cls, assignment.obj, assignment.boxes, assignment.priors],
    )


# mmext's own, in any head.
OWN_LOSSES = dict(
    loss_cls=dict(type='mmext.QualityFocalLoss', reduction='sum'),
    loss_bbox=dict(type='mmext.IoULoss', variant='ciou', reduction='sum', loss_weight=5.0),
    loss_obj=dict(type='mmext.VarifocalLoss', reduction='sum'),
)
ASSIGNERS = dict(mmdet='mmdet.SimOTAAssigner', mmext='mmext.BatchSimOTAAssigner')


@dataclass(frozen=True)
class Head:
    """A YOLOX head with its own assigner."""

    scope: str
    own: bool = False
    """mmext's losses, not the stock ones."""
    compile: bool = False


HEADS = dict(
    mmdet=Head('mmdet'), mmext=Head('mmext'), mmext_losses=Head('mmext', own=True), compiled=Head('mmext', compile=True)
)


@cache
def base_config(model: str) -> Config:
    """mmdet's config of a YOLOX."""
    return get_config(f'mmdet::yolox/yolox_{model}_8xb8-300e_coco.py')


def yolox_config(setting: Setting, kind: Head) -> Config:
    """The config with that head."""
    config = copy.deepcopy(base_config(setting.model))
    config.model.data_preprocessor.batch_augments = None
    head = config.model.bbox_head
    head.update(
        type=f'{kind.scope}.YOLOXHead', num_classes=setting.classes, **({'compile': True} if kind.compile else {})
    )
    # One by one: update() would merge a loss into mmdet's.
    for name, loss in OWN_LOSSES.items() if kind.own else ():
        head[name] = loss
    config.model.train_cfg = dict(assigner=dict(type=ASSIGNERS[kind.scope], center_radius=CENTER_RADIUS))
    return config


def build(config: Config) -> nn.Module:
    """A model with the weights of seed 0."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(config)


def loss_by_feat(setting: Setting) -> Workload:
    """From the head's logits to the gradients of its losses."""
    levels, instances = predictions(setting)
    exact = tuple([level.float().requires_grad_() for level in part] for part in levels)
    inputs = [level.requires_grad_() for part in levels for level in part]

    def run(head: nn.Module, levels: Levels, setting: Setting) -> Outputs:
        with setting.autocast():
            values = head.loss_by_feat(*levels, instances, [{}] * setting.batch)
        gradients = torch.autograd.grad(sum(values.values()), [level for part in levels for level in part])
        outputs = {name: value.detach() for name, value in values.items()}
        return outputs | {f'gradient {number}': gradient for number, gradient in enumerate(gradients)}

    def head(kind: Head) -> nn.Module:
        config = yolox_config(setting, kind).model
        return build(dict(config.bbox_head, train_cfg=config.train_cfg)).to(setting.device)

    reference = cache(lambda own: run(head(Head('mmdet', own)), exact, replace(setting, dtype=torch.float32)))

    def compare_with_ties(reference: Outputs, outputs: Outputs) -> Comparison:
        comparison = compare(reference, outputs, setting.tolerance)
        if comparison.agrees or not math.isfinite(comparison.difference):
            return comparison
        assignment = Assignment(setting, levels, instances).exact()
        theirs = assignment.mmdet()
        assigned = assignment.compare(theirs, assignment.mmext())
        # As many of the positives may be others: so much of a loss may be another, and all of a gradient.
        share = assigned.ties / max(1, (theirs['box'] >= 0).sum().item())
        values = ({name: each[name] for name in each if name.startswith('loss')} for each in (reference, outputs))
        within = compare(*values, tolerance=max(share, setting.tolerance)).agrees
        return replace(comparison, agrees=assigned.agrees and within and assigned.ties > 0, ties=assigned.ties)

    return Workload(
        providers={
            name: partial(run, head(kind), levels, setting) for name, kind in HEADS.items() if name in setting.providers
        },
        reference=lambda provider: reference(HEADS[provider].own),
        compare=compare_with_ties,
        inputs=inputs,
    )


def step(setting: Setting) -> Workload:
    """A training step of a YOLOX, from images on the device to new weights; in half precision under AMP."""
    half = setting.dtype != torch.float32
    if half and setting.device == 'cpu':
        raise Skip('mixed precision is measured on a GPU alone')
    _, instances = predictions(setting)
    shape = (setting.batch, 3, setting.size, setting.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    meta = dict(img_shape=shape[2:], batch_input_shape=shape[2:])
    data = dict(
        inputs=list(images.to(setting.device)),
        data_samples=[DetDataSample(gt_instances=each, metainfo=meta) for each in instances],
    )

    def train(kind: Head) -> Run:
        config = yolox_config(setting, kind)
        # Random images teach nothing: a rate that keeps the losses finite however often the step is repeated.
        config.optim_wrapper.optimizer.lr = 1e-6
        if half:
            config.optim_wrapper.update(type='AmpOptimWrapper', dtype=str(setting.dtype).removeprefix('torch.'))
        with quiet():
            model = build(config.model)
            model.init_weights()
            wrapper = build_optim_wrapper(model.to(setting.device).train(), config.optim_wrapper)
        return lambda: model.train_step(data, wrapper)

    reference = cache(lambda own: train(Head('mmdet', own))())
    return Workload(
        providers={name: train(kind) for name, kind in HEADS.items() if name in setting.providers},
        # A first step, as the provider's is when it is compared.
        reference=lambda provider: reference(HEADS[provider].own),
        # In half precision the features are rounded, and the assignment differs.
        compare=partial(compare, tolerance=math.inf if half else 1e-3),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without a line of log for each parameter."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


LOSSES = {
    'focal': Case(partial(dense_loss, 'FocalLoss'), axes=('batch', 'dtype')),
    'varifocal': Case(partial(dense_loss, 'VarifocalLoss'), axes=('batch', 'dtype')),
    'quality_focal': Case(partial(dense_loss, 'QualityFocalLoss'), axes=('batch', 'dtype')),
    # In float16 mmdet's overflow, as tools/compare_peers.py shows; mmext's head decodes in float32.
    **{name: Case(partial(box_loss, name), axes=('batch', 'boxes')) for name in BOX_LOSSES},
}
CASES = {**LOSSES, 'assigner': Case(assigner), 'loss_by_feat': Case(loss_by_feat), 'step': Case(step)}
