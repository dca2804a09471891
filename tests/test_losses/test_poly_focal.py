"""Poly-1 focal loss: numbers by hand, relations."""

import math

import pytest
import torch
import torch.nn.functional as F
from table import logits_and_scores, value

from mmext.losses import PolyFocalLoss, focal_loss, poly_focal_loss

LN2, LN3 = math.log(2), math.log(3)


def test_by_hand():
    """At logit 0, p is 1/2; at ln 3, p is 3/4."""
    assert value(poly_focal_loss, 0.0, 1.0) == pytest.approx(LN2 / 4 + 1 / 8)
    assert value(poly_focal_loss, 0.0, 0.0, alpha=0.25) == pytest.approx(0.75 * (LN2 / 4 + 1 / 8))
    assert value(poly_focal_loss, LN3, 1.0, gamma=0.0, epsilon=2.0) == pytest.approx(math.log(4 / 3) + 2 / 4)
    assert value(poly_focal_loss, LN3, 0.0, gamma=1.0) == pytest.approx(0.75 * math.log(4) + 0.75**2)


def test_without_epsilon_it_is_focal_loss():
    logit, score = logits_and_scores()
    expected = focal_loss(logit, score, alpha=0.3)
    torch.testing.assert_close(poly_focal_loss(logit, score, epsilon=0.0, alpha=0.3), expected)
    bce = F.binary_cross_entropy_with_logits(logit, score, reduction='none')
    torch.testing.assert_close(poly_focal_loss(logit, score, epsilon=0.0, gamma=0.0), bce)


@pytest.mark.parametrize(('arguments', 'message'), [({'epsilon': -1.5}, 'epsilon'), ({'alpha': 2.0}, 'alpha')])
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PolyFocalLoss(**arguments)
