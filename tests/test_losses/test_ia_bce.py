"""IoU-aware BCE: values and gradients by hand, refusals."""

import math

import pytest
import torch
from table import value

from mmext.losses import IABCELoss, ia_bce_loss

LN3 = math.log(3)


def test_by_hand():
    """At ln 3, p is 3/4."""
    q = 0.75**0.25 * 0.5**0.75
    assert value(ia_bce_loss, LN3, 0.5) == pytest.approx(q * math.log(4 / 3) + (1 - q) * math.log(4))
    assert value(ia_bce_loss, LN3, 1e-9) == pytest.approx(0.01 * math.log(4 / 3) + 0.99 * math.log(4))
    assert value(ia_bce_loss, LN3, 0.0) == pytest.approx(0.75**2 * math.log(4))
    assert value(ia_bce_loss, LN3, 0.0, gamma=1.0) == pytest.approx(0.75 * math.log(4))


@pytest.mark.parametrize(
    ('target', 'expected'),
    [
        # The weight of negatives is not detached: d(p**2 * -log(1 - p)) = (2 p * ln 4 + p**2 / (1 - p)) * p (1 - p).
        (0.0, (2 * 0.75 * math.log(4) + 0.75**2 / 0.25) * 0.75 * 0.25),
        # The target of positives is.
        (0.5, 0.75 - 0.75**0.25 * 0.5**0.75),
    ],
)
@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_gradient_by_hand(target, expected, reduction):
    logit = torch.tensor([[LN3]], dtype=torch.float64, requires_grad=True)
    IABCELoss(reduction=reduction)(logit, torch.tensor([[target]], dtype=torch.float64)).sum().backward()
    assert logit.grad.item() == pytest.approx(expected)


@pytest.mark.parametrize('arguments', [{'alpha': 1.0}, {'alpha': -0.1}, {'gamma': -1.0}])
def test_refuses(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        IABCELoss(**arguments)
