"""Class weights: numbers by hand, limits, relations, classes without objects."""

import pytest

from mmext.losses import class_weights
from mmext.losses.class_balance import METHODS

COUNTS = [850, 100, 50]


@pytest.mark.parametrize(
    ('method', 'counts', 'expected'),
    [
        # 1/100 and 1/25; each class then weighs 1, so the mean over 125 objects is 2/125.
        ('inverse', [100, 25], [125 / 200, 125 / 50]),
        # 1/10 and 1/5; 100/10 + 25/5 = 15.
        ('sqrt', [100, 25], [125 / 150, 125 / 75]),
        # With beta 1/2: (1/2) / (1/2) = 1 and (1/2) / (3/4) = 2/3; 1 * 1 + 2 * 2/3 = 7/3.
        ('effective', [1, 2], [9 / 7, 6 / 7]),
    ],
)
def test_by_hand(method, counts, expected):
    assert class_weights(counts, method, beta=0.5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(('power', 'method'), [(0.5, 'sqrt'), (1, 'inverse')])
def test_methods_are_powers(power, method):
    assert class_weights(COUNTS, power=power) == class_weights(COUNTS, method)


def test_power_by_hand():
    assert class_weights(COUNTS, power=0) == pytest.approx([1, 1, 1])
    # 16**-0.25 is 1/2 and 81**-0.25 is 1/3; 16 / 2 + 81 / 3 = 35, over 97 objects.
    assert class_weights([16, 81], power=0.25) == pytest.approx([97 / 70, 97 / 105])


@pytest.mark.parametrize('arguments', [dict(power=1), dict(method='effective'), dict(method='sqrt')])
def test_a_class_without_objects_gets_the_mean_weight(arguments, log):
    weights = class_weights([850, 0, 50], **arguments)
    present = class_weights([850, 50], **arguments)
    assert weights == pytest.approx([present[0], sum(present) / 2, present[1]])
    assert 'the classes at index [1] have no objects' in log.text
    log.clear()
    class_weights([850, 50], **arguments)
    assert not log.text


@pytest.mark.parametrize('method', METHODS)
class TestEveryMethod:
    def test_mean_over_the_objects_is_one(self, method):
        weights = class_weights(COUNTS, method)
        assert sum(count * weight for count, weight in zip(COUNTS, weights)) == pytest.approx(sum(COUNTS))

    def test_the_rarer_the_larger(self, method):
        weights = class_weights(COUNTS, method)
        assert weights == sorted(weights)
        assert weights[0] < 1 < weights[2]

    def test_even_classes_weigh_one(self, method):
        assert class_weights([7, 7, 7], method) == pytest.approx([1, 1, 1])
        assert class_weights([1_000_000], method) == pytest.approx([1])


def test_effective_goes_from_no_weights_to_the_inverse_frequency():
    assert class_weights(COUNTS, 'effective', beta=0) == pytest.approx([1, 1, 1])
    assert class_weights(COUNTS, 'effective', beta=1 - 1e-9) == pytest.approx(
        class_weights(COUNTS, 'inverse'), rel=1e-5
    )
    rarest = [class_weights(COUNTS, 'effective', beta)[2] for beta in (0, 0.9, 0.99, 0.999, 0.9999)]
    assert rarest == sorted(rarest)


def test_the_square_root_lies_between():
    none, root, inverse = 1, class_weights(COUNTS, 'sqrt')[2], class_weights(COUNTS, 'inverse')[2]
    assert none < root < inverse


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(counts=COUNTS, method='log'), "method must be one of inverse, sqrt, effective, but is 'log'"),
        (dict(counts=COUNTS, beta=1), r'beta must be in \[0, 1\), but is 1'),
        (dict(counts=COUNTS, beta=-0.1), 'but is -0.1'),
        (dict(counts=COUNTS, beta=float('nan')), 'but is nan'),
        (dict(counts=COUNTS, power=-0.5), 'power must be a number of at least 0, but is -0.5'),
        (dict(counts=COUNTS, power=float('nan')), 'but is nan'),
        (dict(counts=COUNTS, method='sqrt', power=1), r"a method \('sqrt'\) or a power \(1\), not both"),
        (dict(counts=[0, 0]), r'at least one above 0, but are \[0, 0\]'),
        (dict(counts=[3, -1]), r'at least 0, at least one above 0, but are \[3, -1\]'),
        (dict(counts=[]), r'but are \[\]'),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        class_weights(**arguments)
