"""mmdet's YOLOX head with a choice of targets and losses, and test-time augmentation; they need mmdet."""

from .tta import DetTTAModel
from .yolox_head import YOLOXHead

__all__ = ['DetTTAModel', 'YOLOXHead']
