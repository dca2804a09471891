"""Alpha-CIoU for the boxes: configs/yolox/yolox_s_alpha-ciou_8xb8-300e_coco.py in the new style."""

from mmengine.config import read_base

from mmext.losses import IoULoss

with read_base():
    from .yolox_s_8xb8_300e_coco import *

model.bbox_head.loss_bbox = dict(type=IoULoss, variant='ciou', alpha=3.0, reduction='sum', loss_weight=5.0)
