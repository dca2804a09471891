"""Curves of losses and AP."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .scalars import NAMES, points_of

AP_NAMES = {f'coco/{key}': name for key, name in NAMES.items()}


def plot_curves(records: Sequence[dict], out_file: Path) -> Path:
    """Draw the losses over the iterations and the AP over the epochs.

    Args:
        records: What mmengine's local backend logs: `step`, and `loss*` of a training step or `coco/*` of an
            evaluation. Of two records of one step, as a resumed run has them, the later counts.
        out_file: The PNG to write; its folder is made.

    Returns:
        `out_file`.
    """
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    _draw(losses, records, {key: key for record in records for key in record if key.startswith('loss')})
    losses.set(title='losses', xlabel='iteration', ylabel='loss', yscale='log')
    scores.set(title='evaluation', xlabel='epoch', ylabel='AP', ylim=(0, 1))
    _draw(scores, records, AP_NAMES)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_file, dpi=130)
    return out_file


def _draw(axes: Axes, records: Sequence[dict], names: dict[str, str]) -> None:
    for key, name in names.items():
        points = points_of(records, key)
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker='.', linewidth=1.5)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
