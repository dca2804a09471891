"""YOLOX heads, mmdet's and mmext's, and what they are given."""

import torch
from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead
from mmdet.models.task_modules import SimOTAAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmext.heads import YOLOXHead

CLASSES, CHANNELS, SIZE = 3, 8, 160
BATCH = ConfigDict(assigner={'type': 'mmext.BatchSimOTAAssigner', 'center_radius': 2.5})
SOFTMAX = {'loss_cls': {'type': 'mmext.SoftmaxFocalLoss'}, 'cls_target': 'label'}
OWN = {
    'loss_cls': {'type': 'mmext.QualityFocalLoss'},
    'loss_bbox': {'type': 'mmext.IoULoss', 'variant': 'ciou', 'focus': {'type': 'mmext.WiseFocus'}},
    'loss_obj': {'type': 'mmext.VarifocalLoss'},
}
FOCAL = {'loss_cls': {'type': 'mmext.FocalLoss'}, 'loss_obj': {'type': 'mmext.FocalLoss'}, 'cls_target': 'hard'}


def own(variant, **arguments):
    """mmext's losses with another loss of boxes."""
    return OWN | {'loss_bbox': {'type': 'mmext.IoULoss', 'variant': variant, **arguments}}


@TASK_UTILS.register_module(force=True)
class Float32SimOTA(SimOTAAssigner):
    """mmdet's assigner fails in float64: it keeps the IoUs in float32."""

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None):
        pred_instances, gt_instances = (
            InstanceData(
                **{key: value.float() if value.is_floating_point() else value for key, value in instances.items()}
            )
            for instances in (pred_instances, gt_instances)
        )
        return super().assign(pred_instances, gt_instances, gt_instances_ignore)


def build(kind, seed=0, **arguments):
    torch.manual_seed(seed)
    config = {
        'type': kind,
        'num_classes': CLASSES,
        'in_channels': CHANNELS,
        'feat_channels': CHANNELS,
        'train_cfg': ConfigDict(assigner={'type': 'Float32SimOTA', 'center_radius': 2.5}),
        'test_cfg': ConfigDict(score_thr=0.01, nms={'type': 'nms', 'iou_threshold': 0.65}),
    }
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build({**config, **arguments})


def inputs(dtype=torch.float32, boxes=(5, 0, 3), seed=1):
    """Features, ground truth and metainfo of a batch."""
    generator = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(len(boxes), CHANNELS, SIZE // stride, SIZE // stride, generator=generator).to(dtype)
        for stride in (8, 16, 32)
    ]
    instances = []
    for number in boxes:
        top_left = torch.rand(number, 2, generator=generator) * 100
        sides = torch.rand(number, 2, generator=generator) * 50 + 5
        labels = torch.randint(0, CLASSES, (number,), generator=generator)
        instances.append(InstanceData(bboxes=torch.cat([top_left, top_left + sides], 1).to(dtype), labels=labels))
    metas = [{'img_shape': (SIZE, SIZE), 'scale_factor': (1.0, 1.0)}] * len(boxes)
    return features, instances, metas


def losses_and_gradients(head, features, instances, metas):
    head.zero_grad()
    losses = head.loss_by_feat(*head(features), instances, metas)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [parameter.grad for parameter in head.parameters()]


def pair(batch=False, **arguments):
    """mmdet's head and mmext's with the same weights; `batch`: with mmext's assigner, too."""
    ours = {'train_cfg': BATCH, **arguments} if batch else arguments
    theirs, ours = build('mmdet.YOLOXHead', **arguments), build('mmext.YOLOXHead', seed=7, **ours)
    assert type(theirs) is MMDetYOLOXHead
    assert type(ours) is YOLOXHead
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours
