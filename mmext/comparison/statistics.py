"""What differences between runs are worth, by scipy.

Two sources of noise are kept apart:

* **Seeds.** The same config trained with another seed gives another detector. Variant and baseline are paired by seed,
  as equal seeds give equal initial weights, data order and augmentation. The t interval of the mean paired difference
  says where the mean over *all* seeds may lie, on *this* validation set.
* **Images.** Another sample of images gives another AP of the same detectors. The bootstrap interval says where the
  difference between *these* trained detectors may lie, on *other* images of the same origin.

The verdict is about seeds: a paired t test at 5 % with Holm's correction over the variants. Each metric is corrected
for itself, not over the metrics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.05
POWER = 0.8
# With two the interval is 3.6 times as wide as with three, for one degree of freedom: no ground for a verdict.
MIN_PAIRS = 3
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds.

    Attributes:
        values: The metric of each seed.
        mean: Mean; NaN without seeds.
        sd: Standard deviation (n - 1); NaN with fewer than two seeds.
    """

    values: dict[int, float]
    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline in one metric.

    Attributes:
        values: The difference of each seed that both have.
        mean: Their mean; NaN without pairs.
        sd: Their standard deviation (n - 1); NaN with fewer than two.
        interval: 95 % t interval of the mean over all seeds, given this validation set; None below three pairs.
        p: Two-sided p value of the paired t test; None below three pairs.
        p_holm: The same after Holm's correction over the variants of the plan.
        smallest: The smallest true difference that this test would find with 80 % probability
            (:func:`smallest_difference`); None below three pairs.
        images: 95 % bootstrap interval over the images, given these trained detectors; None without detections.
    """

    values: dict[int, float]
    mean: float
    sd: float
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    smallest: float | None = None
    images: Interval | None = None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no difference seen`, or `no verdict` below three pairs."""
        if self.p_holm is None:
            return 'no verdict'
        if self.p_holm >= LEVEL:
            return 'no difference seen'
        return 'better' if self.mean > 0 else 'worse'


def summarize(values: Mapping[int, float]) -> Summary:
    """Mean and standard deviation over the seeds."""
    return Summary(dict(values), *_mean_and_sd(list(values.values())))


def compare(
    baseline: Mapping[int, float],
    variants: Mapping[str, Mapping[int, float]],
    images: Mapping[str, Interval] | None = None,
) -> dict[str, Difference]:
    """Compare each variant with the baseline in one metric; higher is better.

    Args:
        baseline: The metric of each seed.
        variants: The same of each variant. One that is still without runs counts in Holm's correction, so that the
            verdicts do not get stricter while the runs come in.
        images: Bootstrap intervals of the differences (:func:`image_interval`), as far as there are any.

    Returns:
        The difference of each variant. Seeds that only one of both has do not enter.
    """
    images = images or {}
    pairs = {
        name: {seed: values[seed] - baseline[seed] for seed in values if seed in baseline}
        for name, values in variants.items()
    }
    p_values = {name: paired_t_test(list(values.values()))[0] for name, values in pairs.items()}
    corrected = holm([1.0 if p is None else p for p in p_values.values()])
    differences = {}
    for (name, values), p_holm in zip(pairs.items(), corrected):
        p, interval = paired_t_test(list(values.values()))
        mean, sd = _mean_and_sd(list(values.values()))
        enough = p is not None
        differences[name] = Difference(
            values,
            mean,
            sd,
            interval,
            p,
            p_holm if enough else None,
            smallest_difference(sd, len(values), LEVEL / len(variants)) if enough else None,
            images.get(name),
        )
    return differences


def paired_t_test(differences: Sequence[float]) -> tuple[float | None, Interval | None]:
    """Two-sided p value and 95 % t interval of the mean; None, None below :data:`MIN_PAIRS` values.

    Where all differences are equal the interval is that value, and p is 1 if it is zero, 0 otherwise.
    """
    if len(differences) < MIN_PAIRS:
        return None, None
    if np.ptp(differences) == 0:
        return float(differences[0] == 0), Interval(float(differences[0]), float(differences[0]))
    # Of the differences: ttest_rel(variant, baseline) is ttest_1samp(variant - baseline).
    result = stats.ttest_1samp(differences, 0)
    low, high = result.confidence_interval(1 - LEVEL)
    return float(result.pvalue), Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the number of tests by Holm's step-down method.

    The i-th smallest of m becomes the largest of (m - j + 1) * p_j over j <= i, at most 1. The chance of any false
    "better" or "worse" among the m is then at most the level. scipy has the corrections of the false discovery rate
    alone, and statsmodels would bring pandas for these lines. Source: Holm, Scand. J. Statist. 6 (1979) 65-70.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    steps = np.minimum(np.maximum.accumulate(np.asarray(p_values, float)[order] * factors), 1)
    corrected = np.empty(len(p_values))
    corrected[order] = steps
    return corrected.tolist()


def smallest_difference(sd: float, pairs: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true mean difference that a two-sided paired t test finds with this probability.

    With n pairs, a true mean d and standard deviation s, t follows the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality d / s * sqrt(n). The d whose probability of |t| beyond the critical value equals `power`
    is solved for. s is the observed one, itself uncertain: with five pairs the true one lies between 0.6 and 2.9 times
    it (95 %).

    Args:
        sd: Standard deviation of the paired differences.
        pairs: Number of pairs, at least 2.
        level: Level of the test. With m variants `LEVEL / m`, the first step of Holm's method: enough for a variant
            that differs whatever the others do.
        power: The probability, in (level, 1).
    """
    freedom = pairs - 1
    critical = stats.t.isf(level / 2, freedom)

    # The other tail, a difference of the wrong sign, adds less than 1e-4, and scipy's nct has gaps (NaN) there.
    def excess(noncentrality: float) -> float:
        return stats.nct.sf(critical, freedom, noncentrality) - power

    return float(optimize.brentq(excess, 0, 5 * critical)) * sd / math.sqrt(pairs)


def resample_images(images: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int32]:
    """How often each bootstrap resample, drawn with replacement, holds each image: (resamples, images)."""
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    return draws.astype(np.int32)


def image_interval(
    baseline: Mapping[int, NDArray[np.float64]], variant: Mapping[int, NDArray[np.float64]]
) -> Interval | None:
    """95 % bootstrap interval over the images (percentiles) of the mean paired difference.

    All detectors are evaluated on the same resamples, so that what is hard for all of them cancels. It covers the
    noise of the images given these trained detectors, not that of the seeds.

    Args:
        baseline: The metric on each resample, (B,), of each seed; NaN where the resample has no such objects.
        variant: The same of the variant; resamples in the same order.

    Returns:
        The interval, over the seeds that both have and the resamples where the metric is defined; None without any.
    """
    seeds = sorted(set(baseline) & set(variant))
    if not seeds:
        return None
    difference = np.mean([variant[seed] - baseline[seed] for seed in seeds], 0)
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return None
    return Interval(*np.quantile(difference, [LEVEL / 2, 1 - LEVEL / 2]).tolist())


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    mean = float(np.mean(values)) if len(values) else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
