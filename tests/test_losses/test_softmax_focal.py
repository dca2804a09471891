"""Focal loss over a softmax: numbers by hand, relations, mmdet's, targets, extreme logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from table import compare, logits_and_scores

from mmext.losses import SoftmaxFocalLoss, focal_loss, softmax_focal_loss

LN2 = math.log(2)


def test_by_hand():
    """The probabilities are 1/4, 1/2 and 1/4."""
    logit = torch.tensor([[0.0, LN2, 0.0]], dtype=torch.float64)
    assert softmax_focal_loss(logit, torch.tensor([1])).item() == pytest.approx(LN2 / 4)
    assert softmax_focal_loss(logit, torch.tensor([0]), gamma=1.0).item() == pytest.approx(0.75 * math.log(4))
    weighted = softmax_focal_loss(logit, torch.tensor([0]), alpha=[2.0, 3.0, 5.0], gamma=1.0)
    assert weighted.item() == pytest.approx(2 * 0.75 * math.log(4))


@pytest.mark.parametrize(('background_index', 'weights'), [(0, [0.3, 0.7, 0.7]), (-1, [0.7, 0.7, 0.3])])
def test_a_single_alpha_weights_the_background(background_index, weights):
    logit, label = torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)
    loss = SoftmaxFocalLoss(alpha=0.3, gamma=0.0, background_index=background_index, reduction='none')
    torch.testing.assert_close(loss(logit, label), torch.tensor(weights, dtype=torch.float64) * math.log(3))


def test_without_focus_it_is_weighted_cross_entropy():
    logit, _ = logits_and_scores()
    label, weights = torch.arange(40) % 3, [0.5, 1.0, 4.0]
    expected = F.cross_entropy(logit, label, weight=torch.tensor(weights, dtype=torch.float64), reduction='none')
    torch.testing.assert_close(softmax_focal_loss(logit, label, alpha=weights, gamma=0.0), expected)
    peer = mmdet_losses.CrossEntropyLoss(class_weight=weights, reduction='none')
    compare(SoftmaxFocalLoss(alpha=weights, gamma=0.0, reduction='none'), peer, logit, label)


def test_of_two_classes_it_is_sigmoid_focal_loss():
    logit, score = logits_and_scores()
    two, label = torch.stack([torch.zeros(40, dtype=torch.float64), logit[:, 0]], -1), (score[:, 0] > 0).long()
    expected = focal_loss(logit[:, :1], label.unsqueeze(-1), alpha=0.5) * 2
    torch.testing.assert_close(softmax_focal_loss(two, label), expected.squeeze(-1))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0, 5.0])
def test_is_finite_for_extreme_logits(gamma, dtype):
    logit = torch.tensor([[1000, -1000, 0], [-1000, 1000, 0], [20, 0, 0]], dtype=dtype).requires_grad_()
    loss = softmax_focal_loss(logit, torch.tensor([0, 0, 0]), gamma=gamma)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize(
    'dtype',
    [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.float32, torch.float64, torch.float16],
)
@pytest.mark.parametrize('shape', [(40,), (40, 1)])
def test_takes_labels_of_any_type(dtype, shape):
    logit, _ = logits_and_scores()
    labels = torch.arange(40) % 3
    given = softmax_focal_loss(logit, labels.to(dtype).view(shape))
    torch.testing.assert_close(given, softmax_focal_loss(logit, labels))


@pytest.mark.parametrize('shape', [(39,), (40, 2), (40, 1, 1), ()])
def test_refuses_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match='must be'):
        softmax_focal_loss(torch.zeros(40, 3), torch.zeros(shape).long())


def test_refuses_scores_and_names_the_remedy():
    with pytest.raises(ValueError, match="cls_target='label'"):
        softmax_focal_loss(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r'is a pair \(labels, scores\).* mmext.QualityFocalLoss'):
        softmax_focal_loss(torch.zeros(4, 3), (torch.zeros(4).long(), torch.zeros(4)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'use_sigmoid': True}, 'FocalLoss'),
        ({'alpha': 1.5}, 'alpha'),
        ({'alpha': [1.0, 2.0], 'num_classes': 3}, 'num_classes is 3'),
        ({'num_classes': 3, 'background_index': 3}, 'background_index 3'),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxFocalLoss(**arguments)


def test_refuses_a_wrong_number_of_alphas():
    with pytest.raises(ValueError, match='alpha has 2 values'):
        SoftmaxFocalLoss(alpha=[0.1, 0.5])(torch.zeros(4, 3), torch.zeros(4).long())
