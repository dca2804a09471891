"""Losses for detection; they need mmengine and torch alone."""

from .asymmetric import AsymmetricLoss, asymmetric_loss
from .class_balance import class_weights
from .focal import FocalLoss, focal_loss
from .focus import FocalFocus, PIoUFocus, WiseFocus
from .ia_bce import IABCELoss, ia_bce_loss
from .iou import VARIANTS, IoULoss, iou_loss
from .mal import MALoss, ma_loss
from .nwd import NWDLoss, nwd_loss
from .poly_focal import PolyFocalLoss, poly_focal_loss
from .quality_focal import QualityFocalLoss, quality_focal_loss
from .softmax_focal import SoftmaxFocalLoss, softmax_focal_loss
from .varifocal import VarifocalLoss, varifocal_loss

__all__ = [
    'VARIANTS',
    'AsymmetricLoss',
    'FocalFocus',
    'FocalLoss',
    'IABCELoss',
    'IoULoss',
    'MALoss',
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
    'ia_bce_loss',
    'iou_loss',
    'ma_loss',
    'nwd_loss',
    'poly_focal_loss',
    'quality_focal_loss',
    'softmax_focal_loss',
    'varifocal_loss',
]
