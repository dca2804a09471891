"""Base class of the adapters."""

from torch import nn

from mmext.checks import name_of
from mmext.losses.base import BoxLoss, ElementwiseLoss
from mmext.registry import MODELS


class LossAdapter(nn.Module):
    """Base of the adapters: holds one of mmext's losses, and calls it in :meth:`forward`.

    Args:
        loss: The config of the loss, such as `dict(type='mmext.FocalLoss')`, with its reduction and its weight.

    Raises:
        TypeError: For a loss of another library, or of the wrong kind.
    """

    takes_boxes = False
    """Whether the loss is one for boxes, and not one for classes."""

    def __init__(self, loss: dict):
        super().__init__()
        self.loss = MODELS.build(loss)
        if not isinstance(self.loss, ElementwiseLoss) or isinstance(self.loss, BoxLoss) is not self.takes_boxes:
            kind, example = ('boxes', 'IoULoss') if self.takes_boxes else ('classes', 'FocalLoss')
            raise TypeError(
                f"{name_of(self)}: loss must be one of mmext's losses for {kind}, but is {loss['type']}; "
                f"use loss=dict(type='mmext.{example}')"
            )

    @property
    def reduction(self) -> str:
        """The reduction of the loss; heads and checks read it."""
        return self.loss.reduction
