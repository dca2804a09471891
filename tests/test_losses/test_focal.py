"""Focal loss: numbers by hand, relations, mmdet's."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from table import compare, logits_and_scores, value

from mmext.losses import FocalLoss, focal_loss

LN2, LN3 = math.log(2), math.log(3)


def test_by_hand():
    """At logit 0, p is 1/2; at ln 3, p is 3/4."""
    assert value(focal_loss, 0.0, 1.0) == pytest.approx(0.25 / 4 * LN2)
    assert value(focal_loss, 0.0, 0.0) == pytest.approx(0.75 / 4 * LN2)
    assert value(focal_loss, LN3, 1.0, alpha=0.5, gamma=3.0) == pytest.approx(0.5 / 64 * math.log(4 / 3))
    assert value(focal_loss, LN3, 0.0, alpha=0.5, gamma=1.0) == pytest.approx(0.5 * 0.75 * math.log(4))


def test_without_focus_it_is_weighted_bce():
    logit, score = logits_and_scores()
    target, alpha = (score > 0).double(), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits(logit, target, reduction='none')
    torch.testing.assert_close(focal_loss(logit, target, alpha=0.5, gamma=0.0), bce / 2)
    expected = torch.where(target == 1, alpha, 1 - alpha) * bce
    torch.testing.assert_close(focal_loss(logit, target, alpha=[0.2, 0.5, 0.9], gamma=0.0), expected)


@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_without_focus_it_learns_from_tiny_errors(reduction):
    """A focus would be below the resolution of float32 there."""
    logit = torch.tensor([[-20.0]], requires_grad=True)
    FocalLoss(alpha=0.25, gamma=0.0, reduction=reduction)(logit, torch.zeros(1, 1)).sum().backward()
    torch.testing.assert_close(logit.grad, 0.75 * logit.detach().sigmoid(), rtol=1e-5, atol=0)


def test_confident_errors_keep_their_gradient():
    """Computed from probabilities in float32 this gradient is exactly 0."""
    logit = torch.tensor([[20.0]], requires_grad=True)
    focal_loss(logit, torch.tensor([[0.0]])).sum().backward()
    assert logit.grad.item() == pytest.approx(0.75, rel=1e-6)


def test_equals_mmdet():
    logit, score = logits_and_scores()
    for target in ((score > 0).double(), score):
        compare(focal_loss, mmdet_losses.FocalLoss(reduction='none'), logit, target)
    labels = torch.arange(40) % 4
    peer = mmdet_losses.FocalLoss(activated=True, reduction='none')
    compare(FocalLoss(activated=True, reduction='none'), peer, logit.sigmoid(), labels)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'alpha': 1.5}, 'alpha'),
        ({'alpha': [0.5, -0.1]}, 'alpha'),
        ({'alpha': []}, 'alpha'),
        ({'gamma': -1.0}, 'gamma'),
        ({'use_sigmoid': False}, 'SoftmaxFocalLoss'),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(**arguments)


def test_refuses_a_wrong_number_of_alphas():
    with pytest.raises(ValueError, match='alpha has 2 values'):
        FocalLoss(alpha=[0.1, 0.5])(torch.zeros(4, 3), torch.zeros(4).long())
