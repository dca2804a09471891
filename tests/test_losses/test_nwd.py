"""The loss of the normalized Wasserstein distance."""

import math

import pytest
import torch

from mmext.losses import NWDLoss, nwd_loss


def pair(pred, target):
    return torch.tensor([pred], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)


@pytest.mark.parametrize(
    ('pred', 'target', 'distance'),
    [
        ([0, 0, 2, 2], [3, 4, 5, 6], 5),
        ([0, 0, 2, 2], [0, 0, 8, 10], 5 * math.sqrt(2)),
        ([4, 4, 6, 6], [0, 0, 10, 10], math.sqrt(32)),
        ([4, 4, 6, 6], [4, 4, 6, 6], 0),
    ],
)
@pytest.mark.parametrize('constant', [12.8, 3.0])
def test_by_hand(pred, target, distance, constant):
    """The distance of the centers, and half the differences of the sides."""
    loss = nwd_loss(*pair(pred, target), constant)
    assert loss.item() == pytest.approx(1 - math.exp(-distance / constant), abs=1e-12)


def test_far_boxes_of_one_pixel_still_learn():
    pred, target = pair([0, 0, 1, 1], [30, 40, 31, 41])
    nwd_loss(pred.requires_grad_(), target).backward()
    assert (pred.grad < -1e-4).all()


def test_loss_that_is_zero_has_no_gradient():
    pred, target = pair([3, 3, 5, 7], [3, 3, 5, 7])
    nwd_loss(pred.requires_grad_(), target).backward()
    assert (pred.grad == 0).all()


@pytest.mark.parametrize('constant', [0, -1.0, '12.8', float('nan')])
def test_refuses_bad_constants(constant):
    for call in (lambda: NWDLoss(constant), lambda: nwd_loss(torch.zeros(1, 4), torch.zeros(1, 4), constant)):
        with pytest.raises(ValueError, match='constant must be'):
            call()
