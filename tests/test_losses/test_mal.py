"""Matchability-aware loss: values and gradients by hand, refusals."""

import math

import pytest
import torch
from table import value

from mmext.losses import MALoss, ma_loss

LN3 = math.log(3)


def test_by_hand():
    """At ln 3, p is 3/4."""
    assert value(ma_loss, LN3, 0.25) == pytest.approx(math.log(4 / 3) / 8 + 7 / 8 * math.log(4))
    assert value(ma_loss, LN3, 0.5, gamma=1.0) == pytest.approx(math.log(4 / 3) / 2 + math.log(4) / 2)
    assert value(ma_loss, LN3, 0.0) == pytest.approx(0.75**1.5 * math.log(4))


@pytest.mark.parametrize(('target', 'expected'), [(0.0, 0.75**1.5 * 0.75), (0.25, 0.75 - 1 / 8)])
@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_gradient_by_hand(target, expected, reduction):
    """The weight of negatives is detached, so both are a number times p - t**gamma."""
    logit = torch.tensor([[LN3]], dtype=torch.float64, requires_grad=True)
    MALoss(reduction=reduction)(logit, torch.tensor([[target]], dtype=torch.float64)).sum().backward()
    assert logit.grad.item() == pytest.approx(expected)


def test_refuses_a_negative_gamma():
    with pytest.raises(ValueError, match='gamma'):
        MALoss(gamma=-1.0)
