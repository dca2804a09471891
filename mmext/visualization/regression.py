r"""The regression experiment of the DIoU paper: boxes that descend the gradient of a loss towards their targets.

Anchors of 7 areas and 7 aspect ratios lie at points spread uniformly over a disc, around targets of 7 aspect ratios and
area 1 at its center. Every anchor is paired with every target. Step t moves all four coordinates of a box
:math:`B = (x, y, w, h)`, the center and the sides:

.. math:: B_t = B_{t-1} - \eta_t\, (2 - \mathrm{IoU}_{t-1})\, \nabla_B L(B_{t-1}, B^*)

The gradient is that of mmext's losses, by autograd. The error of a case is the L1 distance :math:`|B_t - B^*|_1`.

The paper's order of GIoU and DIoU depends on a fault of the authors' program: in the x and y derivatives of DIoU's
penalty :math:`\rho^2 / c^2`, the term of :math:`c^2` has the wrong sign, so boxes move faster than the loss makes them.
With the true gradient, GIoU is ahead of DIoU at first and ends closer to the target; with that sign, DIoU is ahead
throughout, as in the paper. The program also doubles the derivatives of the IoU with respect to w and h, and takes its
points at random.

Source: Zheng et al., `DIoU <https://arxiv.org/abs/1911.08287>`_, section 3 and algorithm 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from mmext import losses
from mmext.losses.box_pair import BoxPair
from mmext.losses.focus import Focus
from mmext.losses.iou import takes_image_size

from .loss_curves import FOCUSED_VARIANTS, SETTINGS, exported

CENTER = (10.0, 10.0)
RADIUS = 3.0
AREAS = (0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0)
ASPECTS = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)
"""Width over height, of anchors and of targets."""
CASES = len(ASPECTS) * len(AREAS) * len(ASPECTS)
"""The number of regression cases at each point: targets times anchors."""
ITERATIONS = 200
LEARNING_RATE = 0.1
POINTS = 5000
"""The number of points in the paper."""
ALPHAS = (0.5, 1.0, 2.0, 3.0)
# Of the variants that need an image size: twice the coordinates of the center.
IMAGE_SIZE = (20.0, 20.0)
# Points whose cases descend at once: their tensors fit into a core's cache.
CHUNK = 50


@dataclass(frozen=True)
class Setting:
    """A loss to simulate: a variant of :class:`IoULoss` with a power and a focus."""

    variant: str
    alpha: float = 1.0
    focus: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Such as `ciou`, `ciou alpha 2` or `eiou FocalFocus gamma 0.5`."""
        arguments = {**({} if self.alpha == 1 else {'alpha': f'{self.alpha:g}'}), **self.focus}
        kind = str(arguments.pop('type', '')).removeprefix('mmext.')
        return ' '.join([self.variant, *filter(None, [kind]), *(f'{key} {value}' for key, value in arguments.items())])

    def loss(self) -> losses.IoULoss:
        """The loss, without reduction."""
        size = {'image_size': IMAGE_SIZE} if takes_image_size(self.variant) else {}
        focus = dict(self.focus) or None
        return losses.IoULoss(self.variant, alpha=self.alpha, focus=focus, reduction='none', **size)


@dataclass(frozen=True)
class Descent:
    """The errors of one setting.

    Attributes:
        errors: The error after each iteration, averaged over all cases, (iterations + 1,); the first is that of the
            anchors.
        final: The error after the last iteration at each point, averaged over its cases, (points,).
    """

    errors: np.ndarray
    final: np.ndarray


def all_settings() -> list[Setting]:
    """Each variant with each power, and each focus with its usual variant."""
    powers = [Setting(variant, alpha) for variant in losses.VARIANTS for alpha in ALPHAS]
    focuses = [
        Setting(FOCUSED_VARIANTS.get(name, 'iou'), focus=dict(type=f'mmext.{name}', **arguments))
        for name in exported(Focus)
        for arguments in SETTINGS.get(name, ({},))
    ]
    return powers + focuses


def spread_points(number: int) -> Tensor:
    """Points spread uniformly over the disc, (number, 2): a spiral at the golden angle.

    A part of them with a constant step is spread almost as evenly, and fewer points are needed than at random.
    """
    index = torch.arange(number, dtype=torch.float64)
    radius = RADIUS * ((index + 0.5) / number).sqrt()
    angle = index * math.pi * (3 - math.sqrt(5))
    return torch.tensor(CENTER) + torch.stack([radius * angle.cos(), radius * angle.sin()], -1).float()


def cases_at(points: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors and targets (x, y, w, h) of all cases, (points * CASES, 4) each, point by point."""
    aspect = torch.tensor(ASPECTS)
    shapes = torch.stack([aspect.sqrt(), aspect.rsqrt()], -1)
    sizes = (torch.tensor(AREAS).sqrt()[:, None, None] * shapes).reshape(-1, 2)
    point, target, size = torch.meshgrid(
        *(torch.arange(len(group)) for group in (points, shapes, sizes)), indexing='ij'
    )
    anchors = torch.cat([points[point.reshape(-1)], sizes[size.reshape(-1)]], -1)
    targets = torch.cat([torch.tensor(CENTER).expand(len(anchors), 2), shapes[target.reshape(-1)]], -1)
    return anchors, targets


def corners(boxes: Tensor) -> Tensor:
    """(x, y, w, h) to (x1, y1, x2, y2)."""
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], -1)


def learning_rate(iteration: int, iterations: int = ITERATIONS) -> float:
    """The learning rate of an iteration, counted from 0: a tenth from 80 % on, a hundredth from 90 % on."""
    return LEARNING_RATE * (1.0 if iteration < 0.8 * iterations else 0.1 if iteration < 0.9 * iterations else 0.01)


def step(loss: Callable[[Tensor, Tensor], Tensor], boxes: Tensor, targets: Tensor, rate: float) -> Tensor:
    """One step of gradient descent.

    Args:
        loss: The loss of each pair of boxes (x1, y1, x2, y2).
        boxes: (x, y, w, h), (n, 4).
        targets: The same of the targets, as corners (x1, y1, x2, y2).
        rate: The learning rate, before its factor 2 - IoU.

    Returns:
        The boxes after the step, (n, 4).
    """
    leaf = boxes.detach().requires_grad_()
    pred = corners(leaf)
    (gradient,) = torch.autograd.grad(loss(pred, targets).sum(), leaf)
    with torch.no_grad():
        iou = BoxPair(pred, targets).iou
        return boxes - rate * (2 - iou).unsqueeze(-1) * gradient


def simulate(setting: Setting, points: Tensor, iterations: int = ITERATIONS) -> Descent:
    """Let all cases at these points descend the gradient of a loss.

    Args:
        setting: The loss. A focus with a running mean has one for each chunk of points.
        points: Positions of the anchors, (n, 2).
        iterations: The number of steps.
    """
    total, final = np.zeros(iterations + 1), np.zeros(len(points))
    chunks = -(-len(points) // CHUNK)
    for start in range(chunks):
        errors = _descend(setting.loss(), points[start::chunks], iterations)
        total += errors.sum(1)
        final[start::chunks] = errors[-1]
    return Descent(total / len(points), final)


def _descend(loss: losses.IoULoss, points: Tensor, iterations: int) -> np.ndarray:
    """The mean error at each point after each iteration, (iterations + 1, points)."""
    boxes, targets = cases_at(points)
    target_corners = corners(targets)
    errors = [_error(boxes, targets, len(points))]
    for iteration in range(iterations):
        boxes = step(loss, boxes, target_corners, learning_rate(iteration, iterations))
        errors.append(_error(boxes, targets, len(points)))
    return torch.stack(errors).double().numpy()


def _error(boxes: Tensor, targets: Tensor, points: int) -> Tensor:
    return (boxes - targets).abs().sum(-1).reshape(points, -1).mean(-1)


def figures(descents: Mapping[Setting, Descent], points: Tensor) -> dict[str, Figure]:
    """The figures that these settings give, by name; each shows those of its kind.

    `regression_variants` has the error of each variant over the iterations, `regression_powers` that of each power,
    `regression_focuses` that of each focus, `regression_final` the final errors as a table, and `regression_positions`
    the final error over the position of the anchor.
    """
    plain = {setting: descent for setting, descent in descents.items() if not setting.focus}
    classical = {setting: descent for setting, descent in plain.items() if setting.alpha == 1}
    powers: dict[str, dict] = {}
    for setting, descent in plain.items():
        powers.setdefault(setting.variant, {})[f'alpha {setting.alpha:g}'] = descent
    drawn = {}
    if classical:
        panels = {'': {setting.variant: descent for setting, descent in classical.items()}}
        drawn['regression_variants'] = _curves(panels, 1)
        drawn['regression_positions'] = _positions(classical, points)
    if any(len(lines) > 1 for lines in powers.values()):
        drawn['regression_powers'] = _curves(powers, min(5, len(powers)))
        drawn['regression_final'] = _table(powers)
    focused: dict[str, dict] = {}
    for setting, descent in descents.items():
        if setting.focus:
            kind = str(setting.focus['type']).removeprefix('mmext.')
            base = Setting(setting.variant)
            lines = focused.setdefault(kind, {base.name: descents[base]} if base in descents else {})
            lines[setting.name.replace(f'{kind} ', '')] = descent
    if focused:
        drawn['regression_focuses'] = _curves(focused, len(focused))
    return drawn


def _curves(panels: Mapping[str, Mapping[str, Descent]], columns: int) -> Figure:
    """The error over the iterations: a panel for each name, a line for each setting in it."""
    rows = -(-len(panels) // columns)
    width = 7.5 if len(panels) == 1 else 3.1 * columns + 0.6
    figure = Figure(figsize=(width, 4.6 if rows == 1 else 2.9 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shared = len({tuple(lines) for lines in panels.values()}) == 1
    for axes, (title, lines) in zip(grid.flat, panels.items()):
        for number, (name, descent) in enumerate(lines.items()):
            axes.plot(descent.errors, label=name, linewidth=1.6, linestyle='-' if number < 10 else '--')
        axes.set(title=title, yscale='log')
        axes.grid(alpha=0.3)
        if not shared:
            axes.legend(fontsize='small')
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if shared:
        figure.legend(handles=grid.flat[0].lines, loc='outside right upper')
    figure.supxlabel('iteration')
    figure.supylabel('mean error of a case (L1)')
    return figure


def _positions(descents: Mapping[Setting, Descent], points: Tensor) -> Figure:
    """The final error over the position of the anchor: a disc for each variant, on one scale."""
    columns = min(5, len(descents))
    rows = -(-len(descents) // columns)
    figure = Figure(figsize=(2.5 * columns + 1.2, 2.6 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    smallest = min(descent.final.min() for descent in descents.values())
    largest = max(descent.final.max() for descent in descents.values())
    norm = LogNorm(max(smallest, 1e-3), max(largest, 2e-3))
    colors = None
    for axes, (setting, descent) in zip(grid.flat, descents.items()):
        colors = axes.scatter(*points.T, c=descent.final, norm=norm, s=5500 / len(points), cmap='viridis')
        axes.set(title=setting.variant, aspect='equal')
    for axes in grid.flat[len(descents) :]:
        axes.set_visible(False)
    figure.colorbar(colors, ax=grid, label='final error (L1)', shrink=0.8)
    figure.supxlabel("x of the anchor's center")
    figure.supylabel('y')
    return figure


def _table(powers: Mapping[str, Mapping[str, Descent]]) -> Figure:
    """The final error of each variant with each power."""
    columns = list(dict.fromkeys(name for lines in powers.values() for name in lines))
    values = np.array(
        [[lines[name].errors[-1] if name in lines else np.nan for name in columns] for lines in powers.values()]
    )
    figure = Figure(figsize=(1.35 * len(columns) + 1.8, 0.42 * len(powers) + 1.1), layout='constrained')
    axes: Axes = figure.subplots()
    norm = LogNorm(max(np.nanmin(values), 1e-3), max(np.nanmax(values), 2e-3))
    axes.imshow(values, norm=norm, cmap='viridis', aspect='auto')
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(powers)), list(powers))
    axes.xaxis.tick_top()
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = 'black' if norm(value) > 0.6 else 'white'
            axes.text(column, row, f'{value:.3f}', ha='center', va='center', color=color)
    axes.set_title('mean error of a case after the last iteration (L1)', fontsize='medium')
    return figure


def write_figures(descents: Mapping[Setting, Descent], points: Tensor, out_dir: Path) -> list[Path]:
    """Write :func:`figures` as PNG to a folder, which is made; returns their paths."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(descents, points).items():
        paths.append(out_dir / f'{name}.png')
        figure.savefig(paths[-1], dpi=110)
    return paths
