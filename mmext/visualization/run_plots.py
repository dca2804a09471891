"""Plots of one or more trainings: losses, metrics, learning rate; with detections, PR curves and confusion matrices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mmext.checkpoints import write_atomically
from mmext.comparison.matching import MATCH_IOU, RECALLS, Matches

from . import html
from .charts import COLORS, Chart, Series, chart
from .confusion import Confusion, confusion_of
from .figures import save_charts, save_confusions, save_labels
from .scalars import points_of
from .work_dir import TrainingRun

PAGE_FILE = 'plots.html'
# A screen shows no more.
MAX_POINTS = 300
# More classes would be a page of small pictures.
MAX_CLASSES = 12
# Names in the title.
MAX_TITLE = 3
MAIN_METRICS = ('AP', 'AP50', 'AP75')
SIZE_METRICS = ('APs', 'APm', 'APl')


@dataclass(frozen=True)
class Summary:
    """One line of the table of runs; NaN and None where there is no value.

    Attributes:
        name: The run.
        color: Its color.
        iterations: The last logged iteration.
        loss: The last logged loss.
        metrics: The metrics of the last evaluation.
        best: The best value of the first metric.
        best_step: The step of the evaluation that has it.
    """

    name: str
    color: str
    iterations: int | None
    loss: float
    metrics: Mapping[str, float]
    best: float
    best_step: int | None


@dataclass(frozen=True)
class LabelCounts:
    """The number of objects of each class in the data of some runs.

    Attributes:
        runs: The names of the runs.
        counts: The number of objects by class, for each set of data such as `train`.
    """

    runs: list[str]
    counts: Mapping[str, Mapping[str, int]]

    @cached_property
    def classes(self) -> list[str]:
        """All classes."""
        return list(dict.fromkeys(name for counts in self.counts.values() for name in counts))

    def share(self, part: str, name: str) -> float:
        """The share of a class among the objects of a set."""
        return self.counts[part].get(name, 0) / max(sum(self.counts[part].values()), 1)


@dataclass(frozen=True)
class RunPlots:
    """Everything that is drawn of some runs.

    Attributes:
        runs: The runs, in the order of the legends.
        matches: The matched detections of the runs that have some, by name.
        labels: The label distributions.
        notes: What is missing, and what to do about it.
    """

    runs: Sequence[TrainingRun]
    matches: Mapping[str, Matches] = field(default_factory=dict)
    labels: Sequence[LabelCounts] = ()
    notes: Sequence[str] = ()

    @cached_property
    def color(self) -> dict[str, str]:
        """The color of each run."""
        return {run.name: COLORS[number % len(COLORS)] for number, run in enumerate(self.runs)}

    @cached_property
    def metric_names(self) -> list[str]:
        """The metrics that any run has, AP first."""
        names = dict.fromkeys(name for run in self.runs for point in run.evaluations for name in point)
        names.pop('step', None)
        first = [name for name in MAIN_METRICS if name in names]
        return [*first, *(name for name in names if name not in first)]

    @property
    def detail_names(self) -> list[str]:
        """The metrics of object sizes and of classes."""
        return [name for name in self.metric_names if name in SIZE_METRICS or name.startswith('AP ')]

    @cached_property
    def warnings(self) -> list[str]:
        """Where a loss is not finite."""
        found = []
        for run in self.runs:
            for name in ['loss', *run.loss_names]:
                steps = [step for step, value in points_of(run.losses, name) if not np.isfinite(value)]
                if steps:
                    more = f', nor at {len(steps) - 1} later records' if len(steps) > 1 else ''
                    found.append(f'{run.name}: {name} is not finite at iteration {steps[0]}{more}')
        return found

    @property
    def step(self) -> str:
        """What the evaluations are counted in."""
        return 'epoch' if all(run.by_epoch for run in self.runs if run.evaluations) else 'iteration'

    def summaries(self) -> list[Summary]:
        """A line for each run."""
        return [self._summary(run) for run in self.runs]

    def _summary(self, run: TrainingRun) -> Summary:
        first = self.metric_names[0] if self.metric_names else ''
        values = [(step, value) for step, value in points_of(run.evaluations, first) if np.isfinite(value)]
        best_step, best = max(values, key=lambda point: point[1], default=(None, np.nan))
        iterations, loss = points_of(run.losses, 'loss')[-1] if run.losses else (None, np.nan)
        last = max(run.evaluations, key=lambda point: point['step'], default={})
        metrics = {name: value for name, value in last.items() if name != 'step'}
        return Summary(run.name, self.color[run.name], iterations, loss, metrics, best, best_step)

    def metrics(self) -> list[Chart]:
        """AP, AP50 and AP75, or what else was evaluated, over the epochs."""
        return self._evaluation_charts([name for name in self.metric_names if name not in self.detail_names])

    def details(self) -> list[Chart]:
        """AP by object size and by class over the epochs."""
        return self._evaluation_charts(self.detail_names[: len(SIZE_METRICS) + MAX_CLASSES])

    def _evaluation_charts(self, names: Sequence[str]) -> list[Chart]:
        return [
            made
            for name in names
            if (made := self._over_runs(name, self.step, lambda run: run.evaluations, average=False))
        ]

    def losses(self) -> list[Chart]:
        """The sum of the losses, and each of them, over the iterations."""
        names = dict.fromkeys(name for run in self.runs for name in run.loss_names)
        return [
            made for name in ['loss', *names] if (made := self._over_runs(name, 'iteration', lambda run: run.losses))
        ]

    def learning_rate(self) -> list[Chart]:
        """The learning rate over the iterations."""
        made = self._over_runs('lr', 'iteration', lambda run: run.losses, 'learning rate')
        return [made] if made else []

    def _over_runs(
        self,
        key: str,
        x_label: str,
        records: Callable[[TrainingRun], list[dict]],
        title: str | None = None,
        average: bool = True,
    ) -> Chart | None:
        """A chart of one key, with a line for each run that logs it."""
        series = []
        for run in self.runs:
            points = points_of(records(run), key)
            if points:
                x, y = thin(points) if average else zip(*points, strict=True)
                series.append(Series(run.name, self.color[run.name], x, [y]))
        title = title or key
        return chart(title, series, x_label, title, [0], [0], bands=False) if series else None

    def shares(self) -> list[Chart]:
        """The share of each loss in their sum over the iterations: a chart for each run, a line for each loss."""
        return [made for run in self.runs if (made := self._share(run))]

    def _share(self, run: TrainingRun) -> Chart | None:
        columns = {name: thin(points_of(run.losses, name)) for name in run.loss_names}
        # A loss that is logged only at times has no share at the others.
        steps = {x for x, _ in columns.values()}
        if len(steps) != 1 or len(columns) < 2:
            return None
        (x,) = steps
        values = np.array([y for _, y in columns.values()], float)
        with np.errstate(divide='ignore', invalid='ignore'):
            rows = values / values.sum(0)
        color = self.loss_color
        series = [Series(name, color[name], x, [row]) for name, row in zip(columns, rows)]
        return chart(run.name, series, 'iteration', 'share of the loss', [0], [0, 1], bands=False)

    @cached_property
    def loss_color(self) -> dict[str, str]:
        """The color of each loss in the charts of shares."""
        names = dict.fromkeys(name for run in self.runs for name in run.loss_names)
        return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the detections that are drawn: of many, those with the most objects."""
        truths = {id(matched.truth): matched.truth for matched in self.matches.values()}.values()
        objects: dict[str, int] = {}
        for truth in truths:
            for category, name in zip(truth.categories, truth.classes):
                objects[name] = objects.get(name, 0) + len(truth.coco.getAnnIds(catIds=[category]))
        most = sorted(objects, key=lambda name: -objects[name])[:MAX_CLASSES]
        return [name for name in objects if name in most]

    @property
    def hidden_classes(self) -> int:
        """The number of classes that are not drawn."""
        return len({name for matched in self.matches.values() for name in matched.truth.classes}) - len(self.classes)

    def pr_curves(self) -> list[Chart]:
        """Precision over recall at IoU 0.5: a chart for each class, a line for each run."""
        charts = []
        for name in self.classes:
            series = []
            for run, matched in self.matches.items():
                if name in matched.truth.classes:
                    row = matched.precision[matched.truth.classes.index(name)]
                    if np.isfinite(row).all():
                        series.append(Series(run, self.color[run], RECALLS, [row]))
            if series:
                charts.append(chart(name, series, 'recall', 'precision', [0, 1], [0, 1], bands=False))
        return charts

    def confusions(self) -> list[Confusion]:
        """The confusion matrix of each run with detections."""
        return [
            confusion_of(
                f'{name}, score ≥ {matched.best_threshold:.2f}',
                self.color[name],
                [matched.confusion()],
                matched.truth.classes,
                [each for each in self.classes if each in matched.truth.classes],
            )
            for name, matched in self.matches.items()
        ]


def thin(points: Sequence[tuple[int, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The x and y values of at most :data:`MAX_POINTS` points: the means of that many groups of successive points."""
    if not points:
        return (), ()
    groups = np.array_split(np.array(points, float), min(len(points), MAX_POINTS))
    x, y = zip(*(group.mean(0).tolist() for group in groups), strict=True)
    return x, y


def write_plots(plots: RunPlots, out_dir: Path) -> list[Path]:
    """Write the page, `plots.html`, and each of its sections as a PNG.

    Args:
        plots: What to draw.
        out_dir: The folder for the files; it is made.

    Returns:
        The paths of the files, the page first.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    charts = {
        'metrics': plots.metrics() + plots.details(),
        'losses': plots.losses(),
        'loss_shares': plots.shares(),
        'learning_rate': plots.learning_rate(),
        'precision_recall': plots.pr_curves(),
    }
    pictures = [save_charts(made, out_dir / f'{name}.png') for name, made in charts.items() if made]
    if confusions := plots.confusions():
        pictures.append(save_confusions(confusions, out_dir / 'confusion_matrix.png'))
    if plots.labels:
        pictures.append(save_labels(plots.labels, out_dir / 'labels.png'))
    page = out_dir / PAGE_FILE
    write_atomically(page, render(plots).encode())
    return [page, *pictures]


def render(plots: RunPlots) -> str:
    """The page as HTML."""
    names = [run.name for run in plots.runs]
    return html.render(
        'visualization/plots.html.jinja',
        {'number': number, 'thousands': '{:,}'.format},
        plots=plots,
        title=', '.join(names) if len(names) <= MAX_TITLE else f'{len(names)} trainings',
        legend=list(plots.color.items()),
        loss_legend=list(plots.loss_color.items()),
        columns=[name for name in plots.metric_names if name not in plots.detail_names],
        match_iou=MATCH_IOU,
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number of a table; an en dash where there is none."""
    return '\N{EN DASH}' if value is None or np.isnan(value) else f'{value:.{digits}f}'
