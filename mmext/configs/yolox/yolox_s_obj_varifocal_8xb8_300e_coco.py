"""Varifocal loss for the objectness: configs/yolox/yolox_s_obj-varifocal_8xb8-300e_coco.py in the new style."""

from mmengine.config import read_base

from mmext.losses import VarifocalLoss

with read_base():
    from .yolox_s_8xb8_300e_coco import *

model.bbox_head.loss_obj = dict(type=VarifocalLoss, alpha=0.75, gamma=2.0, reduction='sum', loss_weight=1.0)
