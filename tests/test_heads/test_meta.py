"""YOLOXHead on `meta` tensors, which have no values: what reads one is an error, and so is a tensor of another device.

On a GPU the same tests run under torch's own check for host syncs.
"""

import copy

import pytest
import torch
from yolox import BATCH, FOCAL, OWN, SOFTMAX, build, inputs, own

from mmext import losses as mmext_losses
from mmext.losses.base import SigmoidLoss
from mmext.losses.focus import Focus
from mmext.testing import OneDevice
from mmext.visualization.loss_curves import exported

DEVICES = ['meta', pytest.param('cuda', marks=pytest.mark.gpu)]


WEIGHTS = [1.0, 2.0, 0.5]
LOSSES = {
    'stock': {},
    **{
        kind: {
            'loss_cls': {'type': f'mmext.{kind}', 'class_weight': WEIGHTS},
            'loss_obj': {'type': f'mmext.{kind}', 'reduction': 'sum'},
        }
        for kind in exported(SigmoidLoss)
    },
    'alpha of each class': {'loss_cls': {'type': 'mmext.FocalLoss', 'alpha': [0.2, 0.5, 0.9]}},
    'softmax': SOFTMAX,
    'softmax with weights': {'loss_cls': {**SOFTMAX['loss_cls'], 'alpha': WEIGHTS}, 'cls_target': 'label'},
    'softmax of mmdet': {'loss_cls': {'type': 'CrossEntropyLoss', 'reduction': 'sum'}, 'cls_target': 'label'},
    **{variant: own(variant, alpha=3.0) for variant in mmext_losses.VARIANTS},
    'overlap': own('ciou', inner_ratio=0.8, interval=(0.0, 0.95)),
    **{
        f'{kind} {arguments or ""}'.strip(): own('giou', focus={'type': f'mmext.{kind}', **arguments})
        for kind in exported(Focus)
        for arguments in ([{'version': version} for version in (1, 2, 3)] if kind == 'WiseFocus' else [{}])
    },
    'NWDLoss': {'loss_bbox': {'type': 'mmext.NWDLoss'}},
    **{kind: {'loss_bbox': {'type': kind, 'reduction': 'sum'}} for kind in ('GIoULoss', 'CIoULoss', 'SIoULoss')},
}


def step(kind, device, use_l1=False, boxes=(5, 0, 3), **arguments):
    """The losses, and the gradients of the head's outputs, once all that is kept has been made."""
    head = build(kind, **copy.deepcopy(arguments)).to(device).train()
    head.use_l1 = use_l1
    features, instances, metas = inputs(boxes=boxes)
    instances = [instance.to(device) for instance in instances]
    outputs = head([feature.to(device) for feature in features])
    outputs = [[level.detach().requires_grad_() for level in levels] for levels in outputs]
    if device != 'meta':
        head.loss_by_feat(*outputs, instances, metas)
        torch.cuda.set_sync_debug_mode('error')
    try:
        with OneDevice():
            losses = head.loss_by_feat(*outputs, instances, metas)
            levels = [level for levels in outputs for level in levels]
            return losses, torch.autograd.grad(sum(losses.values()), levels), levels
    finally:
        if device != 'meta':
            torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('use_l1', [False, True])
@pytest.mark.parametrize('losses', LOSSES)
def test_every_loss(losses, use_l1, device):
    losses, gradients, levels = step('mmext.YOLOXHead', device, use_l1, train_cfg=BATCH, **LOSSES[losses])
    assert list(losses) == ['loss_cls', 'loss_bbox', 'loss_obj', *(['loss_l1'] if use_l1 else [])]
    assert all(loss.shape == () and loss.device.type == device for loss in losses.values())
    for gradient, level in zip(gradients, levels, strict=True):
        assert (gradient.shape, gradient.dtype, gradient.device.type) == (level.shape, level.dtype, device)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('losses', [{}, OWN, FOCAL])
@pytest.mark.parametrize('cls_target', ['iou', 'hard'])
@pytest.mark.parametrize('obj_target', ['hard', 'iou'])
@pytest.mark.parametrize('boxes', [(5, 0, 3), (0, 0), (9,)])
def test_every_target(obj_target, cls_target, losses, boxes, device):
    targets = {'obj_target': obj_target, 'cls_target': cls_target}
    step('mmext.YOLOXHead', device, boxes=boxes, train_cfg=BATCH, **{**losses, **targets})


@pytest.mark.parametrize('kind', ['mmdet.YOLOXHead', 'mmext.YOLOXHead'])
def test_mmdet_reads_values(kind):
    """Its head, and any head with its assigner, ask which elements a mask holds."""
    with pytest.raises(NotImplementedError, match='nonzero'):
        step(kind, 'meta')
