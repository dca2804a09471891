"""Everything that the report says, computed once from the finished runs."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger

from mmext.errors import UserError

from .matching import SIZES, GroundTruth, Matches
from .results import Problem, Result, Results
from .statistics import (
    MIN_PAIRS,
    POWER,
    RESAMPLES,
    Difference,
    Interval,
    Summary,
    compare,
    image_interval,
    resample_images,
    summarize,
)

# AP in the file and AP of the detections: more than rounding, so not of the same annotations.
AP_TOLERANCE = 5e-4


@dataclass(frozen=True)
class Analysis:
    """What is known of a comparison.

    Attributes:
        results: The finished runs.
        metrics: The metrics that any run has, AP first.
        summaries: Mean and SD over the seeds by metric and run.
        differences: Variant minus baseline by metric and variant.
        matches: The matched detections of each run that has some, by name and seed.
        problems: What is left out or weakens the comparison, in the files and in the detections.
        absent: Why there are no matched detections; None if there are.
    """

    results: Results
    metrics: list[str]
    summaries: dict[str, dict[str, Summary]]
    differences: dict[str, dict[str, Difference]]
    matches: dict[str, dict[int, Matches]]
    problems: list[Problem]
    absent: str | None

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return self.results.plan.baseline

    @property
    def names(self) -> list[str]:
        """The names of all runs, the baseline first."""
        return self.results.plan.names

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short names."""
        return short_names(self.names, self.baseline)

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.results.plan.classes

    @cached_property
    def best(self) -> str | None:
        """The variant with the largest mean difference in AP; None without any pair."""
        differences = {name: item for name, item in self.differences['AP'].items() if item.values}
        return max(differences, key=lambda name: differences[name].mean, default=None)

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        verdicts = {name: difference.verdict for name, difference in self.differences['AP'].items()}
        better = [self.labels[name] for name, verdict in verdicts.items() if verdict == 'better']
        if better:
            return f'{join(better)} {"is" if len(better) == 1 else "are"} better than the baseline'
        if not verdicts:
            return 'Nothing to compare: the plan has the baseline alone'
        if all(verdict == 'no verdict' for verdict in verdicts.values()):
            return f'No verdict yet: it needs {MIN_PAIRS} seeds of both baseline and variant'
        if 'no verdict' in verdicts.values():
            return 'No variant is better than the baseline so far'
        return 'No variant is better than the baseline'

    def sentence(self, name: str, metric: str = 'AP') -> str:
        """The numbers behind the verdict on a variant, in words."""
        difference = self.differences[metric][name]
        pairs = len(difference.values)
        if not pairs:
            return 'No seed has finished both here and with the baseline.'
        if difference.verdict == 'no verdict':
            return (
                f'{metric} {signed(difference.mean)} over {count(pairs, "paired seed")}; a verdict needs {MIN_PAIRS}.'
            )
        variants = len(self.results.plan.variants)
        corrected = f' after correction for {variants} variants' if variants > 1 else ''
        seen = (
            f'{metric} {signed(difference.mean)}, 95 % interval {spoken(difference.interval)} '
            f'over {count(pairs, "paired seed")}, p {p_value(difference.p_holm)}{corrected}.'
        )
        if difference.verdict == 'no difference seen':
            smallest = f'{difference.smallest:.3f} with {100 * POWER:.0f} % probability'
            return f'{seen} {pairs} seeds find a difference of {smallest}.'
        if difference.images and 0 in difference.images:
            return f'{seen} Other images could reverse it: {spoken(difference.images)} over resampled images.'
        return seen

    def missing(self) -> list[str]:
        """The seeds without a result, finished or not, and what counts without them."""
        lines = []
        for name, seeds in self.results.missing.items():
            there = list(self.results.runs[name])
            counted = f'only {seed_list(there)} count' if there else 'it does not count'
            lines.append(f'{self.labels[name]} lacks {seed_list(seeds)}; {counted}')
        return lines

    def command(self, name: str) -> str:
        """The command that trains all seeds of a run beside the baseline's."""
        plan = self.results.plan
        baseline, run = plan.runs[plan.baseline], plan.runs[name]
        own = {key: value for key, value in run.options.items() if baseline.options.get(key, self) != value}
        words = ['mmext', 'compare', baseline.config]
        if own:
            words += ['--variant', name, *_assignments(own)]
        elif name != plan.baseline:
            words.append(run.config)
        words += ['--seeds', str(max(run.seeds) + 1), *(['--amp'] if plan.amp else [])]
        if baseline.options:
            words += ['--cfg-options', *_assignments(baseline.options)]
        return shlex.join(words)


def _assignments(options: Mapping[str, object]) -> list[str]:
    return [f'{key}={option(value)}' for key, value in options.items()]


def analyze(results: Results, resamples: int = RESAMPLES) -> Analysis:
    """Compute all statistics of the finished runs.

    Args:
        results: The finished runs.
        resamples: Number of bootstrap resamples of the images.

    Raises:
        ValueError: If no run has finished.
    """
    if not results.all_runs:
        named = ''.join(f'\n{problem}' for problem in results.problems)
        raise UserError(f'{results.folder} has no finished run: let `mmext compare` train first{named}')
    plan = results.plan
    known = ['AP', 'AP50', 'AP75', *SIZES, *(f'AP {name}' for name in plan.classes)]
    metrics = [metric for metric in known if any(results.scores(name, metric) for name in plan.runs)]
    matches, problems, absent = _match(results)
    samples = _resample(matches, resamples)
    scores = {metric: {name: results.scores(name, metric) for name in plan.runs} for metric in metrics}
    return Analysis(
        results,
        metrics,
        {metric: {name: summarize(values) for name, values in by_name.items()} for metric, by_name in scores.items()},
        {
            metric: compare(
                by_name[plan.baseline],
                {name: by_name[name] for name in plan.variants},
                _image_intervals(samples, plan.baseline, plan.variants, metric),
            )
            for metric, by_name in scores.items()
        },
        matches,
        [*results.problems, *problems],
        absent,
    )


def _match(results: Results) -> tuple[dict[str, dict[int, Matches]], list[Problem], str | None]:
    """Match the detections of all runs that have some; and what is wrong, and why there are none."""
    plan = results.plan
    runs = [run for run in results.all_runs if run.detections is not None]
    if not runs:
        return {}, [], 'The files have no detections: they are a record of the metrics alone.'
    path = Path(plan.annotations)
    if not path.is_file():
        return {}, [], f'The annotations {path} are not there: run this in the folder that the path is relative to.'
    try:
        truth = GroundTruth(path, plan.classes)
    except ValueError as error:
        return {}, [], f'The annotations do not serve: {error}.'
    logger = MMLogger.get_current_instance()
    logger.info('matching the detections of %d runs with %s', len(runs), path)
    matches: dict[str, dict[int, Matches]] = {}
    problems = []
    for run in runs:
        try:
            matched = Matches(truth, run.detections)
            _check_ap(run, matched)
        except ValueError as error:
            remedy = f'restore {path} as it was when the run was trained'
            problems.append(Problem(f'the detections of {run.path} are left out: {error}', remedy))
        else:
            matches.setdefault(run.name, {})[run.seed] = matched
    without = [run for run in results.all_runs if run.detections is None]
    if without:
        what = f'{count(len(without), "run")} without detections, the first {without[0].path}'
        problems.append(Problem(what, 'intervals over images, PR curves and pictures leave these out'))
    return matches, problems, None if matches else 'No detections match the annotations; see the notes above.'


def _check_ap(run: Result, matched: Matches) -> None:
    whole = np.ones((1, len(matched.truth.images)), np.int32)
    ap = matched.scores(whole)['AP'][0]
    if abs(ap - (run.metrics.get('AP') or 0)) > AP_TOLERANCE:
        raise ValueError(f'with the current annotations their AP is {ap:.4f}, and the file says {run.metrics["AP"]}')


def _resample(matches: dict[str, dict[int, Matches]], resamples: int) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """The metrics of each run on the same resamples of the images."""
    if not matches:
        return {}
    MMLogger.get_current_instance().info('resampling the images %d times', resamples)
    truth = next(iter(next(iter(matches.values())).values())).truth
    weights = resample_images(len(truth.images), resamples)
    return {
        name: {seed: matched.scores(weights) for seed, matched in by_seed.items()} for name, by_seed in matches.items()
    }


def _image_intervals(samples: dict, baseline: str, variants: Iterable[str], metric: str) -> dict[str, Interval]:
    of = {name: {seed: scores[metric] for seed, scores in by_seed.items()} for name, by_seed in samples.items()}
    if baseline not in of:
        return {}
    intervals = {name: image_interval(of[baseline], of[name]) for name in variants if name in of}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def short_names(names: Sequence[str], baseline: str) -> dict[str, str]:
    """For a name that is the baseline's with words inserted, between underscores, those words alone.

    >>> short_names(['yolox_nano_1xb8-60e_bccd', 'yolox_nano_ciou_1xb8-60e_bccd', 'x'], 'yolox_nano_1xb8-60e_bccd')
    {'yolox_nano_1xb8-60e_bccd': 'baseline', 'yolox_nano_ciou_1xb8-60e_bccd': 'ciou', 'x': 'x'}
    """
    short = {name: _inserted(name.split('_'), baseline.split('_')) or name for name in names}
    if all(name == label for name, label in short.items()):
        return short
    short[baseline] = 'baseline'
    return short if len({*short.values()}) == len(short) else {name: name for name in names}


def _inserted(words: Sequence[str], base: Sequence[str]) -> str:
    """The words that `words` has between those of `base`; empty if the others differ."""
    head = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(words, base))))
    tail = len(base) - head
    inserted = words[head : len(words) - tail]
    return '_'.join(inserted) if [*base[:head], *inserted, *base[head:]] == [*words] else ''


def option(value: object) -> str:
    """A value in the syntax of `--cfg-options`."""
    if isinstance(value, (list, tuple)):
        return f'[{",".join(option(item) for item in value)}]'
    return str(value)


def signed(value: float) -> str:
    r"""Three decimals with a sign; a true minus.

    >>> signed(0.0123), signed(-0.0123) == '\N{MINUS SIGN}0.012'
    ('+0.012', True)
    """
    return f'{value:+.3f}'.replace('-', '\N{MINUS SIGN}')


def spoken(interval: Interval | None) -> str:
    """An interval in words; empty without one."""
    return f'{signed(interval.low)} to {signed(interval.high)}' if interval else ''


def p_value(p: float) -> str:
    """A p value with its relation, to as many digits as say something."""
    return '< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'


def count(number: int, thing: str) -> str:
    """A number and its noun."""
    return f'{number} {thing}{"" if number == 1 else "s"}'


def seed_list(seeds: Sequence[int]) -> str:
    """The seeds in words."""
    return f'seed{"" if len(seeds) == 1 else "s"} {join([str(seed) for seed in seeds])}'


def join(words: Sequence[str]) -> str:
    """The words with commas and an `and`.

    >>> join(['a', 'b', 'c'])
    'a, b and c'
    """
    return ' and '.join([*filter(None, [', '.join(words[:-1])]), words[-1]])
