"""mmext's losses in the heads of mmyolo: forward, backward, and equal to mmyolo's own where both are defined."""

import pytest
import torch
from mmengine import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from projects import require
from torch import nn

from mmext.audit import check_wiring
from mmext.registry import MODELS

CLASSES = 3
SIZE = 64
IMG_METAS = [dict(batch_input_shape=(SIZE, SIZE), img_shape=(SIZE, SIZE))] * 2
# Index of the image, label, corners.
BOXES = torch.tensor([[0.0, 1, 4, 6, 30, 34], [0, 2, 20, 24, 60, 58], [1, 0, 10, 12, 26, 22]])
TASK_ALIGNED = dict(type='BatchTaskAlignedAssigner', num_classes=CLASSES, topk=10, alpha=0.5, beta=6.0)
TWO_ASSIGNERS = dict(
    initial_epoch=4,
    initial_assigner=dict(
        type='BatchATSSAssigner', num_classes=CLASSES, topk=4, iou_calculator=dict(type='mmdet.BboxOverlaps2D')
    ),
    assigner=TASK_ALIGNED,
)
CROSS_ENTROPY = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)
# gamma 0 and alpha 0.5 make it half the binary cross entropy.
BCE = dict(type='mmext.FocalLoss', alpha=0.5, gamma=0.0, loss_weight=2.0)
QUALITY = dict(type='mmext.QualityFocalLoss', beta=0.0)
GIOU = dict(type='mmext.IoULoss', variant='giou')
HEADS = {
    'YOLOv5Head': dict(feats=dict(in_channels=[8] * 3)),
    'YOLOv7Head': dict(feats=dict(in_channels=[8] * 3)),
    'YOLOv6Head': dict(feats=dict(in_channels=[8] * 3), train_cfg=TWO_ASSIGNERS),
    'YOLOv8Head': dict(feats=dict(in_channels=[8] * 3, reg_max=4), train_cfg=dict(assigner=TASK_ALIGNED)),
    'PPYOLOEHead': dict(feats=dict(in_channels=[8] * 3, reg_max=4), train_cfg=TWO_ASSIGNERS),
    'YOLOXHead': dict(
        feats=dict(in_channels=8, feat_channels=8),
        train_cfg=dict(
            assigner=dict(
                type='mmdet.SimOTAAssigner', center_radius=2.5, iou_calculator=dict(type='mmdet.BboxOverlaps2D')
            )
        ),
    ),
    'RTMDetHead': dict(
        feats=dict(in_channels=8, feat_channels=8, pred_kernel_size=1),
        train_cfg=dict(
            assigner=dict(
                type='BatchDynamicSoftLabelAssigner',
                num_classes=CLASSES,
                topk=13,
                iou_calculator=dict(type='mmdet.BboxOverlaps2D'),
            )
        ),
    ),
}


@pytest.fixture(autouse=True)
def scope():
    """The scope of the project, which ends with each test."""
    with DefaultScope.overwrite_default_scope('mmyolo'):
        yield


def build(name, **losses):
    """A head of mmyolo by its config, with the same weights each time."""
    require('mmyolo')
    from mmyolo.registry import MODELS as MMYOLO
    from mmyolo.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    given = HEADS[name]
    module = dict(
        type='RTMDetSepBNHeadModule' if name == 'RTMDetHead' else f'{name}Module', num_classes=CLASSES, **given['feats']
    )
    if name in ('YOLOv5Head', 'YOLOv7Head'):
        module['num_base_priors'] = 3
    head = MMYOLO.build(Config(dict(type=name, head_module=module, train_cfg=given.get('train_cfg'), **losses)))
    generator = torch.Generator().manual_seed(0)
    for key, parameter in head.named_parameters():
        # Boxes of some size: the distances of YOLOv6 are in strides, and not clamped.
        mean = 2.0 if 'reg_preds' in key and parameter.dim() == 1 else 0.0
        parameter.data.normal_(mean, 0.3, generator=generator)
    return head.train()


def train_step(head):
    """The losses of a batch, and the gradients of all parameters by the sum of the losses."""
    MessageHub.get_current_instance().update_info('epoch', 0)
    generator = torch.Generator().manual_seed(1)
    feats = tuple(torch.randn(2, 8, SIZE // stride, SIZE // stride, generator=generator) for stride in (8, 16, 32))
    losses = head.loss_by_feat(*head(feats), BOXES.clone(), IMG_METAS)
    head.zero_grad()
    sum(loss.sum() for loss in losses.values()).backward()
    gradients = {name: each.grad for name, each in head.named_parameters() if each.grad is not None}
    assert gradients
    return {name: loss.detach().sum() for name, loss in losses.items()}, gradients


def findings(head):
    model = nn.Module()
    model.bbox_head = head
    return check_wiring(model)


# The config of each loss, mmext's and mmyolo's or mmdet's, with the same parameters.
def adapted(variant):
    own = dict(type='IoULoss', iou_mode=variant, bbox_format='xywh', return_iou=True, loss_weight=0.05)
    loss = dict(type='mmext.IoULoss', variant=variant, loss_weight=0.05)
    return dict(type='mmext.YOLOv5BoxLoss', loss=loss, overlap=variant), own


def in_corners(reduction):
    own = dict(type='IoULoss', iou_mode='giou', bbox_format='xyxy', return_iou=False, reduction=reduction)
    return dict(GIOU, reduction=reduction), own


def cross_entropy(reduction):
    return dict(BCE, reduction=reduction), dict(CROSS_ENTROPY, reduction=reduction)


QUALITY_OBJECTNESS = dict(type='mmext.YOLOv5ObjectnessLoss', loss=QUALITY)
VARIFOCAL = dict(type='mmext.VarifocalLoss', alpha=0.75, gamma=2.0, reduction='sum')
MMDET_VARIFOCAL = dict(type='mmdet.VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0, reduction='sum')
SQUARE = dict(type='mmext.IoULoss', variant='iou', alpha=2.0, loss_weight=5.0, reduction='sum')
MMDET_SQUARE = dict(type='mmdet.IoULoss', mode='square', eps=1e-16, loss_weight=5.0, reduction='sum')
SAME = [
    *(
        (head, name, *losses)
        for head in ('YOLOv5Head', 'YOLOv7Head')
        for name, losses in [
            ('loss_bbox', adapted('ciou')),
            ('loss_bbox', adapted('giou')),
            ('loss_obj', cross_entropy('mean')),
            ('loss_obj', (QUALITY_OBJECTNESS, CROSS_ENTROPY)),
            ('loss_cls', cross_entropy('mean')),
        ]
    ),
    *(
        (head, name, *losses)
        for head in ('YOLOv6Head', 'PPYOLOEHead')
        for name, losses in [('loss_bbox', in_corners('mean')), ('loss_cls', (VARIFOCAL, MMDET_VARIFOCAL))]
    ),
    ('YOLOv8Head', 'loss_bbox', *in_corners('sum')),
    ('YOLOv8Head', 'loss_cls', *cross_entropy('sum')),
    ('YOLOv8Head', 'loss_cls', *cross_entropy('none')),
    ('YOLOXHead', 'loss_bbox', SQUARE, MMDET_SQUARE),
    ('YOLOXHead', 'loss_obj', *cross_entropy('sum')),
    ('YOLOXHead', 'loss_cls', *cross_entropy('sum')),
    ('RTMDetHead', 'loss_bbox', GIOU, dict(type='mmdet.GIoULoss')),
    (
        'RTMDetHead',
        'loss_cls',
        dict(type='mmext.QualityFocalLoss', use_sigmoid=True),
        dict(type='mmdet.QualityFocalLoss', use_sigmoid=True),
    ),
]


@pytest.mark.parametrize('name, part, ours, theirs', SAME)
def test_losses_and_gradients_equal_those_of_mmyolo(name, part, ours, theirs):
    head = build(name, **{part: ours})
    assert not [finding for finding in findings(head) if finding.level == 'error']
    (losses, gradients), (own_losses, own_gradients) = train_step(head), train_step(build(name, **{part: theirs}))
    assert losses[part] > 0
    torch.testing.assert_close(losses, own_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, own_gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'name, part', [(name, part) for name in ('YOLOXHead', 'YOLOv8Head') for part in ('loss_cls', 'loss_bbox')]
)
def test_a_mean_is_divided_twice_and_refused(name, part):
    """What the check refuses: the loss is a fraction of what it should be."""
    loss = dict(BCE if part == 'loss_cls' else GIOU)
    mean = build(name, **{part: dict(loss, reduction='mean')})
    (finding,) = [finding for finding in findings(mean) if finding.level == 'error']
    assert finding.key == f'model.bbox_head.{part}.reduction'
    assert finding.remedy == f"Set model.bbox_head.{part}.reduction='sum'"
    assert train_step(mean)[0][part] < train_step(build(name, **{part: dict(loss, reduction='sum')}))[0][part] / 2


@pytest.mark.parametrize('name', ['YOLOv5Head', 'YOLOv7Head'])
def test_quality_focal_loss_sums_over_the_width_without_the_adapter(name):
    plain = build(name, loss_obj=QUALITY)
    (finding,) = [finding for finding in findings(plain) if finding.level == 'error']
    assert finding.key == 'model.bbox_head.loss_obj'
    assert 'mmext.YOLOv5ObjectnessLoss' in finding.remedy
    ratio = train_step(plain)[0]['loss_obj'] / train_step(build(name, loss_obj=QUALITY_OBJECTNESS))[0]['loss_obj']
    assert 2 < ratio < SIZE // 8 + 1e-3


@pytest.mark.parametrize('name', ['YOLOv5Head', 'YOLOv7Head'])
def test_a_box_loss_needs_the_adapter(name):
    (finding,) = [finding for finding in findings(build(name, loss_bbox=GIOU)) if finding.level == 'error']
    assert 'mmext.YOLOv5BoxLoss' in finding.remedy


@pytest.mark.parametrize('name', ['YOLOv6Head', 'YOLOv8Head', 'PPYOLOEHead'])
@pytest.mark.parametrize('loss', ['NWDLoss', 'IoULoss'])
def test_a_loss_with_a_length_is_refused_where_boxes_are_in_strides(name, loss):
    reduction = 'sum' if name == 'YOLOv8Head' else 'mean'
    extra = dict(variant='mpdiou', image_size=(SIZE, SIZE)) if loss == 'IoULoss' else {}
    head = build(name, loss_bbox=dict(type=f'mmext.{loss}', reduction=reduction, **extra))
    (finding,) = [finding for finding in findings(head) if finding.level == 'error']
    assert finding.key == 'model.bbox_head.loss_bbox' and 'units of the stride' in finding.message


@pytest.mark.parametrize('name', ['YOLOXHead', 'RTMDetHead'])
def test_a_length_is_in_pixels_elsewhere(name):
    """NWD as `loss_bbox` gets the boxes that mmyolo decodes, in pixels."""
    reduction = 'sum' if name == 'YOLOXHead' else 'mean'
    head = build(name, loss_bbox=dict(type='mmext.NWDLoss', reduction=reduction))
    assert not [finding for finding in findings(head) if finding.level == 'error']
    targets = []
    head.loss_bbox.register_forward_pre_hook(lambda module, args: targets.append(args[1]))
    train_step(head)
    known = {tuple(box) for box in BOXES[:, 2:].tolist()}
    assert {tuple(box) for box in targets[0].tolist()} <= known


def test_every_sigmoid_loss_trains_the_objectness_of_yolov5():
    from mmext.losses.base import SigmoidLoss

    names = [name for name, kind in MODELS.module_dict.items() if issubclass(kind, SigmoidLoss)]
    assert len(names) >= 7
    for name in names:
        head = build('YOLOv5Head', loss_obj=dict(type='mmext.YOLOv5ObjectnessLoss', loss=dict(type=f'mmext.{name}')))
        losses, gradients = train_step(head)
        assert losses['loss_obj'] > 0 and all(gradient.isfinite().all() for gradient in gradients.values()), name
