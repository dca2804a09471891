"""The state of all runs while they train."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmext.visualization.scalars import parse

from .plan import Run


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        step: The iterations that are trained.
        epoch: The current epoch.
        ap: The AP of the last evaluation; None: not evaluated yet.
    """

    step: int = 0
    epoch: int = 0
    ap: float | None = None


def read_state(run: Run) -> State:
    """Read the state of a run from mmengine's records; a line that is half written counts when it is whole."""
    if run.result_file.is_file():
        result = json.loads(run.result_file.read_text())
        return State(epoch=result['epochs'], ap=result['metrics']['AP'])
    state = State()
    for file in sorted(run.work_dir.glob('*/vis_data/scalars.json'))[-1:]:
        for record in filter(None, map(parse, file.read_text(errors='replace').splitlines())):
            state = _updated(state, record)
    return state


def _updated(state: State, record: dict) -> State:
    if 'loss' in record:
        return State(record['step'], record.get('epoch', 0), state.ap)
    return State(state.step, state.epoch, record.get('coco/bbox_mAP', state.ap))


class Progress:
    """One display for all runs: a table that is kept up to date, or plain lines where the output is no terminal.

    Args:
        runs: All runs of the comparison.
        epochs: The epochs of a run.
        jobs: How many runs are trained at once.
        console: Where to write.
    """

    def __init__(self, runs: Sequence[Run], epochs: int, jobs: int, console: Console | None = None):
        self.runs = runs
        self.epochs = epochs
        self.jobs = jobs
        self.console = console or Console()
        self.states = {run: read_state(run) for run in runs}
        self.done = {run for run in runs if run.result_file.is_file()}
        self.started: dict[Run, tuple[float, int]] = {}
        self.seconds: list[float] = []
        self.failed = 0
        self.waiting: Sequence[Run] = ()
        self.active: Sequence[Run] = ()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> 'Progress':
        if self.live:
            self.live.start()
        self.say(f'{len(self.runs)} runs, of which {len(self.done)} are finished; {self.jobs} at once')
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        """Write a line, above the table if there is one."""
        self.console.print(f'{time.strftime("%H:%M:%S")} {line}', highlight=False, soft_wrap=True, markup=False)

    def look(self, waiting: Sequence[Run], active: Sequence[Run]) -> None:
        """Bring the display up to date with the runs that wait and those under way."""
        for run in active:
            state, before = read_state(run), self.states[run]
            if run not in self.started:
                self.started[run] = time.monotonic(), state.epoch
                self.say(f'{run}: started' + (f' again after epoch {state.epoch}' if state.epoch else ''))
            self.states[run] = state
            if not run.result_file.is_file() and state.ap not in (None, before.ap) and not self.live:
                self.say(f'{run}: epoch {state.epoch} of {self.epochs}, AP {state.ap:.3f}, {self.eta_text(run)} left')
        self.waiting, self.active = waiting, active
        if self.live:
            self.live.update(self.table(), refresh=True)

    def ended(self, run: Run, failure: str | None) -> None:
        """Report a run that has ended.

        Args:
            run: The run.
            failure: Why it failed; None: it is finished.
        """
        start, first = self.started.pop(run, (time.monotonic(), 0))
        if failure:
            self.failed += 1
            self.say(f'{run}: failed, {failure}; {self.whole()}')
            return
        self.done.add(run)
        self.states[run] = read_state(run)
        self.seconds.append((time.monotonic() - start) * self.epochs / max(1, self.epochs - first))
        self.say(f'{run}: AP {self.states[run].ap or 0:.3f}; {self.whole()}')

    def eta(self, run: Run) -> float | None:
        """The seconds that a run still needs; None: unknown."""
        start, first = self.started.get(run, (0.0, 0))
        trained = self.states[run].epoch - first
        if run not in self.started or trained < 1:
            return None
        return (time.monotonic() - start) / trained * (self.epochs - self.states[run].epoch)

    def eta_text(self, run: Run) -> str:
        """The time that a run still needs, in words."""
        seconds = self.eta(run)
        return '?' if seconds is None else duration(seconds)

    def rest(self) -> float | None:
        """The seconds until all runs are finished; None: unknown."""
        left = [self.eta(run) for run in self.active if run in self.started]
        known = [seconds for seconds in left if seconds is not None]
        if not self.seconds:
            return None
        each = sum(self.seconds) / len(self.seconds)
        return (sum(known) + each * (len(left) - len(known) + len(self.waiting))) / self.jobs

    def whole(self) -> str:
        """How much is finished, and how long the rest takes, in words."""
        left = self.rest()
        return (
            f'{len(self.done)} of {len(self.runs)} runs are finished'
            + (f', {self.failed} failed' if self.failed else '')
            + (f', {duration(left)} left' if left else '')
        )

    def table(self) -> Group:
        """The runs under way, then one line for each variant, then the whole."""
        running = Table('run', 'epoch', '', 'AP', 'left', box=None)
        for run in self.active:
            state = self.states[run]
            running.add_row(
                str(run),
                f'{state.epoch}/{self.epochs}',
                ProgressBar(self.epochs, state.epoch, width=24),
                '' if state.ap is None else f'{state.ap:.3f}',
                self.eta_text(run),
            )
        variants = Table('variant', 'finished', 'waiting', 'AP of each seed', box=None)
        for name in dict.fromkeys(run.name for run in self.runs):
            own = [run for run in self.runs if run.name == name]
            scores = ' '.join(f'{self.states[run].ap or 0:.3f}' for run in own if run in self.done)
            done, waiting = (sum(run in group for run in own) for group in (self.done, self.waiting))
            variants.add_row(name, str(done), str(waiting), scores)
        return Group(running, '', variants, '', Text(self.whole()))


def duration(seconds: float) -> str:
    """A duration as hours:minutes:seconds."""
    return str(timedelta(seconds=round(seconds)))
