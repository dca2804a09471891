"""Losses for detection; they need mmengine and torch alone."""

from .class_weights import class_weights
from .focal import (
    AsymmetricLoss,
    FocalLoss,
    PolyFocalLoss,
    QualityFocalLoss,
    SoftmaxFocalLoss,
    VarifocalLoss,
    asymmetric_loss,
    focal_loss,
    poly_focal_loss,
    quality_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)
from .focus import FocalFocus, PIoUFocus, WiseFocus
from .iou import VARIANTS, IoULoss, iou_loss
from .nwd import NWDLoss, nwd_loss

__all__ = [
    'VARIANTS',
    'AsymmetricLoss',
    'FocalFocus',
    'FocalLoss',
    'IoULoss',
    'NWDLoss',
    'PIoUFocus',
    'PolyFocalLoss',
    'QualityFocalLoss',
    'SoftmaxFocalLoss',
    'VarifocalLoss',
    'WiseFocus',
    'asymmetric_loss',
    'class_weights',
    'focal_loss',
    'iou_loss',
    'nwd_loss',
    'poly_focal_loss',
    'quality_focal_loss',
    'softmax_focal_loss',
    'varifocal_loss',
]
