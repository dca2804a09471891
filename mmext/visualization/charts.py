"""Geometry of the charts: data to points of an SVG, which the template draws."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

BASELINE_COLOR = '#4a4f57'
# Told apart by those who see no red or green, and dark enough for thin lines on white.
COLORS = ('#0b6bb5', '#c2500a', '#0a8a66', '#a8447f', '#8a6d00', '#5b4bc4', '#b3261e', '#2f7f93', '#6b7a1f', '#7a5230')


@dataclass(frozen=True)
class Axis:
    """A linear axis from data to the points of an SVG.

    Attributes:
        low: The data at `start`.
        high: The data at `end`.
        start: The first point.
        end: The last point.
        ticks: The data to mark.
        signed: Whether the labels carry a sign.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    signed: bool = False

    @classmethod
    def around(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        ticks: int = 5,
        signed: bool = False,
        tight: bool = False,
    ) -> 'Axis':
        """The axis that holds all values, NaN apart, and ends on ticks, or with `tight` where the values end."""
        finite = [value for value in values if np.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if high - low < 1e-6:
            low, high = low - 0.005, high + 0.005
        marks = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if tight:
            marks = [mark for mark in marks if low <= mark <= high]
        else:
            low, high = marks[0], marks[-1]
        return cls(float(low), float(high), start, end, tuple(float(mark) for mark in marks), signed)

    def __call__(self, value: float) -> float:
        """The point of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def label(self, tick: float) -> str:
        """The text of a tick."""
        if abs(tick) < 1e-12:
            return '0'
        return _spelled(tick, '+' if self.signed else '').replace('-', '\N{MINUS SIGN}')


@dataclass(frozen=True)
class Line:
    """One line of a chart, with the band around it.

    Attributes:
        color: Its color.
        path: The `d` of an SVG path.
        band: The same of the band; empty without one.
        name: What it shows.
    """

    color: str
    path: str
    band: str
    name: str


@dataclass(frozen=True)
class Chart:
    """Lines over two axes; `series` has their data."""

    title: str
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    lines: list[Line]
    series: list['Series']
    width: int = 340
    height: int = 230


@dataclass(frozen=True)
class Series:
    """The data of one line.

    Attributes:
        name: What it shows.
        color: Its color.
        x: The x values, (n,).
        rows: The y values of each seed, (seeds, n).
    """

    name: str
    color: str
    x: Sequence[float]
    rows: ArrayLike

    @property
    def mean(self) -> np.ndarray:
        """Mean over the seeds, (n,)."""
        return np.mean(self.rows, 0)

    @property
    def spread(self) -> np.ndarray | None:
        """Standard deviation over the seeds, (n,); None of a single one."""
        return np.std(self.rows, 0, ddof=1) if len(self.rows) > 1 else None


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_values: Sequence[float] = (),
    y_values: Sequence[float] = (),
    bands: bool = True,
) -> Chart:
    """The mean of each series as a line, and one standard deviation around it as a band.

    Args:
        title: Title.
        series: The lines, drawn in this order.
        x_label: Label of the x-axis.
        y_label: Label of the y-axis.
        x_values: Values that the x-axis must hold, beside the data.
        y_values: The same of the y-axis.
        bands: Whether to draw bands.
    """
    ends = [value for line in series for value in _limits(line, bands)]
    y = Axis.around([*y_values, *ends], 192, 10)
    margin = max(44, 24 + 6 * max(len(y.label(tick)) for tick in y.ticks))
    x = Axis.around([*x_values, *(value for line in series for value in line.x)], margin, 332, tight=True)
    lines = [Line(line.color, _path(x, y, line.x, line.mean), _band(x, y, line, bands), line.name) for line in series]
    return Chart(title, x, y, x_label, y_label, lines, list(series))


def _spelled(value: float, sign: str) -> str:
    """A number in few characters: 0.25, 1,500, 20k, 1.5M."""
    for unit, name in ((1e6, 'M'), (1e4, 'k')):
        if abs(value) >= unit:
            return f'{value / (1e3 if name == "k" else unit):{sign}.4g}{name}'
    return f'{value:{sign},.0f}' if abs(value) >= 1000 else f'{value:{sign}.3g}'


def _limits(line: Series, bands: bool) -> list[float]:
    spread = line.spread if bands and line.spread is not None else 0
    return [*(line.mean - spread), *(line.mean + spread)]


def _path(x: Axis, y: Axis, across: Iterable[float], up: Iterable[float]) -> str:
    points = [f'{x(a):g},{y(b):g}' for a, b in zip(across, up) if np.isfinite(b)]
    # A line of no length is drawn as a dot, a single point not at all.
    points = points * 2 if len(points) == 1 else points
    return f'M{" L".join(points)}' if points else ''


def _band(x: Axis, y: Axis, line: Series, bands: bool) -> str:
    if not bands or line.spread is None:
        return ''
    across = [*line.x, *list(line.x)[::-1]]
    up = [*(line.mean + line.spread), *(line.mean - line.spread)[::-1]]
    return f'{_path(x, y, across, up)} Z'
