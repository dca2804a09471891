"""The statistics beside published and independently computed numbers."""

import math

import numpy as np
import pytest
from scipy import special, stats

from mmext.comparison.statistics import (
    Interval,
    compare,
    holm,
    image_interval,
    paired_t_test,
    resample_images,
    smallest_difference,
    summarize,
)

# Student (1908), hours of sleep gained with two drugs by the same ten patients: t = 4.0621, p = 0.002833, interval
# 0.70 to 2.46 (R: t.test(extra ~ group, data = sleep, paired = TRUE)).
FIRST = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SECOND = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def by_seed(values):
    return dict(enumerate(values))


def test_mean_and_sd():
    summary = summarize(by_seed([0.4, 0.5, 0.6]))
    assert summary.mean == pytest.approx(0.5)
    assert summary.sd == pytest.approx(0.1)
    assert math.isnan(summarize({3: 0.5}).sd)
    assert math.isnan(summarize({}).mean)


def test_paired_difference_of_students_sleep_data():
    difference = compare(by_seed(FIRST), {'second': by_seed(SECOND)})['second']
    assert difference.mean == pytest.approx(1.58)
    assert difference.p == pytest.approx(0.002833, abs=5e-7)
    assert (difference.interval.low, difference.interval.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert difference.p_holm == difference.p
    assert difference.verdict == 'better'
    assert compare(by_seed(SECOND), {'first': by_seed(FIRST)})['first'].verdict == 'worse'


def test_t_interval_by_hand():
    # Mean 0.02, SD 0.01, n = 5: 0.02 -+ 2.776445 * 0.01 / sqrt(5), the quantile from a printed table.
    values = 0.02 + 0.01 * np.array([-1, 0, 0, 0, 1]) * math.sqrt(2)
    interval = paired_t_test(values)[1]
    assert (interval.low, interval.high) == pytest.approx((0.02 - 0.012416, 0.02 + 0.012416), abs=1e-6)


def test_pairs_share_a_seed():
    """A seed that only one of both has does not enter, however far off it is."""
    baseline, variant = {0: 0.4, 1: 0.5, 2: 0.45, 7: 0.0}, {0: 0.41, 1: 0.52, 2: 0.46, 9: 1.0}
    difference = compare(baseline, {'variant': variant})['variant']
    assert difference.values == pytest.approx({0: 0.01, 1: 0.02, 2: 0.01})


@pytest.mark.parametrize('pairs', [0, 1, 2])
def test_no_verdict_below_three_pairs(pairs):
    baseline = by_seed([0.4, 0.5, 0.6])
    difference = compare(baseline, {'variant': {seed: baseline[seed] + 0.1 for seed in range(pairs)}})['variant']
    assert difference.verdict == 'no verdict'
    assert (difference.interval, difference.p, difference.p_holm, difference.smallest) == (None,) * 4


def test_no_difference_seen():
    difference = compare(by_seed([0.4, 0.5, 0.45]), {'variant': by_seed([0.42, 0.49, 0.45])})['variant']
    assert difference.verdict == 'no difference seen'
    assert 0 in difference.interval


def test_equal_results_are_no_difference():
    same = by_seed([0.4, 0.5, 0.45])
    difference = compare(same, {'variant': same})['variant']
    assert (difference.p, difference.interval, difference.verdict) == (1, Interval(0, 0), 'no difference seen')
    shifted = {seed: value + 0.25 for seed, value in {0: 0.5, 1: 0.25, 2: 0.125}.items()}
    assert compare({0: 0.5, 1: 0.25, 2: 0.125}, {'variant': shifted})['variant'].verdict == 'better'


def test_holm():
    """The worked example of Wikipedia's article on the method, and one where a step must not fall below the last."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # 6 * 0.01, 5 * 0.02, the same instead of 4 * 0.022, 3 * 0.09, 2 * 0.2, 0.6.
    assert holm([0.01, 0.02, 0.022, 0.09, 0.2, 0.6]) == pytest.approx([0.06, 0.1, 0.1, 0.27, 0.4, 0.6])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holm_counts_variants_that_have_not_finished():
    """The verdict of one variant does not change by others that come in without an effect."""
    baseline = by_seed([0.40, 0.41, 0.42, 0.43])
    good = {seed: value + 0.02 + 0.004 * (-1) ** seed for seed, value in baseline.items()}
    alone = compare(baseline, {'good': good, 'a': {}, 'b': {}})['good']
    assert alone.p_holm == pytest.approx(3 * alone.p)
    assert compare(baseline, {'good': good})['good'].p_holm == pytest.approx(alone.p)


def test_correction_turns_a_verdict():
    baseline = by_seed([0.40, 0.41, 0.42, 0.43])
    variant = {seed: value + step for (seed, value), step in zip(baseline.items(), (0.02, 0.01, 0.02, 0.035))}
    alone = compare(baseline, {'variant': variant})['variant']
    assert 0.025 < alone.p < 0.05
    assert alone.verdict == 'better'
    assert compare(baseline, {'variant': variant, 'other': {}})['variant'].verdict == 'no difference seen'


# Effect sizes by statsmodels 0.14: TTestPower().solve_power(nobs=n, alpha=level, power=0.8).
@pytest.mark.parametrize(
    'pairs, level, effect',
    [(3, 0.05, 3.264044), (5, 0.05, 1.681997), (10, 0.05, 0.996002), (5, 0.05 / 6, 2.759263)],
)
def test_smallest_difference(pairs, level, effect):
    assert smallest_difference(0.02, pairs, level) == pytest.approx(0.02 * effect, rel=1e-6)


def test_smallest_difference_by_integration():
    """The power at the smallest difference, from normal and chi-square alone, for many sizes."""
    for pairs in (3, 4, 7, 20):
        for level in (0.05, 0.05 / 30):
            freedom, shift = pairs - 1, smallest_difference(1, pairs, level) * math.sqrt(pairs)
            critical = stats.t.isf(level / 2, freedom)
            share = (np.arange(20000) + 0.5) / 20000
            spread = np.sqrt(special.chdtri(freedom, share) / freedom)
            power = np.mean(special.ndtr(shift - critical * spread) + special.ndtr(-shift - critical * spread))
            assert power == pytest.approx(0.8, abs=2e-4), (pairs, level)


def test_smallest_difference_is_of_holms_first_step():
    baseline = by_seed([0.40, 0.41, 0.42, 0.43])
    variant = by_seed([0.41, 0.40, 0.42, 0.44])
    difference = compare(baseline, {'variant': variant, 'other': {}})['variant']
    assert difference.smallest == pytest.approx(smallest_difference(difference.sd, 4, 0.025))


def test_resamples_draw_with_replacement():
    weights = resample_images(50, 400, seed=3)
    assert weights.shape == (400, 50)
    assert (weights.sum(1) == 50).all()
    assert (weights == resample_images(50, 400, seed=3)).all()
    # Each count is binomial(50, 1/50), of mean 1 and variance 0.98.
    assert weights.var() == pytest.approx(0.98, rel=0.05)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_image_interval_of_a_mean_is_scipys():
    """Where the metric is a mean over the images, the interval is that of scipy's paired bootstrap."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0.5, 0.2, 60)
    scores = {
        name: {seed: hard + rng.normal(gain, 0.05, 60) for seed in range(3)} for name, gain in dict(a=0, b=0.02).items()
    }
    weights = resample_images(60, 4000)
    metric = {name: {seed: weights @ row / 60 for seed, row in rows.items()} for name, rows in scores.items()}
    interval = image_interval(metric['a'], metric['b'])
    gain = np.mean([scores['b'][seed] - scores['a'][seed] for seed in range(3)], 0)
    expected = stats.bootstrap((gain,), np.mean, n_resamples=4000, method='percentile', rng=rng).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-3)
    # Unpaired, the hardness of the images would make it several times as wide.
    assert interval.high - interval.low < 0.03


def test_image_interval_takes_common_seeds_and_defined_resamples():
    nan = math.nan
    baseline = {0: np.zeros(100), 1: np.full(100, 0.9)}
    variant = {0: np.array([nan] * 50 + [0.1] * 50), 2: np.ones(100)}
    assert image_interval(baseline, variant) == Interval(pytest.approx(0.1), pytest.approx(0.1))
    assert image_interval(baseline, {2: np.ones(100)}) is None
    assert image_interval(baseline, {0: np.full(100, nan)}) is None
