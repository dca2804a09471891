"""Faults of widely copied implementations, one test each; where mmdet is the one that has it, its value is shown, too.

Where a line that shows mmdet's value fails, mmdet was mended: that line can go.
"""

import math

import pytest
import torch
from mmdet.models import losses as mmdet_losses
from table import BOX_LOSSES

from mmext.losses import FocalLoss, IoULoss, focal_loss, iou_loss, nwd_loss, quality_focal_loss, softmax_focal_loss
from mmext.losses.iou import VARIANTS


def pair(pred, target, dtype=torch.float32):
    return torch.tensor([pred], dtype=dtype, requires_grad=True), torch.tensor([target], dtype=dtype)


def gradient(loss, pred, target):
    return torch.autograd.grad(loss(pred, target).sum(), pred)[0]


P0 = ([0, 0, 10, 10], [0, 0, 10, 20])
P7 = ([4, 4, 6, 6], [0, 0, 10, 10])
APART = ([0, 0, 10, 10], [100, 100, 120, 120])


def test_01_ciou_of_identical_boxes_is_nan():
    for box in ([0, 0, 32, 32], [0, 0, 100, 200]):
        pred, target = pair(box, box)
        assert mmdet_losses.CIoULoss()(pred, target).isnan()
        assert iou_loss(pred, target, 'ciou').item() == 0
        assert iou_loss(pred, target, 'ciou', alpha=3.0).item() == 0
        assert gradient(IoULoss('ciou'), pred, target).isfinite().all()


def test_02_siou_pulls_the_wrong_way():
    pred, target = pair(*APART)
    theirs = mmdet_losses.SIoULoss()
    assert theirs(pred, target).item() == 0
    assert (gradient(theirs, pred, target) == 0).all()
    assert mmdet_losses.SIoULoss(neg_gamma=True)(pred, target).item() == pytest.approx(1.5589, abs=1e-4)
    assert iou_loss(pred, target, 'siou').item() == pytest.approx(1.5589, abs=1e-4)
    pull = gradient(IoULoss('siou'), pred, target)
    assert (pull[:, :2] + pull[:, 2:] < 0).all()


def test_03_eiou_is_another_loss():
    """mmdet's `EIoULoss` is Extended IoU."""
    pred, target = pair(*P0)
    assert mmdet_losses.EIoULoss()(pred, target).item() == pytest.approx(0.45, abs=1e-3)
    assert iou_loss(pred, target, 'eiou').item() == pytest.approx(0.8)


def test_04_float16_boxes_overflow():
    pred, target = pair([0, 0, 600, 600], [0, 0, 600, 630], torch.float16)
    exact = 1 - 600 / 630
    for peer in (mmdet_losses.IoULoss(mode='linear'), mmdet_losses.GIoULoss(), mmdet_losses.DIoULoss()):
        assert not abs(peer(pred, target).item() - exact) < 0.1
    for variant in ('iou', 'giou'):
        assert iou_loss(pred, target, variant).item() == pytest.approx(exact, abs=1e-6)


def test_05_the_power_of_an_area_overflows():
    """The ratio first, the power then: rho2**6 of pixels is beyond float32."""
    pred, target = pair([0, 0, 100, 100], [2400, 2400, 2500, 2500])
    assert torch.tensor(2400.0**2 * 2).pow(6).isinf()
    for variant in ('diou', 'ciou', 'eiou'):
        exact = iou_loss(pred.double(), target.double(), variant, alpha=6.0)
        torch.testing.assert_close(iou_loss(pred, target, variant, alpha=6.0), exact, check_dtype=False)
        assert gradient(IoULoss(variant, alpha=6.0), pred, target).isfinite().all()


def test_06_the_slope_of_a_small_power_at_zero():
    for boxes in (P7, APART):
        for arguments in ({'alpha': 0.5}, {'focus': {'type': 'mmext.FocalFocus'}}):
            pred, target = pair(*boxes)
            assert gradient(IoULoss('diou', **arguments), pred, target).isfinite().all()
    logit, target = torch.tensor([[200.0]], requires_grad=True), torch.ones(1, 1)
    assert gradient(mmdet_losses.FocalLoss(gamma=0.5), logit, target).isnan()
    assert gradient(FocalLoss(gamma=0.5), logit, target).isfinite().all()


def test_07_siou_of_one_centre_has_no_angle():
    pred, target = pair(*P7)
    assert iou_loss(pred, target, 'siou').item() == pytest.approx(1.05195364, abs=1e-6)
    assert gradient(IoULoss('siou'), pred, target).isfinite().all()


def test_08_parts_that_are_not_raised_not_detached_or_overwritten():
    double = {'dtype': torch.float64}
    assert iou_loss(*pair(*P7, **double), 'eiou', alpha=3.0).item() == pytest.approx(1.524224)
    # The trade-off takes the IoU, not its power: 0.875125 + ((v / (1/2 + v)) v)**3.
    pred, target = pair(*P0, **double)
    v = 4 / math.pi**2 * (math.atan(10 / 20) - math.atan(1)) ** 2
    term = (iou_loss(pred, target, 'ciou', 3.0) - iou_loss(pred, target, 'diou', 3.0)).item()
    assert term == pytest.approx((v / (0.5 + v) * v) ** 3, rel=1e-6)
    pred, target = pair(*APART, **double)
    assert IoULoss('siou', focus={'type': 'mmext.FocalFocus'})(pred, target).item() == 0
    # Apart, the distance alone has a gradient: exp(rho2 / sg(c2)) * 2 dx / c2, half of it for each corner.
    wise = gradient(IoULoss(focus={'type': 'mmext.WiseFocus', 'version': 1}), pred, target)
    expected = -math.exp(2 * 105**2 / (2 * 120**2)) * 2 * 105 / (2 * 120**2) / 2
    torch.testing.assert_close(wise, torch.full_like(wise, expected))


def test_09_the_running_mean():
    """An empty batch made it NaN forever; in place, it changed what others held; it was shared by all instances."""
    losses = [IoULoss(focus={'type': 'mmext.WiseFocus', 'version': 3}, reduction='none') for _ in range(2)]
    pred, target = pair(*P0)
    losses[0](pred[:0], target[:0])
    first = losses[0](pred, target)
    kept = first.clone()
    losses[0](pred, target)
    assert first.isfinite().all()
    torch.testing.assert_close(first, kept)
    assert losses[0].focus.mean < 1 == losses[1].focus.mean
    assert 'focus.mean' in losses[0].state_dict()
    assert iou_loss(*pair(*P7), 'eiou').item() == pytest.approx(2.24)


def test_10_the_trade_off_has_no_gradient():
    pred, target = pair(*P0, torch.float64)
    wh, target_wh = pred[0, 2:] - pred[0, :2], target[0, 2:] - target[0, :2]
    v = 4 / math.pi**2 * (torch.atan2(*target_wh) - torch.atan2(*wh)) ** 2
    trade_off = v / (iou_loss(pred, target)[0] + v)
    expected, attached = (
        torch.autograd.grad(iou_loss(pred, target, 'diou')[0] + factor * v, pred, retain_graph=True)[0]
        for factor in (trade_off.detach(), trade_off)
    )
    ours = gradient(IoULoss('ciou'), pred, target)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, attached, rtol=1e-3)


def test_11_the_aspect_is_scaled_once():
    """4 / pi**2 before the square: v is 0.0419565 here, and the trade-off 0.0774167."""
    pred, target = pair([0, 0, 4, 2], [0, 0, 2, 2], torch.float64)
    term = iou_loss(pred, target, 'ciou') - iou_loss(pred, target, 'diou')
    assert term.item() == pytest.approx(0.0419565 * 0.0774167, rel=1e-5)


@pytest.mark.parametrize('box', [[5, 5, 5, 5], [0, 5, 10, 5], [5, 0, 5, 10]])
def test_12_boxes_without_area_or_height(box):
    for boxes in ((box, [0, 0, 10, 10]), ([0, 0, 10, 10], box), (box, box)):
        pred, target = pair(*boxes)
        assert iou_loss(pred, target, 'ciou').isfinite().all()
        assert gradient(IoULoss('ciou'), pred, target).isfinite().all()


def test_13_giou_subtracts_the_union():
    """Not the intersection: nested boxes have no empty share."""
    assert iou_loss(*pair(*P7), 'giou').item() == pytest.approx(0.96)


def test_14_the_contract():
    pred, target = (tensor.expand(3, 4) for tensor in pair(*P0))
    theirs, ours = mmdet_losses.GIoULoss, IoULoss
    zero = torch.zeros(3)
    assert theirs(reduction='none')(pred, target, zero.unsqueeze(-1).expand(3, 4)).shape == ()
    assert ours(reduction='none')(pred, target, zero.unsqueeze(-1).expand(3, 4)).shape == (3,)
    empty = pred[:0], target[:0]
    assert theirs(reduction='mean')(*empty).isnan()
    assert ours(reduction='mean')(*empty).item() == 0
    assert ours(reduction='sum')(*empty).requires_grad
    for kind in (theirs, ours):
        with pytest.raises(ValueError, match='avg_factor'):
            kind(reduction='sum')(pred, target, avg_factor=2.0)


def test_15_nwd_of_identical_boxes():
    pred, target = pair([3, 3, 5, 7], [3, 3, 5, 7])
    assert nwd_loss(pred, target).item() == 0
    assert gradient(nwd_loss, pred, target).isfinite().all()


def test_16_a_loss_that_is_not_zero_at_its_best():
    """KFIoU is 2/3 there, and ignores the centers; none of mmext's does."""
    box, moved = pair([3, 3, 5, 7], [4, 3, 6, 7])
    for row in BOX_LOSSES:
        assert row.build()(box, box.detach()).item() == 0
        assert row.build()(box, moved).item() > 0


def test_17_mpdiou_measures_in_the_input():
    """Not in 1, nor in strides; and it leaves the boxes as they are."""
    pred, target = pair(*APART, torch.float64)
    before = pred.detach().clone(), target.clone()
    for size in ((640, 640), (320, 480)):
        loss = IoULoss('mpdiou')(pred, target, image_size=size)
        assert loss.item() == pytest.approx(1 + (2 * 100**2 + 2 * 110**2) / (size[0] ** 2 + size[1] ** 2))
    assert (pred == before[0]).all() and (target == before[1]).all()


def test_18_focal_from_probabilities():
    for logit, target, expected in ((-20.0, 1.0, -0.25), (20.0, 0.0, 0.75)):
        leaf, label = torch.tensor([[logit]], requires_grad=True), torch.tensor([[target]])
        assert gradient(focal_loss, leaf, label).item() == pytest.approx(expected, rel=1e-6)
    leaf = torch.tensor([[20.0]], requires_grad=True)
    theirs = mmdet_losses.FocalLoss(activated=True)
    assert gradient(lambda logit, label: theirs(logit.sigmoid(), label), leaf, torch.zeros(1, 1)).item() == 0


def test_19_focal_on_soft_targets():
    """Its minimum is elsewhere, in mmdet, too; quality focal loss has it at p = t."""
    probability = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64).unsqueeze(-1)
    for target, biased in ((0.3, 0.122), (0.6, 0.724), (0.9, 0.986)):
        soft = torch.full_like(probability, target)
        theirs = mmdet_losses.FocalLoss(reduction='none')(probability.logit(), soft)
        for values in (theirs, focal_loss(probability.logit(), soft)):
            assert probability[values.argmin()].item() == pytest.approx(biased, abs=2e-3)
        assert probability[quality_focal_loss(probability.logit(), soft).argmin()].item() == pytest.approx(target)


def test_20_labels_outside_the_classes():
    """A softmax loss read beside the array. And the background is where the config says, not always first or last."""
    for label in (-1, 3):
        with pytest.raises(RuntimeError, match='out of bounds'):
            softmax_focal_loss(torch.zeros(1, 3), torch.tensor([label]))
    logit = torch.zeros(1, 3, dtype=torch.float64)
    for index in range(3):
        loss = softmax_focal_loss(logit, torch.tensor([index]), alpha=0.2, gamma=0.0, background_index=index)
        assert loss.item() == pytest.approx(0.2 * math.log(3))


def test_21_the_trade_off_takes_the_iou_of_the_boxes():
    """Not what Inner-IoU or Focaler-IoU make of it."""
    pred, target = pair(*P0, torch.float64)
    term = iou_loss(pred, target, 'ciou') - iou_loss(pred, target)
    for change in ({'inner_ratio': 0.7}, {'interval': (0, 0.95)}):
        changed = iou_loss(pred, target, 'ciou', **change) - iou_loss(pred, target, **change)
        torch.testing.assert_close(changed, term)


@pytest.mark.parametrize('variant', VARIANTS)
def test_22_a_loss_that_is_a_similarity_or_forgets_its_reduction(variant):
    own = {'image_size': (640, 640)} if variant == 'mpdiou' else {}
    near, target = pair([0, 0, 10, 10], [0, 0, 10, 11])
    far, _ = pair([3, 3, 10, 10], [0, 0, 10, 11])
    assert 0 < iou_loss(near, target, variant, **own) < iou_loss(far, target, variant, **own)
    boxes = torch.cat([near, far]), torch.cat([target, target])
    values = IoULoss(variant, reduction='none', **own)(*boxes)
    assert values.shape == (2,)
    torch.testing.assert_close(IoULoss(variant, reduction='sum', **own)(*boxes), values.sum())
