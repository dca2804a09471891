"""Losses for mmyolo's YOLOv5Head and YOLOv7Head."""

import torch
from torch import Tensor

from mmext.checks import check_choice
from mmext.losses import iou_loss
from mmext.losses.numerics import upcast
from mmext.registry import MODELS

from .base import LossAdapter

OVERLAPS = ('iou', 'giou', 'diou', 'ciou', 'eiou', 'siou')


@MODELS.register_module()
class YOLOv5BoxLoss(LossAdapter):
    """A box loss as `loss_bbox` of mmyolo's YOLOv5Head and YOLOv7Head.

    These heads give boxes (center x, center y, width, height) in units of the grid, and take the overlap of each pair
    beside the loss: clamped at 0, it is the target of the objectness.

    Shape:
        pred, target: boxes (x, y, w, h), (n, 4). weight: (n,). Returns the loss, a scalar, and the overlaps, (n,).

    Args:
        loss: The config of the loss, with `reduction='mean'` and its `loss_weight`.
        overlap: The overlap that becomes the target of the objectness: 1 minus the loss of this variant of
            :func:`iou_loss`, whatever the box loss. mmyolo takes the overlap of the box loss itself, by default ciou.

    Raises:
        TypeError: For something else than one of mmext's losses for boxes.
        ValueError: For an unknown overlap, or a loss with a length as parameter, which would mean another length at
            each level.

    Example:
        The boxes have the same center and width, and the target twice the height: IoU 1/2.

        >>> loss = MODELS.build(dict(type='mmext.YOLOv5BoxLoss', loss=dict(type='mmext.IoULoss'), overlap='iou'))
        >>> loss(torch.tensor([[5.0, 5, 2, 2]]), torch.tensor([[5.0, 5, 2, 4]]))
        (tensor(0.5000), tensor([0.5000]))
    """

    takes_boxes = True

    def __init__(self, loss: dict, overlap: str = 'ciou'):
        super().__init__(loss)
        check_choice(self, 'overlap', overlap, OVERLAPS)
        if not self.loss.scale_invariant:
            raise ValueError(
                f"YOLOv5BoxLoss: {loss['type']} has a length as parameter, but mmyolo's head gives it boxes in units "
                "of the grid, which differ between the levels; use mmext.IoULoss with another variant than 'mpdiou'"
            )
        self.overlap = overlap

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted and reduced loss, and the overlap of each pair, which has no gradient."""
        pred, target = (_corners(boxes) for boxes in upcast(pred, target))
        loss = self.loss(pred, target, weight, avg_factor, reduction_override)
        return loss, 1 - iou_loss(pred.detach(), target, self.overlap)


@MODELS.register_module()
class YOLOv5ObjectnessLoss(LossAdapter):
    """A loss over a sigmoid as `loss_obj` of mmyolo's YOLOv5Head and YOLOv7Head.

    These heads give the objectness of a level as (B, anchors, H, W), and a loss with one value for each row, such as
    :class:`QualityFocalLoss`, would take the W columns for classes. Here each element is a row with one class. For the
    other losses over a sigmoid it makes no difference.

    Shape:
        pred, target, weight: of any shape, the same. The loss is a scalar, or of that shape with `reduction='none'`.

    Args:
        loss: The config of the loss, with `reduction='mean'` and its `loss_weight`.

    Raises:
        TypeError: For something else than one of mmext's losses for classes.

    Example:
        >>> qfl = dict(type='mmext.QualityFocalLoss', beta=0)
        >>> loss = MODELS.build(dict(type='mmext.YOLOv5ObjectnessLoss', loss=qfl))
        >>> loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))  # ln 2, and not 4 times ln 2
        tensor(0.6931)
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The weighted and reduced loss."""
        rows = (part if part is None else part.reshape(-1, 1) for part in (pred, target, weight))
        loss = self.loss(*rows, avg_factor, reduction_override)
        return loss.reshape(pred.shape) if loss.dim() else loss


def _corners(boxes: Tensor) -> Tensor:
    """(x, y, w, h) with the center (x, y) as (x1, y1, x2, y2)."""
    center, size = boxes.chunk(2, -1)
    return torch.cat([center - size / 2, center + size / 2], -1)
