"""The charts of a page as PNG."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .charts import Chart
from .confusion import Confusion

if TYPE_CHECKING:
    from .run_plots import LabelCounts

COLUMNS = 3
DPI = 130


def save_charts(charts: Sequence[Chart], out_file: Path) -> Path:
    """Write charts side by side, at most three in a row; returns the path."""
    figure, panels = _grid(len(charts), 4.2, 3.2)
    for axes, chart in zip(panels, charts):
        for series in chart.series:
            marker = 'o' if len(series.x) == 1 else None
            axes.plot(series.x, series.mean, color=series.color, label=series.name, linewidth=1.5, marker=marker)
        axes.set(
            xlabel=chart.x_label,
            ylabel='' if chart.y_label == chart.title else chart.y_label,
            xlim=(chart.x.low, chart.x.high),
            ylim=(chart.y.low, chart.y.high),
        )
        axes.set_title(fill(chart.title, 44), fontsize='medium')
        axes.grid(alpha=0.3)
    _add_legend(figure, panels)
    return _save(figure, out_file)


def save_confusions(confusions: Sequence[Confusion], out_file: Path) -> Path:
    """Write confusion matrices side by side: the share of the true class, and the number of boxes; returns the path."""
    side = 1.6 + 0.8 * max(len(confusion.names) for confusion in confusions)
    figure, panels = _grid(len(confusions), side + 0.6, side)
    for axes, confusion in zip(panels, confusions):
        shares = np.array([[cell.share for cell in row.cells] for row in confusion.rows])
        counts = np.array([[cell.count for cell in row.cells] for row in confusion.rows])
        columns = [*confusion.names, 'missed']
        # Detections where no object is have no share.
        shown = np.vstack([shares, np.zeros(len(columns))])
        axes.imshow(shown, cmap='Blues', vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            text = f'{share:.0%}\n{counts[row, column]:.{confusion.digits}f}'
            axes.text(column, row, text, ha='center', va='center', color='white' if share > 0.55 else 'black')
        for column, count in enumerate(confusion.false):
            axes.text(column, len(shares), f'{count:.{confusion.digits}f}', ha='center', va='center', color='dimgray')
        axes.set_xticks(range(len(columns)), columns, rotation=30, ha='right')
        axes.set_yticks(range(len(shown)), [*(row.name for row in confusion.rows), 'no object'])
        axes.set(xlabel='found', ylabel='true')
        axes.set_title(fill(confusion.title, 34), fontsize='medium')
    return _save(figure, out_file)


def save_labels(labels: Sequence['LabelCounts'], out_file: Path) -> Path:
    """Write the shares of the classes as bars, one for each set of data, with the counts; returns the path."""
    height = 1.2 + 0.45 * max(len(each.classes) * len(each.counts) for each in labels)
    figure, panels = _grid(len(labels), 5.2, height)
    for axes, each in zip(panels, labels):
        width = 0.8 / len(each.counts)
        for number, (part, counts) in enumerate(each.counts.items()):
            places = np.arange(len(each.classes)) + (number - (len(each.counts) - 1) / 2) * width
            bars = axes.barh(places, [each.share(part, name) for name in each.classes], width * 0.9, label=part)
            axes.bar_label(bars, [f'{counts.get(name, 0):,}' for name in each.classes], padding=3, fontsize='small')
        axes.set_yticks(range(len(each.classes)), each.classes)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set(xlabel='share of the objects')
        axes.set_title(fill(', '.join(each.runs), 60), fontsize='medium')
        axes.legend(fontsize='small')
    return _save(figure, out_file)


def _grid(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with this number of panels of a size in inches."""
    columns = min(number, COLUMNS)
    rows = -(-number // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout='constrained')
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels[:number]


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels: a name has the same color in each."""
    lines = {line.get_label(): line for axes in panels for line in axes.lines}
    figure.legend(handles=list(lines.values()), loc='outside lower center', ncols=min(len(lines), 4), fontsize='small')


def _save(figure: Figure, out_file: Path) -> Path:
    figure.savefig(out_file, dpi=DPI)
    return out_file
