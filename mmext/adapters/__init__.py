"""Losses in the form in which the heads of other OpenMMLab projects call them; they need mmengine and torch alone."""

from .segmentation_loss import SegmentationLoss
from .yolov5_losses import YOLOv5BoxLoss, YOLOv5ObjectnessLoss

__all__ = ['SegmentationLoss', 'YOLOv5BoxLoss', 'YOLOv5ObjectnessLoss']
