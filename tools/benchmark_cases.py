"""The cases of tools/benchmark.py: inputs, providers, and the expected outputs."""

import copy
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext import losses
from mmext.assigners import BatchAssignment, BatchSimOTAAssigner
from mmext.heads.nms import lacks_cuda_ops
from mmext.heads.ops import pad_ground_truth
from mmext.losses.base import SigmoidLoss
from mmext.visualization.loss_curves import exported

STRIDES = (8, 16, 32)
CENTER_RADIUS = 2.5
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# The largest relative difference of sums of the same numbers in another order.
ROUNDING = 8 * torch.finfo(torch.float32).eps

Outputs = dict[str, Tensor]
Run = Callable[[], Outputs]
Levels = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Setting:
    """Sizes and options of a measurement: `batch` images of `size` pixels with `boxes` boxes each."""

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
        """The largest relative difference that rounding can explain."""
        return TOLERANCES[self.dtype]

    def autocast(self) -> AbstractContextManager:
        """Mixed precision in this type, as in training."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device, self.dtype)


@dataclass(frozen=True)
class Comparison:
    """How far outputs are from the reference, and whether that is within tolerance."""

    difference: float
    agrees: bool
    ties: int = 0


@dataclass
class Workload:
    """A case, set up for a setting."""

    providers: dict[str, Run]
    """For each provider the call that is measured: forward and backward; returns the outputs."""
    reference: Callable[[str], Outputs]
    """Computes the expected outputs of a provider, in float32."""
    compare: Callable[[Outputs, Outputs], Comparison]
    """Compares a provider's outputs with the reference."""
    inputs: Sequence[Tensor] = ()
    """The tensors that a call must read, for the bandwidth; empty: not reported."""
    baseline: str = 'mmdet'
    """The provider whose time the others' are divided by."""


@dataclass(frozen=True)
class Case:
    """How a case is set up, and which settings it depends on."""

    setup: Callable[[Setting], Workload]
    axes: tuple[str, ...] = ('batch', 'boxes', 'dtype')


class Skip(Exception):  # noqa: N818
    """Raised if a case cannot be measured at a setting."""


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, generator: torch.Generator) -> Tensor:
    """Normal random numbers, drawn on the CPU: the same for every device."""
    return torch.randn(shape, generator=generator) * std + mean


def random_boxes(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Random boxes (n, 4) in an image, with log-uniform sides from 16 px to half the image."""
    sides = 16 * (size / 32) ** torch.rand(number, 2, generator=generator)
    top_left = torch.rand(number, 2, generator=generator) * (size - sides)
    return torch.cat([top_left, top_left + sides], -1)


def prior_points(size: int) -> Tensor:
    """Upper left corner and stride of each prior in pixels, (A, 4)."""
    parts = []
    for stride in STRIDES:
        y, x = torch.meshgrid(*[torch.arange(0, size, stride)] * 2, indexing='ij')
        parts.append(torch.stack([x, y, *[torch.full_like(x, stride)] * 2], -1).flatten(0, 1))
    return torch.cat(parts).float()


def predictions(setting: Setting) -> tuple[Levels, list[InstanceData]]:
    """The outputs of a YOLOX head and the ground truth.

    Early in training the outputs are random, around the head's initial values. Late in training the priors inside a box
    predict it, with an IoU of about 0.8.
    """
    generator = torch.Generator().manual_seed(0)
    priors, (images, boxes) = prior_points(setting.size), (setting.batch, setting.boxes)
    gt_boxes = random_boxes(images * boxes, setting.size, generator).view(images, boxes, 4)
    gt_labels = torch.randint(setting.classes, (images, boxes), generator=generator)
    draw = partial(normal, images, len(priors), generator=generator)
    cls, box, obj = draw(setting.classes, mean=-4.6), draw(4, std=0.5), draw(1, mean=-4.6)
    if setting.late and boxes:
        centers = (priors[:, :2] + priors[:, 2:] / 2).unsqueeze(1)
        inside = (centers > gt_boxes[:, None, :, :2]).all(-1) & (centers < gt_boxes[:, None, :, 2:]).all(-1)
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
    """Split (B, A, n) into levels (B, n, H, W)."""
    sides = [math.ceil(size / stride) for stride in STRIDES]
    parts = flat.split([side * side for side in sides], 1)
    return [part.transpose(1, 2).unflatten(2, (side, side)).contiguous() for part, side in zip(parts, sides)]


def dense_loss(name: str, setting: Setting, labels: bool = False) -> Workload:
    """A classification loss for the logits of all priors, of which one in a hundred is positive.

    Args:
        name: The name of the loss in mmext and, where it has the loss, in mmdet.
        setting: The sizes and options.
        labels: Give integer labels, and not a dense target.
    """
    kind, peer = getattr(losses, name), getattr(mmdet_losses, name, None)
    generator = torch.Generator().manual_seed(0)
    rows = setting.batch * len(prior_points(setting.size))
    logits = normal(rows, setting.classes, mean=-4.6, std=2.0, generator=generator)
    classes = torch.randint(setting.classes, (rows,), generator=generator)
    classes[torch.rand(rows, generator=generator) > 0.01] = setting.classes
    dense = F.one_hot(classes, setting.classes + 1)[:, :-1].float()
    if kind.soft_target:
        dense *= torch.rand(rows, 1, generator=generator)
    logits, dense, classes = (
        logits.to(setting.device, setting.dtype),
        dense.to(setting.device),
        classes.to(setting.device),
    )

    def plain(logits: Tensor, target: Tensor) -> Tensor:
        return kind(reduction='none')(logits, target).sum()

    baseline = peer(reduction='sum') if peer else plain
    functions = {'mmext': kind(reduction='sum'), 'plain': plain}
    if peer and (not labels or has_fused_focal_loss(setting)):
        functions = {'mmdet': baseline, **functions}
    if name == 'FocalLoss':
        functions.update(other_focal_losses(setting, labels))
    if 'compiled' in setting.providers:
        functions['compiled'] = compiled(kind(reduction='sum'))
    workload = loss_workload(functions, baseline, logits, classes if labels else dense, setting, dense)
    return replace(workload, baseline='mmdet' if peer else 'plain')


def has_fused_focal_loss(setting: Setting) -> bool:
    """Whether mmdet's focal loss takes labels on the device: on a GPU it calls mmcv's operator."""
    return setting.device == 'cpu' or (setting.dtype != torch.bfloat16 and not lacks_cuda_ops())


def other_focal_losses(setting: Setting, labels: bool) -> dict[str, Callable]:
    """torchvision's focal loss, which takes a dense target, and mmcv's operator, which takes labels on a GPU."""
    if not labels and find_spec('torchvision'):
        from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

        return {'torchvision': partial(torchvision_focal_loss, reduction='sum')}
    if labels and setting.device == 'cuda' and has_fused_focal_loss(setting):
        from mmcv.ops import sigmoid_focal_loss as mmcv_focal_loss

        return {'mmcv': lambda logits, target: mmcv_focal_loss(logits, target, 2.0, 0.25, None, 'sum')}
    return {}


# mmext's arguments, mmdet's loss and torchvision's function.
BOX_LOSSES = {
    'iou': (dict(variant='iou', alpha=2.0), partial(mmdet_losses.IoULoss, mode='square'), None),
    'giou': (dict(variant='giou'), mmdet_losses.GIoULoss, 'generalized_box_iou_loss'),
    'ciou': (dict(variant='ciou'), mmdet_losses.CIoULoss, 'complete_box_iou_loss'),
    'siou': (dict(variant='siou'), partial(mmdet_losses.SIoULoss, neg_gamma=True), None),
}


def box_loss(variant: str, setting: Setting) -> Workload:
    """A box loss, for ten positives of each box, with an IoU above 0.6: below 0.5 mmdet's CIoU has another formula."""
    if not setting.boxes:
        raise Skip('without boxes there is nothing to compute')
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
    """Compile the module for one shape."""
    torch.compiler.reset()
    return torch.compile(module, dynamic=False)


def loss_workload(
    functions: dict[str, Callable],
    baseline: Callable,
    pred: Tensor,
    target: Tensor,
    setting: Setting,
    reference_target: Tensor | None = None,
) -> Workload:
    """The loss and its gradient by each function, and the baseline's in float32 as the reference.

    Args:
        functions: The functions of `pred` and `target`.
        baseline: The function that computes the reference.
        pred: Predictions.
        target: Targets.
        setting: The sizes and options.
        reference_target: The baseline's target, where it takes another form; None: `target`.
    """

    def run(function: Callable, pred: Tensor, target: Tensor, setting: Setting) -> Outputs:
        with setting.autocast():
            loss = function(pred, target)
        return dict(loss=loss.detach(), gradient=torch.autograd.grad(loss, pred)[0])

    exact = pred.float().requires_grad_(), target if reference_target is None else reference_target
    reference = cache(partial(run, baseline, *exact, replace(setting, dtype=torch.float32)))
    pred.requires_grad_()
    return Workload(
        providers={
            name: partial(run, function, pred, target, setting)
            for name, function in functions.items()
            if name in setting.providers
        },
        reference=lambda provider: reference(),
        compare=partial(compare, tolerance=setting.tolerance),
        inputs=[pred, target],
    )


def compare(reference: Outputs, outputs: Outputs, tolerance: float) -> Comparison:
    """The largest difference, relative to the largest value of the tensor. NaN counts as a disagreement."""
    differences = [math.inf] if reference.keys() != outputs.keys() else [0.0]
    for name in reference.keys() & outputs.keys():
        expected, value = reference[name].double(), outputs[name].double()
        if expected.numel():
            scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            differences.append(((value - expected).abs().max() / scale).item())
    # `max` may drop a NaN.
    difference = math.nan if any(map(math.isnan, differences)) else max(differences)
    return Comparison(difference, agrees=difference <= tolerance)


class RecordingSimOTA(SimOTAAssigner):
    """mmdet's assigner; records the costs of an image and how many priors each box takes, to find ties."""

    def dynamic_k_matching(
        self, cost: Tensor, pairwise_ious: Tensor, num_gt: int, valid_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mmdet's; it changes `valid_mask`."""
        self.cost = cost.new_full((len(valid_mask), num_gt), math.inf)
        self.cost[valid_mask] = cost
        self.sum_of_ious = pairwise_ious.topk(min(self.candidate_topk, len(pairwise_ious)), dim=0).values.sum(0)
        self.dynamic_k = self.sum_of_ious.int().clamp(min=1)
        return super().dynamic_k_matching(cost, pairwise_ious, num_gt, valid_mask)

    def explain(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Which priors may be assigned differently because of a tie, (A,). There are three kinds:

        * the cost of the last prior that a box takes equals that of the next, so that either may be taken;
        * the sum of IoUs is an integer within rounding, so that the box takes one prior more or less;
        * the costs of a prior for two boxes are equal, so that it may go to either.

        Args:
            theirs: Index of each prior's box by mmdet's assigner, -1 for none, (A,).
            ours: The same by another assigner.
        """
        ordered = self.cost.sort(0).values
        last, following = (self._cost_at(ordered, place) for place in (self.dynamic_k, self.dynamic_k + 1))
        slack = ROUNDING * last.abs()
        at_last_place = (following - last <= slack) & ((self.cost - last).abs() <= slack)
        nearest = self.sum_of_ious.round()
        # A box takes at least one prior, be the sum a little more or less than 1.
        uncertain = (nearest >= 2) & ((self.sum_of_ious - nearest).abs() <= ROUNDING * nearest)
        last = self._cost_at(ordered, nearest.long())
        at_uncertain_place = uncertain & ((self.cost - last).abs() <= ROUNDING * last.abs())
        costs = [self.cost.gather(1, box.clamp(min=0).unsqueeze(1)).squeeze(1) for box in (theirs, ours)]
        between_boxes = (theirs >= 0) & (ours >= 0) & ((costs[0] - costs[1]).abs() <= ROUNDING * costs[0].abs())
        return (at_last_place | at_uncertain_place).any(1) | between_boxes

    @staticmethod
    def _cost_at(ordered: Tensor, place: Tensor) -> Tensor:
        """The cost at a place of each box, from 1 on, (1, G)."""
        return ordered.gather(0, (place.long() - 1).clamp(0, len(ordered) - 1).unsqueeze(0))


class Assignment:
    """Assignment by mmdet and by mmext, each from flattened logits in the memory layout of its head."""

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
        center = offsets[..., :2].float() * corners[:, 2:] + corners[:, :2]
        half = offsets[..., 2:].float().exp() * corners[:, 2:] / 2
        self.boxes = torch.cat([center - half, center + half], -1)

    @torch.no_grad()
    def mmdet(self) -> Outputs:
        """By mmdet, image by image: the index of each prior's box, or -1, and the IoU with it, (B, A)."""
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
        """The result of mmdet's assigner for one image."""
        scores = self.their_cls[image].sigmoid() * self.their_obj[image].unsqueeze(1).sigmoid()
        instances = InstanceData(bboxes=self.boxes[image], scores=scores.sqrt_(), priors=self.priors)
        return assigner.assign(instances, self.instances[image])

    @torch.no_grad()
    def mmext(self) -> Outputs:
        """By mmext, for the whole batch at once."""
        ground_truth = pad_ground_truth(self.instances, self.boxes)
        result = self.ours.assign_batch(self.boxes, (self.cls, self.obj), self.priors, *ground_truth)
        return result._asdict()

    @torch.no_grad()
    def compare(self, reference: Outputs, outputs: Outputs) -> Comparison:
        """Count the priors that differ in their box or their IoU, and those that differ because of a tie."""
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
        """The same inputs in float32."""
        levels = tuple([level.float() for level in part] for part in self.levels)
        return Assignment(replace(self.setting, dtype=torch.float32), levels, self.instances)


def assigner(setting: Setting) -> Workload:
    """Assignment, from flattened logits."""
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


# mmext's losses; they work in mmdet's head, too.
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
    """Use mmext's losses instead of the stock ones."""
    compile: bool = False


HEADS = dict(
    mmdet=Head('mmdet'), mmext=Head('mmext'), mmext_losses=Head('mmext', own=True), compiled=Head('mmext', compile=True)
)


@dataclass(frozen=True)
class Network:
    """What of mmext's root configs, and of `--amp` on a CPU, makes the convolutions faster."""

    silu: bool = False
    """One operation in place of the two of mmdet's Swish."""
    channels_last: bool = False
    bf16: bool = False
    """bfloat16 by mmext's optimizer wrapper."""


# Each has one part more than the one before it; together they are the fast path.
NETWORKS = dict(
    mmext_silu=Network(silu=True),
    mmext_channels_last=Network(silu=True, channels_last=True),
    mmext_bf16=Network(silu=True, channels_last=True, bf16=True),
)


@cache
def base_config(model: str) -> Config:
    """mmdet's config of this YOLOX model."""
    return get_config(f'mmdet::yolox/yolox_{model}_8xb8-300e_coco.py')


def yolox_config(setting: Setting, kind: Head) -> Config:
    """The config with this head, its assigner and its losses."""
    config = copy.deepcopy(base_config(setting.model))
    config.model.data_preprocessor.batch_augments = None
    head = config.model.bbox_head
    head.update(
        type=f'{kind.scope}.YOLOXHead', num_classes=setting.classes, **({'compile': True} if kind.compile else {})
    )
    # Not by update(), which would merge the loss with mmdet's.
    for name, loss in OWN_LOSSES.items() if kind.own else ():
        head[name] = loss
    config.model.train_cfg = dict(assigner=dict(type=ASSIGNERS[kind.scope], center_radius=CENTER_RADIUS))
    return config


def build(config: Config) -> nn.Module:
    """Build a model, its weights drawn with seed 0."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(config)


def loss_by_feat(setting: Setting) -> Workload:
    """The losses of a head, and the gradients of its outputs."""
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
        # Ties change which priors are positive: that share of a loss may differ, and gradients altogether.
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
    """A training step of a YOLOX model, from images on the device to updated weights.

    In half precision it runs under AMP on a GPU, and under bfloat16 autocast on a CPU. The reference is computed from
    the outputs of the same model in the same precision: by mmdet's head, in float32.
    """
    if setting.device == 'cpu' and setting.dtype == torch.float16:
        raise Skip('float16 needs a scaled loss, and that a GPU')
    _, instances = predictions(setting)
    shape = (setting.batch, 3, setting.size, setting.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    meta = dict(img_shape=shape[2:], batch_input_shape=shape[2:])
    data = dict(
        inputs=list(images.to(setting.device)),
        data_samples=[DetDataSample(gt_instances=each, metainfo=meta) for each in instances],
    )

    def train(kind: Head, network: Network) -> tuple[Run, nn.Module]:
        model, wrapper = trainable(setting, kind, network)
        return lambda: model.train_step(data, wrapper), model.bbox_head

    @cache
    def reference(own: bool, network: Network) -> Outputs:
        # A first step from the same weights, as the provider's is when it is compared.
        run, head = train(Head('mmdet', own), network)
        outputs = []
        head.register_forward_hook(lambda module, args, levels: outputs.extend(levels))
        run()
        exact = [[level.detach().float() for level in levels] for levels in outputs]
        values = head.loss_by_feat(*exact, instances, [meta] * setting.batch)
        return dict(loss=sum(values.values()), **values)

    kinds = {name: (kind, Network()) for name, kind in HEADS.items()}
    kinds |= {name: (HEADS['mmext'], network) for name, network in NETWORKS.items()}
    return Workload(
        providers={name: train(*kind)[0] for name, kind in kinds.items() if name in setting.providers},
        reference=lambda provider: reference(kinds[provider][0].own, kinds[provider][1]),
        compare=partial(compare, tolerance=max(1e-3, setting.tolerance)),
    )


def trainable(setting: Setting, kind: Head, network: Network) -> tuple[nn.Module, OptimWrapper]:
    """A YOLOX model with new weights, and its optimizer."""
    config = yolox_config(setting, kind)
    # The images are random: with a small learning rate the losses stay finite over any number of steps.
    config.optim_wrapper.optimizer.lr = 1e-6
    if network.bf16 or setting.dtype == torch.bfloat16:
        config.optim_wrapper.type = 'mmext.BFloat16OptimWrapper'
    elif setting.dtype == torch.float16:
        config.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16')
    for part in ('backbone', 'neck', 'bbox_head') if network.silu else ():
        config.model[part].act_cfg = dict(type='SiLU', inplace=False)
    with quiet():
        model = build(config.model)
        model.init_weights()
        model.to(setting.device).train()
        if network.channels_last:
            model.to(memory_format=torch.channels_last)
        return model, build_optim_wrapper(model, config.optim_wrapper)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log, which has a line for each parameter."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def sigmoid_losses() -> dict[str, str]:
    """The losses over a sigmoid that mmext exports: the name of the case, and of the class."""
    names = exported(SigmoidLoss)
    return {re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name.removesuffix('Loss')).lower(): name for name in names}


LOSSES = {
    **{case: Case(partial(dense_loss, name), axes=('batch', 'dtype')) for case, name in sigmoid_losses().items()},
    'focal_labels': Case(partial(dense_loss, 'FocalLoss', labels=True), axes=('batch', 'dtype')),
    # In float32 alone: in float16 mmdet's box losses overflow, and mmext's head decodes in float32.
    **{name: Case(partial(box_loss, name), axes=('batch', 'boxes')) for name in BOX_LOSSES},
}
CASES = {**LOSSES, 'assigner': Case(assigner), 'loss_by_feat': Case(loss_by_feat), 'step': Case(step)}
