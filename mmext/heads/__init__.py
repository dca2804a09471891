"""Detection heads that use the losses properly; they need mmdet."""

from .yolox_head import YOLOXHead

__all__ = ['YOLOXHead']
