"""Quality focal loss: numbers by hand, relations, mmdet's."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from table import compare, logits_and_scores, value

from mmext.losses import QualityFocalLoss, quality_focal_loss

LN2, LN3 = math.log(2), math.log(3)


def test_by_hand():
    """At logit 0, p is 1/2; at ln 3, p is 3/4."""
    assert value(quality_focal_loss, 0.0, 1.0) == pytest.approx(LN2 / 4)
    assert value(quality_focal_loss, 0.0, 0.5) == 0
    expected = 0.5 * (0.25 * math.log(4 / 3) + 0.75 * math.log(4))
    assert value(quality_focal_loss, LN3, 0.25, beta=1.0) == pytest.approx(expected)


def test_without_focus_it_is_the_sum_of_bce():
    logit, score = logits_and_scores()
    bce = F.binary_cross_entropy_with_logits(logit, score, reduction='none')
    torch.testing.assert_close(quality_focal_loss(logit, score, beta=0.0), bce.sum(-1))


def test_equals_mmdet():
    logit, score = logits_and_scores()
    compare(quality_focal_loss, mmdet_losses.QualityFocalLoss(reduction='none'), logit, score)
    pair = (torch.arange(40) % 4, score[:, 0] + 0.1)
    compare(quality_focal_loss, mmdet_losses.QualityFocalLoss(reduction='none'), logit, pair)
    peer = mmdet_losses.QualityFocalLoss(activated=True, reduction='none')
    compare(QualityFocalLoss(activated=True, reduction='none'), peer, logit.sigmoid(), pair)


def test_refuses_a_negative_beta():
    with pytest.raises(ValueError, match='beta'):
        QualityFocalLoss(beta=-2.0)
