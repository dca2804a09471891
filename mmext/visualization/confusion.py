"""A confusion matrix as a table of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cell:
    """One cell: the mean count over the seeds, and its share of the row."""

    count: float
    share: float
    color: str


@dataclass(frozen=True)
class ConfusionRow:
    """One true class."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of one or more seeds of a run.

    Attributes:
        title: What the heading says.
        color: The color of the run.
        names: The classes of the columns; one more column counts missed objects.
        rows: The true classes.
        false: The number of detections of each class where no object is.
        digits: The decimals of the counts.
    """

    title: str
    color: str
    names: list[str]
    rows: list[ConfusionRow]
    false: list[float]
    digits: int


def confusion_of(
    title: str, color: str, counts: Sequence[NDArray[np.int64]], classes: Sequence[str], shown: Sequence[str]
) -> Confusion:
    """The mean confusion matrix of the seeds of a run.

    Args:
        title: What the heading says.
        color: The color of the run, as `#rrggbb`.
        counts: Of each seed, (C + 1, C + 1): rows are true classes, columns predicted; the last is nothing.
        classes: The names of the C classes.
        shown: Those of them that are shown.
    """
    mean = np.mean(counts, 0)
    shares = mean / np.maximum(mean.sum(1, keepdims=True), 1e-9)
    labels = [list(classes).index(name) for name in shown]
    columns = (*labels, len(classes))
    rows = [
        ConfusionRow(
            classes[row],
            [Cell(mean[row, column], shares[row, column], tint(color, shares[row, column])) for column in columns],
        )
        for row in labels
    ]
    return Confusion(title, color, list(shown), rows, mean[-1, labels].tolist(), 0 if len(counts) == 1 else 1)


def tint(color: str, share: float) -> str:
    """The color, as opaque as the share is large."""
    return f'{color}{round(25 + share * 205):02x}'
