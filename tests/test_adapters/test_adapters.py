"""The adapters, without the projects that they are for."""

import pytest
import torch

from mmext.losses import VARIANTS, iou_loss
from mmext.losses.iou import takes_image_size
from mmext.registry import MODELS


def build(adapter, loss, **settings):
    return MODELS.build(dict(type=f'mmext.{adapter}', loss=loss, **settings))


FOCAL, IOU = dict(type='mmext.FocalLoss'), dict(type='mmext.IoULoss')


@pytest.mark.parametrize(
    'adapter, loss', [('SegmentationLoss', IOU), ('YOLOv5ObjectnessLoss', IOU), ('YOLOv5BoxLoss', FOCAL)]
)
def test_a_loss_of_the_wrong_kind_is_refused(adapter, loss):
    with pytest.raises(TypeError, match=f"{adapter}: loss must be one of mmext's losses for .* use loss=dict"):
        build(adapter, loss)


def test_a_name_that_is_not_trained_is_refused():
    with pytest.raises(ValueError, match="use 'loss_focal'"):
        build('SegmentationLoss', FOCAL, loss_name='focal')


def test_one_hot_masks_are_refused():
    with pytest.raises(ValueError, match='integer labels'):
        build('SegmentationLoss', FOCAL)(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5))


def test_a_softmax_over_one_logit_is_refused():
    with pytest.raises(ValueError, match='out_channels=2'):
        build('SegmentationLoss', dict(type='mmext.SoftmaxFocalLoss'))(
            torch.zeros(2, 1, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)
        )


@pytest.mark.parametrize('loss', [dict(type='mmext.NWDLoss'), dict(IOU, variant='mpdiou', image_size=(64, 64))])
def test_a_length_is_refused_in_units_of_the_grid(loss):
    with pytest.raises(ValueError, match='units of the grid'):
        build('YOLOv5BoxLoss', loss)


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_unit_makes_no_difference_where_the_class_says_so(variant):
    scale_invariant = MODELS.build(dict(IOU, variant=variant)).scale_invariant
    size = dict(image_size=(64, 64)) if takes_image_size(variant) else {}
    pred, target = torch.tensor([[2.0, 3, 30, 20]]), torch.tensor([[8.0, 1, 28, 26]])
    loss, scaled = (iou_loss(pred * factor, target * factor, variant, **size) for factor in (1, 8))
    assert torch.allclose(loss, scaled) is scale_invariant


def test_weights_and_reductions_reach_the_loss_of_the_objectness():
    pred, target, weight = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    adapter, plain = build('YOLOv5ObjectnessLoss', FOCAL), MODELS.build(FOCAL)
    for reduction, avg_factor in [('none', None), ('mean', 7.0), ('mean', None), ('sum', None)]:
        torch.testing.assert_close(
            adapter(pred, target, weight, avg_factor, reduction), plain(pred, target, weight, avg_factor, reduction)
        )


def test_the_overlap_has_no_gradient_and_its_own_variant():
    pred = torch.tensor([[5.0, 5, 2, 2]], requires_grad=True)
    target = torch.tensor([[6.0, 5, 2, 4]])
    loss, overlap = build('YOLOv5BoxLoss', dict(IOU, alpha=3.0), overlap='giou')(pred, target)
    assert loss.requires_grad and not overlap.requires_grad
    corners = torch.tensor([[4.0, 4, 6, 6]]), torch.tensor([[5.0, 3, 7, 7]])
    torch.testing.assert_close(overlap, 1 - iou_loss(*corners, 'giou'))


def test_the_unreduced_loss_of_a_pixel_is_summed_over_the_classes():
    """mmsegmentation's OHEMPixelSampler indexes it with a mask of the pixels."""
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    loss = build('SegmentationLoss', FOCAL)(logits, labels, reduction_override='none')
    each = MODELS.build(FOCAL)(logits.movedim(1, -1), labels, reduction_override='none')
    torch.testing.assert_close(loss, each.sum(-1))
