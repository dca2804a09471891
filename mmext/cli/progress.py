"""The progress of a loop: a bar on a terminal, else a line at each tenth."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmext.comparison.progress import duration

Item = TypeVar('Item')


def track(items: Iterable[Item], total: int, unit: str, console: Console | None = None) -> Iterator[Item]:
    """Yield the items, and show how many are done and how long the rest takes.

    Args:
        items: What to yield.
        total: How many there are.
        unit: What they are, in the plural.
        console: Where to write; None: the standard error, which leaves the standard output to results.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield from _with_lines(items, total, unit, console)
        return
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn('left'))
    with Progress(*columns, console=console) as progress:
        yield from progress.track(items, total=total)


def _with_lines(items: Iterable[Item], total: int, unit: str, console: Console) -> Iterator[Item]:
    start = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if number == total or number * 10 // total > (number - 1) * 10 // total:
            left = (time.monotonic() - start) / number * (total - number)
            console.print(f'{number} of {total} {unit}, {duration(left)} left', highlight=False, soft_wrap=True)
