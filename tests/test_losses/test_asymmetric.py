"""Asymmetric loss: numbers by hand, relations."""

import math

import pytest
import torch
import torch.nn.functional as F
from table import logits_and_scores, value

from mmext.losses import AsymmetricLoss, asymmetric_loss, focal_loss

LN2, LN3 = math.log(2), math.log(3)


def test_by_hand():
    """At logit 0, p is 1/2; at ln 3, p is 3/4."""
    assert value(asymmetric_loss, 0.0, 1.0) == pytest.approx(LN2 / 2)
    assert value(asymmetric_loss, 0.0, 0.0) == pytest.approx(-(0.45**4) * math.log(0.55))
    assert value(asymmetric_loss, LN3, 0.0, clip=0.5, gamma_neg=1.0) == pytest.approx(-0.25 * math.log(0.75))
    assert value(asymmetric_loss, -LN3, 0.0, clip=0.3) == 0
    assert value(asymmetric_loss, LN3, 1.0, gamma_pos=2.0) == pytest.approx(math.log(4 / 3) / 16)


def test_without_asymmetry_it_is_focal_loss():
    logit, score = logits_and_scores()
    target = (score > 0).double()
    symmetric = asymmetric_loss(logit, target, gamma_pos=2.0, gamma_neg=2.0, clip=0.0)
    torch.testing.assert_close(symmetric, focal_loss(logit, target, alpha=0.5) * 2)
    bce = F.binary_cross_entropy_with_logits(logit, score, reduction='none')
    torch.testing.assert_close(asymmetric_loss(logit, score, gamma_pos=0.0, gamma_neg=0.0, clip=0.0), bce)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'gamma_neg': -1.0}, 'gamma_neg'), ({'clip': 1.0}, r'clip must be in \[0, 1\), but is 1.0')],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        AsymmetricLoss(**arguments)
