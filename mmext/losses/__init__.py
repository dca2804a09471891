"""Losses for detection; they need mmengine and torch alone."""

from .focal import (
    FocalLoss,
    QualityFocalLoss,
    SoftmaxFocalLoss,
    VarifocalLoss,
    focal_loss,
    quality_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)
from .iou import VARIANTS, IoULoss, iou_loss

__all__ = [
    'VARIANTS',
    'FocalLoss',
    'IoULoss',
    'QualityFocalLoss',
    'SoftmaxFocalLoss',
    'VarifocalLoss',
    'focal_loss',
    'iou_loss',
    'quality_focal_loss',
    'softmax_focal_loss',
    'varifocal_loss',
]
