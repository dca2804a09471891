"""What each loss contributes to a training: its value, and its gradient where the heads start."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import isfinite, nan
from statistics import fmean

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from .boxes import boxes_of
from .findings import Finding
from .wiring import yolox_head

# A loss below this share of the total, or of the gradient norm, is hardly trained.
SMALL_SHARE = 0.01
# Divisors closer to 1 than this do not divide.
TOLERANCE = 0.01


@dataclass(frozen=True)
class LossRow:
    """One loss of a model, averaged over batches.

    Attributes:
        name: Its name in the log, such as `loss_cls`.
        key: Its place in the config; empty for a loss that the head computes by itself.
        kind: Its class.
        package: The package of that class.
        target: What it is fed as target.
        reduction: As in the config.
        divisor: By what the sum over the elements is divided, by the loss and the head together; NaN if unknown.
        own_divisor: The part of it by which the loss divides, with `mean`.
        divisions: How often it is divided by something above 1; None if the batches cannot tell.
        weight: Its `loss_weight`, which the value includes.
        value: Its value.
        share: Its share of the sum of all losses, in [0, 1].
        gradient: The norm of its gradient at the feature maps that enter the heads, over all levels.
        gradient_share: That norm divided by the sum of the norms of all losses, in [0, 1].
    """

    name: str
    key: str
    kind: str
    package: str
    target: str
    reduction: str
    divisor: float
    own_divisor: float
    divisions: int | None
    weight: float
    value: float
    share: float
    gradient: float
    gradient_share: float


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a loss.

    Attributes:
        key: Where the loss is in the model.
        output: What it returned.
        total: The sum over the elements, times `loss_weight`, before any division; None if the loss cannot tell.
        avg_factor: What the head gave as divisor.
        rows: The number of rows that count.
        target: What the target is.
    """

    key: str
    output: Tensor
    total: float | None
    avg_factor: float | None
    rows: int
    target: str


def measure(model: nn.Module, batches: Sequence[dict]) -> list[LossRow]:
    """The losses of a detector on some batches, with its current weights; the model is not changed.

    Args:
        model: The detector.
        batches: Batches of the training data, as the data loader gives them.

    Returns:
        One row for each loss, in the order of the log.
    """
    model = deepcopy(model).train()
    if getattr(yolox_head(model), 'compiled', False):
        # A compiled head calls its losses where no hook sees them.
        model.bbox_head.compiled = False
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):
        # Multi-scale training and TOODHead read them.
        hub.update_info(name, hub.get_info(name) or 0)
    measured: dict[str, list[dict]] = defaultdict(list)
    for batch in batches:
        for name, row in _measure(model, batch).items():
            measured[name].append(row)
    rows = {name: {**found[-1], **_over_batches(found)} for name, found in measured.items()}
    total, norm = (sum(row[part] for row in rows.values()) for part in ('value', 'gradient'))
    return [
        LossRow(
            name=name,
            share=row['value'] / total if total else nan,
            gradient_share=row['gradient'] / norm if norm else nan,
            **row,
        )
        for name, row in rows.items()
    ]


def _over_batches(found: Sequence[dict]) -> dict[str, float | int | None]:
    """The numbers of a loss over the batches: means, and a division that is missing in all or twice in any."""
    divisions = [row['divisions'] for row in found if row['divisions'] is not None]
    means = {key: fmean(row[key] for row in found) for key in ('value', 'gradient', 'divisor', 'own_divisor')}
    return {**means, 'divisions': max(divisions, default=None)}


def _measure(model: nn.Module, batch: dict) -> dict[str, dict]:
    """The fields of each row on one batch, but for the shares."""
    data = model.data_preprocessor(deepcopy(batch), True)
    with _features(model) as features, _recorded(model) as calls:
        losses = model(**data, mode='loss')
    values = {name: _value(loss) for name, loss in losses.items() if 'loss' in name}
    boxes = sum(map(len, boxes_of(batch)))
    found = {}
    for name, value in values.items():
        slopes = _slopes(value, calls)
        own = list(slopes)
        key = own[0].key if own else _place(model, name)
        loss = model.get_submodule(key) if key else None
        found[name] = dict(
            key=f'model.{key}' if key else '',
            kind=type(loss).__name__ if key else '',
            package=type(loss).__module__.split('.')[0] if key else '',
            target=_yolox_target(model, name) or (own[-1].target if own else ''),
            reduction=getattr(loss, 'reduction', ''),
            weight=float(getattr(loss, 'loss_weight', 1)),
            value=value.item(),
            gradient=_gradient_norm(value, slopes, features),
            **_divisors(own, value.item()),
        )
        if found[name]['divisions'] == 0 and boxes < 2:
            # YOLOX divides by the number of positives, which is at least that of the boxes.
            found[name]['divisions'] = None
    return found


def _value(loss: Tensor | Sequence[Tensor]) -> Tensor:
    """The summand of mmengine's total loss."""
    return loss.mean() if isinstance(loss, Tensor) else sum(each.mean() for each in loss)


def _place(model: nn.Module, name: str) -> str:
    """Where the loss of this name is that was not called; empty if there is none or more than one."""
    places = [path for path, _ in _loss_modules(model) if path.rpartition('.')[2] == name]
    return places[0] if len(places) == 1 else ''


def _slopes(value: Tensor, calls: Sequence[Call]) -> dict[Call, Tensor]:
    """The calls of losses that a value depends on, each with the gradient of the value in its output.

    Following the graph is not enough: a head may divide all its losses in one operation, as mmext's YOLOXHead does.
    """
    calls = [call for call in calls if call.output.requires_grad]
    if not calls or not value.requires_grad:
        return {}
    slopes = torch.autograd.grad(value, [call.output for call in calls], retain_graph=True, allow_unused=True)
    return {call: slope for call, slope in zip(calls, slopes) if slope is not None and slope.any()}


def _gradient_norm(value: Tensor, slopes: Mapping[Call, Tensor], features: Sequence[Tensor]) -> float:
    """The norm of a value's gradient in the features, through its own calls alone if it has any."""
    if not value.requires_grad:
        return 0.0
    outputs, weights = ([call.output for call in slopes], list(slopes.values())) if slopes else ([value], None)
    gradients = torch.autograd.grad(outputs, features, weights, retain_graph=True, allow_unused=True)
    norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


@contextmanager
def _features(model: nn.Module) -> Iterator[list[Tensor]]:
    """The feature maps that the neck, or else the backbone, gives to the heads."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor | Sequence[Tensor]) -> None:
        found[:] = [output] if isinstance(output, Tensor) else output
        for each in found:
            # Those of a frozen backbone need none.
            each.requires_grad_()

    handle = (model.neck if getattr(model, 'with_neck', False) else model.backbone).register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _loss_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The losses below a model, by their paths; not the losses inside of losses."""
    for path, module in model.named_modules():
        parent, _, name = path.rpartition('.')
        if 'loss' in name and 'loss' not in parent:
            yield path, module


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Call]]:
    """The calls of all losses below the model."""
    calls: list[Call] = []
    # The copy is called with the same inputs: a loss may have state that a call changes.
    hooks = [
        module.register_forward_hook(partial(_record, calls, path, deepcopy(module)), with_kwargs=True)
        for path, module in _loss_modules(model)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _record(
    calls: list[Call], key: str, copy: nn.Module, loss: nn.Module, args: tuple, kwargs: dict, output: Tensor
) -> None:
    given = signature(copy.forward).bind(*args, **kwargs)
    pred, target, *_ = given.arguments.values()
    weight, avg_factor = given.arguments.get('weight'), given.arguments.pop('avg_factor', None)
    total = None
    if 'reduction_override' in signature(copy.forward).parameters:
        given.arguments['reduction_override'] = 'sum'
        with torch.no_grad():
            total = copy(*given.args, **given.kwargs).item()
    rows = len(pred) if weight is None else int((weight.reshape(len(weight), -1) > 0).any(1).sum())
    factor = None if avg_factor is None else float(avg_factor)
    calls.append(Call(key, output, total, factor, rows, _describe(loss, pred, target)))


def _describe(loss: nn.Module, pred: Tensor, target: Tensor | tuple) -> str:
    """What the target of a loss is, by its type and values."""
    if isinstance(target, tuple):
        return 'labels and scores'
    if not target.is_floating_point():
        return 'label'
    if pred.shape == target.shape and pred.shape[-1] == 4 and not hasattr(loss, 'use_sigmoid'):
        return 'boxes' if 'IoU' in type(loss).__name__ or 'NWD' in type(loss).__name__ else 'offsets'
    if ((target == 0) | (target == 1)).all():
        return 'one-hot' if target.shape[-1] > 1 else '0 or 1'
    return 'scores'


def _yolox_target(model: nn.Module, name: str) -> str | None:
    """The class or objectness target of a YOLOX head, as it is configured; mmdet's head has no choice."""
    head = yolox_head(model)
    if head is None:
        return None
    classes = dict(iou='one-hot x IoU', hard='one-hot', label='label')[getattr(head, 'cls_target', 'iou')]
    objectness = dict(iou='IoU', hard='0 or 1')[getattr(head, 'obj_target', 'hard')]
    return dict(loss_cls=classes, loss_obj=objectness).get(name)


def _divisors(calls: Sequence[Call], value: float) -> dict[str, float | int | None]:
    """By what the sum over the elements was divided on its way to the value, and how often."""
    unknown = dict(divisor=nan, own_divisor=nan, divisions=None)
    if not calls or not value or any(call.total is None for call in calls):
        return unknown
    total, output = sum(call.total for call in calls), sum(call.output.sum().item() for call in calls)
    if not output or not isfinite(total):
        return unknown
    # Where the loss returns one value for each element, the head reduces them.
    own = total / output if all(call.output.dim() == 0 for call in calls) else 1.0
    head = total / value / own
    divisions = (abs(own - 1) > TOLERANCE) + (abs(head - 1) > TOLERANCE)
    given = [call.avg_factor for call in calls if call.avg_factor is not None]
    if divisions == 2 and given and not any(abs(head / factor - 1) < TOLERANCE for factor in given):
        # The head divides by the factor that it gave to the loss, and what is left is a weight, such as a stage's.
        divisions = 1
    if divisions == 0 and (given or sum(call.rows for call in calls) < 2):
        # By 1.
        divisions = 1
    return dict(divisor=own * head, own_divisor=own, divisions=divisions)


def loss_findings(rows: Sequence[LossRow], when: str) -> list[Finding]:
    """What is wrong with the losses of a model.

    Args:
        rows: The losses.
        when: At which weights they were measured, in words.
    """
    return [finding for row in rows for finding in (*_division(row), *_contribution(row, when))]


def _division(row: LossRow) -> Iterator[Finding]:
    key = f'{row.key}.reduction'
    if row.divisions == 2:
        yield Finding(
            'error',
            key,
            f'it is {row.reduction!r}, and the loss is divided twice: by {row.own_divisor:.4g} in {row.kind}, and by '
            f'{row.divisor / row.own_divisor:.4g} in the head',
            "Set reduction='sum', so that the head alone divides",
        )
    if row.divisions == 0:
        yield Finding(
            'error',
            key,
            f'it is {row.reduction!r}, and neither {row.kind} nor the head divides: the loss grows with the number of '
            'boxes',
            "Set reduction='mean'",
        )


def _contribution(row: LossRow, when: str) -> Iterator[Finding]:
    key = row.key or row.name
    if row.weight == 0:
        yield Finding(
            'warning', f'{key}.loss_weight', 'it is 0: the loss is computed but not trained', 'Set it above 0'
        )
    elif not isfinite(row.value) or not isfinite(row.gradient):
        yield Finding(
            'error',
            key,
            f'{when} the value is {row.value:.4g} and the norm of its gradient {row.gradient:.4g}',
            'Lower the learning rate, train without --amp, and look for boxes without an area',
        )
    elif row.gradient == 0:
        yield Finding(
            'error',
            key,
            f'{when} its gradient is 0: the branch learns nothing',
            'Check that the batches have boxes, that the assigner finds positives, and that loss_weight is above 0',
        )
    elif min(row.share, row.gradient_share) < SMALL_SHARE:
        yield Finding(
            'warning',
            key,
            f'{when} it is {row.share:.2%} of the total loss and {row.gradient_share:.2%} of the gradient',
            'Check its reduction, or raise its loss_weight',
        )


def as_table(rows: Sequence[LossRow]) -> list[Mapping[str, str]]:
    """The rows as text, one mapping of titles to cells for each loss."""
    return [
        {
            'loss': row.name,
            'class': f'{row.package}.{row.kind}' if row.kind else 'in the head',
            'target': row.target or '-',
            'reduction': row.reduction or '-',
            'divided by': f'{row.divisor:.5g}' if isfinite(row.divisor) else '-',
            'weight': f'{row.weight:g}',
            'value': f'{row.value:.4g}',
            'share': f'{row.share:.1%}',
            'gradient': f'{row.gradient_share:.1%}',
        }
        for row in rows
    ]
