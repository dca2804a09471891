"""Varifocal loss: numbers by hand, relations, mmdet's."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from table import compare, logits_and_scores, value

from mmext.losses import VarifocalLoss, varifocal_loss

LN2, LN3 = math.log(2), math.log(3)


def test_by_hand():
    """At logit 0, p is 1/2; at ln 3, p is 3/4."""
    assert value(varifocal_loss, 0.0, 0.6) == pytest.approx(0.6 * LN2)
    assert value(varifocal_loss, 0.0, 0.6, iou_weighted=False) == pytest.approx(LN2)
    assert value(varifocal_loss, 0.0, 0.0) == pytest.approx(0.75 / 4 * LN2)
    assert value(varifocal_loss, LN3, 0.0, alpha=2.0, gamma=1.0) == pytest.approx(2 * 0.75 * math.log(4))


def test_without_focus_it_is_bce():
    logit, score = logits_and_scores()
    target = (score > 0).double()
    bce = F.binary_cross_entropy_with_logits(logit, target, reduction='none')
    torch.testing.assert_close(varifocal_loss(logit, target, alpha=1.0, gamma=0.0), bce)


@pytest.mark.parametrize('iou_weighted', [True, False])
def test_equals_mmdet(iou_weighted):
    peer = mmdet_losses.VarifocalLoss(iou_weighted=iou_weighted, reduction='none')
    compare(VarifocalLoss(iou_weighted=iou_weighted, reduction='none'), peer, *logits_and_scores())


@pytest.mark.parametrize(('arguments', 'message'), [({'alpha': -0.1}, 'alpha'), ({'gamma': '2'}, 'gamma')])
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarifocalLoss(**arguments)
