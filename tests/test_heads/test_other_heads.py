"""mmext's losses in mmdet's other heads: the shipped configs, shrunk, beside mmdet's own losses."""

import copy
import re
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from mmdet.models.losses import VarifocalLoss
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmext.audit import check_wiring

CLASSES, SIZE = 3, 128
CHANNELS = dict.fromkeys(('in_channels', 'out_channels', 'feat_channels', 'fc_out_channels'), 16)
SMALL = {**CHANNELS, 'num_classes': CLASSES, 'stacked_convs': 2}
BOXES = [[[8, 8, 40, 30], [50, 20, 100, 80], [20, 60, 44, 100]], [[30, 30, 90, 110]]]


@dataclass
class Row:
    """A shipped config, trained in this epoch, with these losses in place of its own."""

    config: str
    epoch: int = 0
    losses: dict = field(default_factory=dict)


def classes(kind, **arguments):
    return {'loss_cls': {'type': f'mmext.{kind}', **arguments}}


CROSS_ENTROPY = classes('SoftmaxFocalLoss', gamma=0.0)
RETINANET = 'retinanet/retinanet_r50_fpn_focal-giou_1x_coco.py'
FCOS = 'fcos/fcos_r50-caffe_fpn_gn-head_focal-giou_1x_coco.py'
ATSS = 'atss/atss_r50_fpn_focal-diou_1x_coco.py'
RTMDET = 'rtmdet/rtmdet_s_varifocal_8xb32-300e_coco.py'
FASTER_RCNN = 'faster_rcnn/faster-rcnn_r50_fpn_softmax-focal-giou_1x_coco.py'
TOOD = 'tood/tood_r50_fpn_quality-diou_1x_coco.py'
ROWS = {
    'retinanet': Row(RETINANET),
    'retinanet-softmax': Row(RETINANET, losses=CROSS_ENTROPY),
    'fcos': Row(FCOS),
    'fcos-softmax': Row(FCOS, losses=CROSS_ENTROPY),
    'atss': Row(ATSS),
    'atss-softmax': Row(ATSS, losses=CROSS_ENTROPY),
    'vfnet': Row('vfnet/vfnet_r50_fpn_varifocal-diou_1x_coco.py'),
    'gfl': Row('gfl/gfl_r50_fpn_quality-diou_1x_coco.py'),
    'rtmdet': Row(RTMDET),
    'rtmdet-quality': Row(RTMDET, losses=classes('QualityFocalLoss', use_sigmoid=True)),
    'faster_rcnn': Row(FASTER_RCNN),
    'faster_rcnn-cross-entropy': Row(FASTER_RCNN, losses=CROSS_ENTROPY),
    'faster_rcnn-alpha': Row(
        FASTER_RCNN, losses=classes('SoftmaxFocalLoss', gamma=0.0, alpha=0.25, background_index=-1)
    ),
    'tood-initial': Row(TOOD),
    'tood': Row(TOOD, epoch=4),
}
# mmdet has no focal loss of a softmax.
COMPARED = [name for name in ROWS if name != 'faster_rcnn']


@MODELS.register_module(force=True)
class VarifocalLossOfPairs(VarifocalLoss):
    """mmdet's takes dense targets alone; this takes RTMDet's pairs of labels and scores, too."""

    def forward(self, pred, target, weight=None, **kwargs):
        if isinstance(target, tuple):
            labels, scores = target
            target = F.one_hot(labels, pred.shape[1] + 1)[:, :-1] * scores[:, None]
            weight = weight[:, None]
        return super().forward(pred, target, weight, **kwargs)


def of_mmdet(loss):
    """mmdet's loss of the same formula and parameters."""
    loss = dict(loss)
    kind = loss.pop('type').removeprefix('mmext.')
    if kind == 'IoULoss':
        return {'type': {'giou': 'GIoULoss', 'diou': 'DIoULoss'}[loss.pop('variant')], **loss}
    if kind == 'SoftmaxFocalLoss':
        assert loss['gamma'] == 0
        alpha = loss.get('alpha')
        return {'type': 'CrossEntropyLoss', 'class_weight': alpha and [1 - alpha] * CLASSES + [alpha]}
    return {'type': 'VarifocalLossOfPairs' if kind == 'VarifocalLoss' else kind, **loss}


@cache
def detector(config):
    return Config.fromfile(ROOT / 'configs' / config).model


def shrink(node):
    for key, value in node.items():
        if isinstance(value, dict):
            shrink(value)
        elif key in SMALL:
            node[key] = SMALL[key]


def build(row, theirs=False):
    """The detector of a row, small, and in evaluation without a threshold; `theirs`: with mmdet's losses."""
    model = copy.deepcopy(detector(row.config))
    head = model.get('bbox_head') or model.roi_head.bbox_head
    # Item by item: the `update` of a config merges, and would keep arguments of the loss before.
    for name, loss in {**head, **row.losses}.items():
        if 'loss' in name:
            head[name] = of_mmdet(loss) if theirs and loss['type'].startswith('mmext.') else loss
    shrink(model)
    model.backbone = dict(type='ResNet', depth=18, base_channels=8)
    if model.neck.type != 'FPN':
        model.neck = dict(type='FPN', start_level=1, num_outs=3)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    if 'roi_head' not in model:
        head.norm_cfg = dict(type='GN', num_groups=4)
    model.test_cfg.get('rcnn', model.test_cfg).update(score_thr=0.0, max_per_img=1000)
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    return model


def batch(boxes=BOXES):
    images = torch.randn(len(boxes), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    shape = (SIZE, SIZE)
    metainfo = dict.fromkeys(('img_shape', 'batch_input_shape', 'pad_shape', 'ori_shape'), shape)
    samples = [
        DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.tensor(own, dtype=torch.float).reshape(-1, 4), labels=torch.arange(len(own)) % CLASSES
            ),
            metainfo={**metainfo, 'scale_factor': (1.0, 1.0)},
        )
        for own in boxes
    ]
    return images, samples


def step(model, row, boxes=BOXES):
    """The losses of one training step, and the gradients of all parameters."""
    MessageHub.get_current_instance().update_info('epoch', row.epoch)
    torch.manual_seed(0)
    total, losses = model.parse_losses(model(*batch(boxes), mode='loss'))
    total.backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def test_every_config_has_a_row():
    shipped = {str(path.relative_to(ROOT / 'configs')) for path in ROOT.glob('configs/[!_]*/*.py')}
    assert {row.config for row in ROWS.values()} == {name for name in shipped if not name.startswith('yolox/')}


@pytest.mark.parametrize('name', ROWS)
def test_learns_in_all_branches(name):
    model = build(ROWS[name])
    assert not check_wiring(model)
    losses, gradients = step(model, ROWS[name])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for branch in ('cls', 'reg'):
        last = [gradient for key, gradient in gradients.items() if re.search(rf'(?<!rpn)_{branch}\.', key)]
        assert sum(gradient.abs().sum() for gradient in last) > 1e-3


@pytest.mark.parametrize('name', COMPARED)
def test_equals_mmdet_losses(name):
    row = ROWS[name]
    (ours, our_gradients), (theirs, their_gradients) = (step(build(row, theirs), row) for theirs in (False, True))
    assert ours.keys() == theirs.keys()
    for key, loss in theirs.items():
        torch.testing.assert_close(ours[key], loss, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f'{key}: {text}')
    assert our_gradients.keys() == their_gradients.keys()
    for key, gradient in their_gradients.items():
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(our_gradients[key], gradient, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize('name', ROWS)
def test_an_image_without_objects_is_no_obstacle(name):
    losses, gradients = step(build(ROWS[name]), ROWS[name], boxes=[[], []])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize('name', ROWS)
def test_predicts_every_class(name):
    model = build(ROWS[name]).eval()
    with torch.no_grad():
        results = model(*batch(), mode='predict')
    for result in results:
        found = result.pred_instances
        assert found.bboxes.isfinite().all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert set(found.labels.tolist()) == set(range(CLASSES))
