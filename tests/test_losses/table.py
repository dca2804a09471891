"""The table of all losses, derived from what `mmext.losses` exports.

A variant, a focus or a loss that mmext gains is a row here, and in the battery of tests, by being exported. `EXEMPT`
names the properties that a part lacks, with the reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import signature

import torch
from torch import Tensor

from mmext import losses
from mmext.losses import VARIANTS
from mmext.losses.base import BoxLoss, ElementwiseLoss, SigmoidLoss
from mmext.losses.focus import Focus
from mmext.losses.iou import KEYWORDS
from mmext.visualization.loss_curves import exported

ROWS, CLASSES = 6, 3
IMAGE_SIZE = (640, 480)


def function_of(kind: str):
    """The function with the formula of a class: `focal_loss` of `FocalLoss`."""
    (name,) = [name for name in losses.__all__ if name != kind and name.replace('_', '') == kind.lower()]
    return getattr(losses, name)


@dataclass(frozen=True)
class Loss:
    """A row: the class, its arguments, and the parts that its tests count for."""

    name: str
    kind: str
    parts: tuple[str, ...]
    arguments: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    def build(self, **arguments):
        """The loss in evaluation mode, with a running mean in the middle of ordinary losses."""
        loss = getattr(losses, self.kind)(**{'reduction': 'none', **self.arguments, **arguments}).eval()
        mean = getattr(getattr(loss, 'focus', None), 'mean', None)
        if mean is not None:
            mean.fill_(0.1)
        return loss

    def lacks(self, trait: str) -> str | None:
        """Why the loss lacks this property; None if it has it."""
        return next((EXEMPT[part, trait] for part in self.parts if (part, trait) in EXEMPT), None)


# Beside the defaults of each focus.
VERSIONS = [('WiseFocus', {'version': 1}), ('WiseFocus', {'version': 2})]
FOCUSES = {
    ' '.join([kind, *map(str, arguments.values())]): {'type': f'mmext.{kind}', **arguments}
    for kind, arguments in [*((kind, {}) for kind in exported(Focus)), *VERSIONS]
}
VALUES = {'scale': 1.0, 'image_size': IMAGE_SIZE}
VARIANT_KWARGS = {variant: {name: VALUES[name] for name in KEYWORDS[variant]} for variant in VARIANTS}
CHANGES = {
    '': {},
    'alpha 0.5': {'alpha': 0.5},
    'alpha 3': {'alpha': 3.0},
    'alpha 6': {'alpha': 6.0},
    'inner_ratio 0.7': {'inner_ratio': 0.7},
    'inner_ratio 1.3': {'inner_ratio': 1.3},
    'interval 0.1 0.95': {'interval': (0.1, 0.95)},
    **{name: {'focus': focus} for name, focus in FOCUSES.items()},
    'alpha 2 inner_ratio 0.8 interval 0 0.9 WiseFocus': {
        'alpha': 2.0, 'inner_ratio': 0.8, 'interval': (0.0, 0.9), 'focus': FOCUSES['WiseFocus']
    },
}  # fmt: skip


def parts(change: str, arguments: dict) -> tuple[str, ...]:
    """The parts that a change of arguments tests."""
    focus = max((name for name in FOCUSES if name in change), key=len, default=None)
    return (*(name for name in ('alpha', 'inner_ratio', 'interval') if name in arguments), *([focus] if focus else []))


EXEMPT = {
    ('interp', 'symmetric'): 'it interpolates towards the target',
    ('interp', 'monotone'): 'the lower the IoU, the closer its interpolated box is to the target',
    ('shape', 'symmetric'): "it is weighted by the target's sides",
    ('piou', 'symmetric'): "it measures in the target's sides",
    ('PIoUFocus', 'symmetric'): "it measures in the target's sides",
    ('mpdiou', 'scale'): 'it measures in the diagonal of the image, which does not follow the boxes',
    ('NWDLoss', 'scale'): 'its constant is a length',
    ('NWDLoss', 'second derivative'): 'its norm has none for identical boxes',
    ('FocalFocus', 'monotone'): 'it gives no weight to pairs without overlap',
    ('PIoUFocus', 'monotone'): 'it gives little weight to far pairs',
    ('WiseFocus', 'monotone'): 'it gives little weight to outliers',
}


def settings(kind: str) -> Iterator[tuple[str, dict]]:
    """Names and arguments of a class: its defaults, then each of its numbers and switches set to something else."""
    yield kind, {}
    for name, parameter in signature(getattr(losses, kind)).parameters.items():
        annotation, default = str(parameter.annotation), parameter.default
        if 'Sequence' in annotation and 'float' in annotation:
            yield f'{kind} {name} each', {name: [0.2, 0.5, 0.9]}
        if name in ('reduction', 'loss_weight') or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if isinstance(default, bool) and name != 'use_sigmoid':
            yield f'{kind} {name} {not default}', {name: not default}
        elif parameter.annotation is float or annotation.startswith('float |'):
            yield f'{kind} {name} 0.5', {name: 0.5}
            if 'Sequence' not in annotation and default != 0 and kind not in exported(BoxLoss):
                yield f'{kind} {name} 0', {name: 0.0}


BOX_LOSSES = [
    Loss(
        f'{variant} {change}'.strip(),
        'IoULoss',
        (variant, *parts(change, arguments)),
        {'variant': variant, **VARIANT_KWARGS[variant], **arguments},
    )
    for variant in VARIANTS
    for change, arguments in CHANGES.items()
] + [
    Loss(name, kind, (kind,), arguments)
    for kind in exported(BoxLoss)
    if kind != 'IoULoss'
    for name, arguments in settings(kind)
]

WEIGHTS = {'class_weight': [0.5, 1.0, 4.0]}
# Combinations that one change at a time does not reach.
COMBINED = [
    ('PolyFocalLoss', {'alpha': 0.25, 'epsilon': -1.0}),
    ('AsymmetricLoss', {'gamma_pos': 0.5, 'gamma_neg': 0.5, 'clip': 0.0}),
    ('AsymmetricLoss', {'gamma_pos': 0.0, 'gamma_neg': 0.0, 'clip': 0.2}),
]
SIGMOID = exported(SigmoidLoss)
SIGMOID_LOSSES = [
    *(Loss(name, kind, (kind,), arguments) for kind in exported(SigmoidLoss) for name, arguments in settings(kind)),
    *(Loss(f'{kind} class_weight', kind, (kind, 'class_weight'), WEIGHTS) for kind in SIGMOID),
    *(Loss(f'{kind} {arguments}', kind, (kind,), arguments) for kind, arguments in COMBINED),
]
SOFTMAX_LOSSES = [
    Loss(name, kind, (kind,), arguments)
    for kind in exported(ElementwiseLoss)
    if kind not in exported(BoxLoss) + SIGMOID
    for name, arguments in settings(kind)
]
LOSSES = BOX_LOSSES + SIGMOID_LOSSES + SOFTMAX_LOSSES


def inputs(loss: Loss, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Six rows of what the loss takes: boxes, logits and scores, or logits and labels."""
    generator = torch.Generator().manual_seed(0)
    if loss in BOX_LOSSES:
        boxes = torch.rand(2, ROWS, 4, generator=generator, dtype=torch.float64) * 10
        boxes[..., 2:] += boxes[..., :2] + 1
        return boxes[0].to(dtype), boxes[1].to(dtype)
    logit, target = torch.randn(2, ROWS, CLASSES, generator=generator, dtype=torch.float64)
    if loss in SOFTMAX_LOSSES:
        return logit.to(dtype), torch.tensor([0, 1, 2, 2, 1, 0])
    return logit.to(dtype), (target.sigmoid() * (target > 0)).to(dtype)


def logits_and_scores(dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Forty rows of logits and scores of three classes, half of the scores 0."""
    generator = torch.Generator().manual_seed(0)
    logit, score = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    return logit.mul(3).to(dtype), (score.sigmoid() * (score > 0)).to(dtype)


def value(function, logit: float, target: float, **arguments) -> float:
    """The loss of one logit."""
    logit = torch.tensor([[logit]], dtype=torch.float64)
    return function(logit, torch.tensor([[target]], dtype=torch.float64), **arguments).item()


def compare(ours, theirs, logit: Tensor, target: Tensor | tuple[Tensor, Tensor]) -> None:
    """Losses and gradients must be equal."""
    results = []
    for function in (ours, theirs):
        leaf = logit.clone().requires_grad_()
        loss = function(leaf, target)
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def per_row(loss: Loss) -> bool:
    """Whether the loss has one value for each row, not for each element."""
    return loss not in SIGMOID_LOSSES or getattr(losses, loss.kind).per_row
