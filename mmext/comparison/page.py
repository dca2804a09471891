"""The page of a comparison: one HTML file with everything in it."""

import base64
import datetime
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mmext.visualization import html
from mmext.visualization.charts import BASELINE_COLOR, COLORS, Axis, Chart, Series, chart
from mmext.visualization.confusion import Confusion, confusion_of

from .analysis import Analysis, count, join, p_value, seed_list, signed, spoken
from .matching import MATCH_IOU, RECALLS, GroundTruth, Matches, Outcome
from .results import Result
from .statistics import LEVEL, MIN_PAIRS, POWER, Difference, Interval

# More classes would be a page of small pictures: the CSV has them all.
MAX_CLASSES = 12
PICTURES = 2
PICTURE_SIDE = 480
# Boxes with a caption each; with more, only errors have one.
MAX_CAPTIONS = 8
# In the order of drawing.
KINDS = ('correct', 'missed', 'wrong class', 'false')
TALLY = {'no difference seen': 'with no difference seen', 'no verdict': 'without a verdict'}
SIZE_TITLES = {
    'APs': 'Small objects, under 32² px',
    'APm': 'Medium objects, 32² to 96² px',
    'APl': 'Large objects, over 96² px',
}


@dataclass(frozen=True)
class Row:
    """A run in a table of one metric."""

    name: str
    label: str
    color: str
    mean: float
    sd: float
    seeds: int
    planned: int
    difference: Difference | None


@dataclass(frozen=True)
class Panel:
    """One metric of all runs, with the axis of the differences."""

    title: str
    rows: list[Row]
    axis: Axis
    width: int


@dataclass(frozen=True)
class Photo:
    """A small copy of an image, in the size of the original."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """A box on a picture, in pixels of the original; `kind` is a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    caption: str

    @property
    def foot(self) -> bool:
        """Whether the caption is at the foot: that of a false box would cover that of the box beneath it."""
        return self.kind in ('false', 'wrong-class')


@dataclass(frozen=True)
class View:
    """The boxes of one run, or of the ground truth, on a picture."""

    title: str
    color: str
    boxes: list[Box]


@dataclass(frozen=True)
class Picture:
    """An image on which baseline and variant disagree; `font` is the size of its captions in its pixels."""

    key: str
    name: str
    width: int
    height: int
    font: float
    baseline_f1: float
    variant_f1: float
    agreeing_seeds: int
    views: list[View]


@dataclass(frozen=True)
class Gallery:
    """The images on which a variant differs most from the baseline."""

    label: str
    color: str
    seeds: int
    gains: list[Picture]
    losses: list[Picture]


def render(analysis: Analysis) -> str:
    """The page as HTML."""
    builder = _Page(analysis)
    return html.render(
        'comparison/report.html.jinja',
        dict(signed=signed, spoken=spoken, p_value=p_value, seed_list=seed_list),
        **builder.content(),
        level=LEVEL,
        power=POWER,
        min_pairs=MIN_PAIRS,
        match_iou=MATCH_IOU,
    )


class _Page:
    """What the template fills in."""

    def __init__(self, analysis: Analysis):
        self.analysis = analysis
        self.plan = analysis.results.plan
        colors = [BASELINE_COLOR, *(COLORS[i % len(COLORS)] for i in range(len(analysis.names)))]
        self.color = dict(zip(analysis.names, colors))
        self.photos: dict[str, Photo] = {}
        self.picture_problem: str | None = None

    def content(self) -> dict[str, object]:
        analysis = self.analysis
        galleries = self.galleries()
        return dict(
            analysis=analysis,
            plan=self.plan,
            color=self.color,
            legend=[(analysis.labels[name], self.color[name]) for name in analysis.names],
            main=self.panel('AP', 'AP', 6, 340),
            other=[self.panel(metric, metric) for metric in ('AP50', 'AP75') if metric in analysis.metrics],
            sizes=[self.panel(metric, title) for metric, title in SIZE_TITLES.items() if metric in analysis.metrics],
            classes=[self.panel(f'AP {name}', name) for name in self.classes if f'AP {name}' in analysis.metrics],
            hidden_classes=len(analysis.classes) - len(self.classes),
            learning=self.learning(),
            losses=self.losses(),
            pr_curves=self.pr_curves(),
            confusions=self.confusions(),
            thresholds=self.thresholds(),
            galleries=galleries,
            photos=self.photos,
            picture_problem=self.picture_problem,
            facts=self.facts(),
            headings=self.headings(),
            settled=self.settled(),
            commands=[
                (name, analysis.labels[name], self.color[name], analysis.command(name)) for name in analysis.names
            ],
        )

    @property
    def classes(self) -> list[str]:
        """The classes that are drawn: where there are many, those that differ most between baseline and best."""
        names = list(self.plan.classes)
        if len(names) <= MAX_CLASSES:
            return names
        by_class = {name: self.analysis.differences.get(f'AP {name}', {}).get(self.analysis.best) for name in names}
        size = {name: abs(item.mean) if item and item.values else -1 for name, item in by_class.items()}
        chosen = sorted(names, key=lambda name: -size[name])[:MAX_CLASSES]
        return [name for name in names if name in chosen]

    def headings(self) -> dict[str, str]:
        """What each section shows, in a few words."""
        analysis = self.analysis
        verdicts = [item.verdict for item in analysis.differences['AP'].values()]
        tally = [f'{verdicts.count(kind)} {TALLY.get(kind, kind)}' for kind in dict.fromkeys(verdicts)]
        sizes = {metric: title.split(',')[0].lower() for metric, title in SIZE_TITLES.items()}
        return dict(
            ap=f'AP: {join(tally)}' if tally else 'AP',
            classes=self.largest({f'AP {name}': name for name in analysis.classes}) or 'Each class',
            sizes=self.largest(sizes) or 'Object size',
            errors=self.misses() or 'Errors',
        )

    def largest(self, metrics: dict[str, str]) -> str | None:
        """Which of the metrics the best variant changes most."""
        best, differences = self.analysis.best, self.analysis.differences
        if best is None:
            return None
        change = {metric: differences[metric][best] for metric in metrics if metric in differences}
        change = {metric: item.mean for metric, item in change.items() if item.values}
        if not change:
            return None
        metric = max(change, key=lambda metric: abs(change[metric]))
        return f'{self.analysis.labels[best]} changes {metrics[metric]} most: {signed(change[metric])} AP'

    def misses(self) -> str | None:
        """The share of objects that baseline and best variant do not find, whatever the class."""
        parts = []
        for name in (self.analysis.baseline, self.analysis.best):
            if name in self.analysis.matches:
                counts = np.sum([matched.confusion() for matched in self.analysis.matches[name].values()], 0)[:-1]
                parts.append(f'{self.analysis.labels[name]} {100 * counts[:, -1].sum() / max(counts.sum(), 1):.0f} %')
        return f'Objects missed: {", ".join(parts)}' if parts else None

    def settled(self) -> str:
        """How far the mean AP of each run moved over the last tenth of the epochs."""
        parts = []
        for name in self.analysis.names:
            series = self.series(name, 'val', 'AP')
            before = [i for i, epoch in enumerate(series.x) if epoch <= 0.9 * series.x[-1]] if series else []
            if before:
                parts.append(f'{self.analysis.labels[name]} {signed(series.mean[-1] - series.mean[before[-1]])}')
        return ', '.join(parts)

    def panel(self, metric: str, title: str, ticks: int = 2, width: int = 170) -> Panel:
        analysis = self.analysis
        rows = []
        for name in analysis.names:
            summary = analysis.summaries[metric][name]
            difference = analysis.differences[metric].get(name)
            label, color = analysis.labels[name], self.color[name]
            seeds, planned = len(summary.values), len(self.plan.runs[name].seeds)
            rows.append(Row(name, label, color, summary.mean, summary.sd, seeds, planned, difference))
        axis = Axis.around([0.0, *_ends(analysis.differences[metric].values())], 20, width - 20, ticks, signed=True)
        return Panel(title, rows, axis, width)

    def learning(self) -> list[tuple[str, Chart]]:
        """AP over the epochs: a chart for each variant, beside the baseline."""
        curves = {name: self.series(name, 'val', 'AP') for name in self.analysis.names}
        tops = [0.0, *(float(np.max(series.rows)) for series in curves.values() if series)]
        baseline = curves[self.analysis.baseline] if self.plan.variants else None
        return [
            (name, chart(self.analysis.labels[name], [*filter(None, [baseline, series])], 'epoch', 'AP', [0], tops))
            for name in self.plan.variants or self.analysis.names
            if (series := curves[name])
        ]

    def losses(self) -> list[tuple[str, Chart]]:
        """The training loss over the epochs, each run for itself."""
        return [
            (name, chart(self.analysis.labels[name], [series], 'epoch', 'loss', [0], [0]))
            for name in self.analysis.names
            if (series := self.series(name, 'train', 'loss'))
        ]

    def series(self, name: str, part: str, key: str) -> Series | None:
        """A curve of a run over the epochs that all its seeds have."""
        runs = self.analysis.results.runs[name].values()
        curves = [
            {point['epoch']: point[key] for point in run.curve.get(part, []) if _is_number(point, key)} for run in runs
        ]
        epochs = sorted(set.intersection(*map(set, curves))) if curves else []
        if not epochs:
            return None
        # A screen has no more points.
        epochs = epochs[:: -(-len(epochs) // 150)]
        rows = [[curve[epoch] for epoch in epochs] for curve in curves]
        return Series(self.analysis.labels[name], self.color[name], epochs, rows)

    def pr_curves(self) -> list[Chart]:
        """Precision over recall at IoU 0.5: a chart for each class, a line for each run."""
        charts = []
        for name in self.classes if self.analysis.matches else []:
            label = self.plan.classes.index(name)
            series = []
            for run, by_seed in self.analysis.matches.items():
                rows = [matched.precision[label] for matched in by_seed.values()]
                if np.isfinite(rows).all():
                    series.append(Series(self.analysis.labels[run], self.color[run], RECALLS, rows))
            if series:
                charts.append(chart(name, series, 'recall', 'precision', [0, 1], [0, 1], bands=False))
        return charts

    def confusions(self) -> list[Confusion]:
        names = [self.analysis.baseline, self.analysis.best]
        return [self.confusion(name) for name in names if name in self.analysis.matches]

    def confusion(self, name: str) -> Confusion:
        counts = [matched.confusion() for matched in self.analysis.matches[name].values()]
        title = f'{self.analysis.labels[name]}, mean of {count(len(counts), "seed")}'
        return confusion_of(title, self.color[name], counts, self.plan.classes, self.classes)

    def thresholds(self) -> str:
        """The score thresholds of the confusion matrices and pictures."""
        parts = []
        for name, by_seed in self.analysis.matches.items():
            values = [matched.best_threshold for matched in by_seed.values()]
            low, high = min(values), max(values)
            parts.append(f'{self.analysis.labels[name]} {low:.2f}' + (f' to {high:.2f}' if high > low else ''))
        return ', '.join(parts)

    def galleries(self) -> list[Gallery]:
        """Of each variant, the best first, the images on which it gains and loses most."""
        analysis = self.analysis
        names = [name for name in self.plan.variants if name in analysis.matches]
        names.sort(key=lambda name: name != analysis.best)
        if analysis.baseline not in analysis.matches:
            return []
        return [gallery for name in names if (gallery := self.gallery(name))]

    def gallery(self, name: str) -> Gallery | None:
        baseline, variant = self.analysis.matches[self.analysis.baseline], self.analysis.matches[name]
        seeds = sorted(set(baseline) & set(variant))
        if not seeds:
            return None
        f1 = np.array([[matches[seed].f1() for seed in seeds] for matches in (baseline, variant)])
        gain = (f1[1] - f1[0]).mean(0)
        order = np.argsort(-gain, kind='stable')
        chosen = [
            [position for position in positions[:PICTURES] if sign * gain[position] > 0]
            for sign, positions in ((1, order), (-1, order[::-1]))
        ]
        gains, losses = ([self.picture(name, seeds, f1[:, :, p], int(p)) for p in group] for group in chosen)
        gains, losses = ([picture for picture in group if picture] for group in (gains, losses))
        return Gallery(self.analysis.labels[name], self.color[name], len(seeds), gains, losses)

    def picture(self, name: str, seeds: list[int], f1: np.ndarray, position: int) -> Picture | None:
        """The picture of one image; f1 is that of baseline and variant with each seed, (2, seeds)."""
        analysis = self.analysis
        baseline, variant = analysis.matches[analysis.baseline], analysis.matches[name]
        truth = next(iter(baseline.values())).truth
        image = truth.images[position]
        record = truth.coco.imgs[image]
        size = (record['width'], record['height'])
        key = f'photo-{position}'
        if key not in self.photos:
            path = Path(self.plan.images, record['file_name'])
            try:
                self.photos[key] = Photo(_jpeg(path), *size)
            except OSError as error:
                self.picture_problem = f'Images are missing, the first is {path} ({type(error).__name__}).'
                return None
        difference = f1[1] - f1[0]
        mean = difference.mean()
        agree = difference * mean > 0
        typical = seeds[int(np.argmin(np.where(agree, abs(difference - mean), np.inf)))]
        views = [
            View('ground truth', '#111', self.boxes(self.objects(truth, image), 'truth')),
            self.view(analysis.baseline, typical, baseline[typical], image),
            self.view(name, typical, variant[typical], image),
        ]
        file = Path(record['file_name']).name
        return Picture(key, file, *size, round(max(size) / 30, 1), *f1.mean(1).tolist(), int(agree.sum()), views)

    def objects(self, truth: GroundTruth, image: int) -> list[Outcome]:
        things = [thing for thing in truth.objects(image) if not thing.get('iscrowd')]
        return [Outcome(tuple(thing['bbox']), truth.label[thing['category_id']]) for thing in things]

    def view(self, name: str, seed: int, matched: Matches, image: int) -> View:
        return View(f'{self.analysis.labels[name]}, seed {seed}', self.color[name], self.boxes(matched.outcomes[image]))

    def boxes(self, outcomes: Sequence[Outcome], kind: str | None = None) -> list[Box]:
        """The boxes to draw, errors on top, with captions where there is room or an error."""
        few = len(outcomes) <= MAX_CAPTIONS
        ordered = sorted(outcomes, key=lambda outcome: KINDS.index(outcome.kind))
        boxes = []
        for outcome in ordered:
            name = self.plan.classes[outcome.truth if outcome.label is None else outcome.label]
            score = '' if outcome.score is None else f' {outcome.score:.2f}'
            named = few or (kind is None and outcome.kind in ('wrong class', 'false'))
            size = [round(value, 1) for value in outcome.box]
            title = f'{name}{score}, {kind or outcome.kind}'
            boxes.append(Box(*size, kind or outcome.kind.replace(' ', '-'), title, name if named else ''))
        return boxes

    def facts(self) -> list[tuple[str, str]]:
        """What the runs were trained on and with."""
        runs = self.analysis.results.all_runs
        hours = sum(run.record.get('seconds') or 0 for run in runs) / 3600
        planned = sum(len(run.seeds) for run in self.plan.runs.values())
        facts = [
            ('runs', f'{len(runs)} of {planned} finished, {hours:.1f} hours of training'),
            ('epochs', _values(runs, lambda run: run.record.get('epochs'))),
            ('device', _values(runs, lambda run: run.record.get('device'))),
            ('annotations', self.plan.annotations),
            *(
                (package, _values(runs, lambda run, package=package: run.record.get('versions', {}).get(package)))
                for package in runs[0].record.get('versions', {})
            ),
            *(
                (f'hash of {kind}', _values(runs, lambda run, kind=kind: run.record['hashes'].get(kind)))
                for kind in ('data', 'code')
            ),
            ('report drawn', datetime.date.today().isoformat()),
        ]
        truth = self.truth
        if truth:
            annotations = [thing for image in truth.images for thing in truth.objects(image)]
            objects = [
                sum(truth.label[thing['category_id']] == label for thing in annotations)
                for label in range(len(truth.classes))
            ]
            named = [f'{number} {name}' for name, number in zip(truth.classes, objects) if name in self.classes]
            facts.insert(3, ('validation data', f'{count(len(truth.images), "image")}: {join(named)}'))
        return facts

    @property
    def truth(self) -> GroundTruth | None:
        return next((matched.truth for by_seed in self.analysis.matches.values() for matched in by_seed.values()), None)


def _values(runs: Sequence[Result], of) -> str:
    return ', '.join(dict.fromkeys(str(of(run)) for run in runs))


def _is_number(point: dict, key: str) -> bool:
    return isinstance(point.get(key), (int, float)) and np.isfinite(point[key])


def _ends(differences) -> list[float]:
    intervals: list[Interval] = [
        interval for item in differences for interval in (item.interval, item.images) if interval
    ]
    values = [value for item in differences for value in item.values.values()]
    return [*values, *(end for interval in intervals for end in (interval.low, interval.high))]


@cache
def _jpeg(path: Path) -> str:
    """A small copy of an image as a data URI.

    Raises:
        OSError: If there is no such image.
    """
    with Image.open(path) as image:
        small = image.convert('RGB')
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = io.BytesIO()
    small.save(data, 'JPEG', quality=78, optimize=True)
    return f'data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}'
