"""Detection heads that use the losses properly; they need mmdet."""

from .nms import DetTTAModel
from .yolox_head import YOLOXHead

__all__ = ['DetTTAModel', 'YOLOXHead']
