"""Plot each loss beside its gradient, as computed by autograd."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmext import losses
from mmext.losses.base import BoxLoss, ElementwiseLoss, SigmoidLoss
from mmext.losses.focus import Focus

Curve = Callable[[Tensor], Tensor]
BoxFunction = Callable[[Tensor, Tensor], Tensor]

# The target box in pixels: small, so that losses that depend on the unit (NWD, MPDIoU) show their shape.
SIDE = 16.0
TARGET = torch.tensor([0, 0, SIDE, SIDE], dtype=torch.float64)
ALPHAS = (1, 2, 3)
SOFT_TARGET = 0.6
# Values for keywords that a variant requires.
REQUIRED = {'image_size': (416, 416)}
# The arguments of IoULoss that transform the IoU, each with the values to draw.
OVERLAPS = {'inner_ratio': (0.7, 1.3), 'interval': ((0.0, 0.95), (0.2, 0.8))}
# Arguments to draw, by class; a class that is not listed is drawn with its defaults.
SETTINGS = {
    'FocalFocus': (dict(gamma=0.5), dict(gamma=1.0)),
    'NWDLoss': (dict(constant=8.0), dict(constant=12.8), dict(constant=32.0)),
    'PIoUFocus': (dict(lam=1.1), dict(lam=1.3), dict(lam=1.7)),
    'WiseFocus': (dict(version=1), dict(version=2), dict(version=3)),
}
# The variant that a focus is drawn with; iou for those not listed.
FOCUSED_VARIANTS = {'FocalFocus': 'eiou', 'PIoUFocus': 'piou'}
# Of a focus that keeps one, as in a model that has trained for a while.
RUNNING_MEAN = 0.3


@dataclass(frozen=True)
class Sweep:
    """The quantity on the x-axis, and the predicted boxes for its values."""

    label: str
    variable: str
    low: float
    high: float
    predictions: Curve | None = None

    @property
    def points(self) -> Tensor:
        """The x values to evaluate, (800,)."""
        return torch.linspace(self.low, self.high, 800, dtype=torch.float64)


def _moved(offset: Tensor) -> Tensor:
    edge = torch.zeros_like(offset)
    return torch.stack([SIDE * offset, edge, SIDE * (offset + 1), edge + SIDE], -1)


def _widened(ratio: Tensor) -> Tensor:
    edge = torch.zeros_like(ratio)
    return torch.stack([SIDE / 2 * (1 - ratio), edge, SIDE / 2 * (1 + ratio), edge + SIDE], -1)


# Starts just above 0: identical boxes are a kink of most curves, where autograd returns the mean of both slopes.
MOVED = Sweep("offset along x / side, of a box of the target's size", '(offset / side)', 1e-3, 2.5, _moved)
WIDENED = Sweep("width / target's width, of a box with its center and height", '(width ratio)', 0.2, 3.0, _widened)
LOGITS = Sweep('logit', 'logit', -6.0, 6.0)


def curve_and_gradient(curve: Curve, points: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an elementwise function and its derivative (autograd).

    Args:
        curve: The function, (n,) -> (n,).
        points: The x values, (n,).

    Returns:
        Values and derivatives, (n,) each.
    """
    points = points.detach().clone().requires_grad_()
    values = curve(points)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), slopes


def exported(base: type) -> list[str]:
    """Names of the subclasses of `base` that :mod:`mmext.losses` exports."""
    found = {name: getattr(losses, name) for name in losses.__all__}
    return [name for name, item in found.items() if isinstance(item, type) and issubclass(item, base)]


def class_losses() -> list[str]:
    """Names of the losses for classification and objectness."""
    return [name for name in exported(ElementwiseLoss) if name not in exported(BoxLoss)]


def other_box_losses() -> list[str]:
    """Names of the box losses outside the IoU family."""
    return [name for name in exported(BoxLoss) if name != 'IoULoss']


def variant_keywords(variant: str) -> list[str]:
    """Names of the keywords that only this variant takes."""
    return list(signature(losses.VARIANTS[variant]).parameters)[1:]


def variant_loss(variant: str, **kwargs: object) -> BoxFunction:
    """`iou_loss` of a variant, with the keywords that it requires."""
    required = {name: REQUIRED[name] for name in variant_keywords(variant) if name in REQUIRED}
    return partial(losses.iou_loss, variant=variant, **required, **kwargs)


def on_boxes(loss: BoxFunction, sweep: Sweep) -> Curve:
    """A box loss as a function of the quantity on the x-axis."""

    def curve(points: Tensor) -> Tensor:
        pred = sweep.predictions(points)
        return loss(pred, TARGET.expand_as(pred))

    return curve


def _focused(name: str, variant: str, arguments: dict) -> BoxFunction:
    """`IoULoss` with this focus; a running mean is set to `RUNNING_MEAN`."""
    loss = losses.IoULoss(variant, focus=dict(type=f'mmext.{name}', **arguments), reduction='none').eval()
    for mean in loss.buffers():
        mean.fill_(RUNNING_MEAN)
    return loss


def _named(arguments: dict) -> str:
    return ', '.join(f'{name} {value}' for name, value in arguments.items()) or 'defaults'


def box_lines() -> dict[str, dict[str, BoxFunction]]:
    """The labeled lines of each box figure: all variants together, each variant, overlap, focus and other box loss."""
    figures = {'variants': {variant: variant_loss(variant) for variant in losses.VARIANTS}}
    for variant in losses.VARIANTS:
        figures[variant] = {f'alpha {alpha}': variant_loss(variant, alpha=alpha) for alpha in ALPHAS}
    for name, values in OVERLAPS.items():
        changed = {f'{name} {value}': variant_loss('iou', **{name: value}) for value in values}
        figures[name] = {'IoU': variant_loss('iou'), **changed}
    for name in exported(Focus):
        variant = FOCUSED_VARIANTS.get(name, 'iou')
        focused = {_named(given): _focused(name, variant, given) for given in SETTINGS.get(name, ({},))}
        figures[name] = {f'{variant} without focus': variant_loss(variant), **focused}
    for name in other_box_losses():
        make = partial(getattr(losses, name), reduction='none')
        figures[name] = {_named(given): make(**given) for given in SETTINGS.get(name, ({},))}
    return figures


def _class_curve(name: str, target: float) -> Curve:
    """A loss as a function of one logit; for a softmax, of the logit of class 1 where that of class 0 is 0."""
    loss = getattr(losses, name)(reduction='none')

    def curve(logit: Tensor) -> Tensor:
        if isinstance(loss, SigmoidLoss):
            return loss(logit.unsqueeze(-1), torch.full_like(logit, target).unsqueeze(-1)).reshape(-1)
        label = torch.full_like(logit, target, dtype=torch.long)
        return loss(torch.stack([torch.zeros_like(logit), logit], -1), label)

    return curve


def takes_scores(name: str) -> bool:
    """Whether the loss takes targets in [0, 1]; otherwise it takes integer labels only."""
    return issubclass(getattr(losses, name), SigmoidLoss)


def resting_point(name: str, target: float = SOFT_TARGET) -> float:
    """The p at which the gradient of a sigmoid loss with default arguments changes sign, for this target.

    Training comes to rest there. It is the minimum of the loss, unless the formula detaches something.
    """
    logits = torch.linspace(LOGITS.low, LOGITS.high, 20001, dtype=torch.float64)
    _, slopes = curve_and_gradient(_class_curve(name, target), logits)
    return logits[(slopes < 0).sum()].sigmoid().item()


def loss_figures() -> dict[str, Callable[[], Figure]]:
    """A function that draws each figure, by name: `'variants'`, a variant, an overlap's argument, or a class."""
    boxes = {name: partial(_box_figure, name, lines) for name, lines in box_lines().items()}
    return {**boxes, **{name: partial(_class_figure, name) for name in class_losses()}}


def plot_loss(name: str, out_file: Path) -> Path:
    """Draw a loss and its gradient side by side.

    Args:
        name: A key of :func:`loss_figures`.
        out_file: The PNG to write; its folder is created.

    Returns:
        `out_file`.
    """
    figure = loss_figures()[name]()
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_file, dpi=110)
    return out_file


def _box_figure(name: str, lines: dict[str, BoxFunction]) -> Figure:
    figure = Figure(figsize=(12, 7.2), layout='constrained')
    figure.suptitle(f'{name}, for a target of {SIDE:g} x {SIDE:g} px')
    for axes, sweep in zip(figure.subplots(2, 2), (MOVED, WIDENED)):
        _draw(axes, sweep, {label: on_boxes(loss, sweep) for label, loss in lines.items()})
    figure.legend(handles=figure.axes[0].lines, loc='outside right upper')
    return figure


def _class_figure(name: str) -> Figure:
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    figure.suptitle(name)
    axes = figure.subplots(1, 2)
    if takes_scores(name):
        rest = resting_point(name)
        labels = {1.0: 't = 1', 0.0: 't = 0', SOFT_TARGET: f't = {SOFT_TARGET}, gradient 0 at p = {rest:.2f}'}
        where = torch.tensor([rest], dtype=torch.float64).logit()
        axes[0].plot(where, _class_curve(name, SOFT_TARGET)(where), 'o', color='C2')
    else:
        labels = {1: 'label: this class', 0: 'label: the other class'}
    _draw(axes, LOGITS, {label: _class_curve(name, target) for target, label in labels.items()})
    axes[0].legend()
    for panel in axes:
        top = panel.secondary_xaxis('top', functions=(_sigmoid, _logit))
        top.set_xticks([0.01, 0.1, 0.5, 0.9, 0.99], labels=['0.01', '0.1', '0.5', '0.9', '0.99'])
        top.set_xlabel('p')
    return figure


def _draw(axes: tuple[Axes, Axes], sweep: Sweep, curves: dict[str, Curve]) -> None:
    left, right = axes
    for number, (label, curve) in enumerate(curves.items()):
        # Earlier lines are wider, so that equal curves do not hide each other.
        style = dict(label=label, linewidth=1.5 + 0.45 * (len(curves) - 1 - number))
        values, slopes = curve_and_gradient(curve, sweep.points)
        left.plot(sweep.points, values, **style)
        right.plot(sweep.points, slopes, **style)
    left.set(xlabel=sweep.label, ylabel='loss')
    right.set(xlabel=sweep.label, ylabel=f'gradient: d loss / d {sweep.variable}')
    for panel in axes:
        panel.grid(alpha=0.3)


def _sigmoid(logit: object) -> object:
    return torch.as_tensor(logit).sigmoid().numpy()


def _logit(probability: object) -> object:
    return torch.as_tensor(probability).clamp(1e-6, 1 - 1e-6).logit().numpy()
