"""The geometry of the charts."""

import math
import re

import numpy as np
import pytest

from mmext.visualization.charts import Axis, Series, chart


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r'([\d.]+),([\d.]+)', path)]


def test_axis():
    axis = Axis.around([-0.013, 0.048, math.nan], 10, 310, signed=True)
    assert axis.ticks[0] <= -0.013 and axis.ticks[-1] >= 0.048
    assert (axis(axis.low), axis(axis.high)) == (10, 310)
    assert axis((axis.low + axis.high) / 2) == 160
    assert axis.label(0.02) == '+0.02'
    assert axis.label(-0.02) == '\N{MINUS SIGN}0.02'
    assert axis.label(-1e-17) == '0'


@pytest.mark.parametrize('values', [[], [math.nan], [0.3, 0.3]])
def test_axis_of_no_range(values):
    axis = Axis.around(values, 0, 100)
    assert axis.low < axis.high


def test_line_and_band():
    drawn = chart('', [Series('', 'red', [0, 10], [[0.2, 0.4], [0.4, 0.8]])], 'epoch', 'AP', y_values=[0, 1])
    (line,) = drawn.lines
    means, spread = (0.3, 0.6), np.array([0.1, 0.2]) * math.sqrt(2)
    assert points(line.path) == [(drawn.x(x), drawn.y(y)) for x, y in zip((0, 10), means)]
    upper, lower = means + spread, means - spread
    corners = [(0, upper[0]), (10, upper[1]), (10, lower[1]), (0, lower[0])]
    assert points(line.band) == [(drawn.x(x), drawn.y(y)) for x, y in corners]
    # Upwards is less in an SVG.
    assert drawn.y(0.6) < drawn.y(0.3)


def test_a_single_seed_has_no_band():
    drawn = chart('', [Series('', 'red', [0, 10], [[0.2, 0.4]])], 'epoch', 'AP')
    assert drawn.lines[0].path and not drawn.lines[0].band


def test_a_tight_axis_ends_with_the_data():
    axis = Axis.around([0, 1560], 40, 340, tight=True)
    assert (axis.low, axis.high, axis(1560)) == (0, 1560, 340)
    assert axis.ticks == (0, 500, 1000, 1500)


@pytest.mark.parametrize(
    ('value', 'text'), [(0.008, '0.008'), (12.5, '12.5'), (1500, '1,500'), (20_000, '20k'), (2.5e6, '2.5M')]
)
def test_labels_are_short(value, text):
    assert Axis(0, 1, 0, 1, ()).label(value) == text
    assert Axis(0, 1, 0, 1, (), signed=True).label(value) == f'+{text}'


def test_long_labels_have_room():
    """A label ends left of the axis; with six points a character it must not reach the axis's title at 15."""
    drawn = chart('', [Series('', 'red', [0, 10], [[0.008, 0.002]])], 'iteration', 'learning rate', y_values=[0])
    longest = max(len(drawn.y.label(tick)) for tick in drawn.y.ticks)
    assert longest == 5
    assert drawn.x.start - 6 - 6 * longest > 15
