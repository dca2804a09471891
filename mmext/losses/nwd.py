r"""The loss of the normalized Wasserstein distance, for tiny boxes: it has no IoU in it, so it stands alone."""

import torch
from torch import Tensor

from mmext.registry import MODELS

from .base import check_positive
from .box_pair import BoxPair
from .iou import BoxLoss


def nwd_loss(pred: Tensor, target: Tensor, constant: float = 12.8) -> Tensor:
    r"""Loss of the normalized Wasserstein distance of the Gaussians that two boxes stand for.

    .. math:: L = 1 - \exp\Big(-\frac1K \sqrt{d_x^2 + d_y^2 + \tfrac14 (w - w^*)^2 + \tfrac14 (h - h^*)^2}\Big)

    It is in [0, 1), 0 for identical boxes (with gradient 0 there), and grows with the distance whether the boxes
    overlap or not. Unlike the IoU it depends on the unit.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (n, 4), in pixels.
        target: Target boxes of the same shape and unit.
        constant: K, above 0, in the unit of the boxes: the mean size of the data set's objects; 12.8 px is that of
            AI-TOD.

    Returns:
        The loss of each pair, of shape (n,), in float32 or wider.

    Raises:
        ValueError: For shapes that are not aligned boxes, or a constant that is not above 0.

    Source: Wang et al., `NWD <https://arxiv.org/abs/2110.13389>`_, eq. 8 to 10.
    """
    check_positive('nwd_loss', constant=constant)
    pair = BoxPair(pred, target)
    # The norm's gradient at 0 is 0; that of a square root would not be finite.
    distance = torch.linalg.vector_norm(torch.cat([pair.offset, (pair.wh - pair.target_wh) / 2]), dim=0)
    return -torch.expm1(-distance / constant)


@MODELS.register_module()
class NWDLoss(BoxLoss):
    """Module of :func:`nwd_loss`. `mean` without an `avg_factor` divides by the number of pairs.

    Args:
        constant: The mean size of the data set's objects, in the unit of the boxes, above 0.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`. The authors take 2 in one-stage and 10 in two-stage detectors.

    Raises:
        ValueError: For a constant that is not above 0.
    """

    def __init__(self, constant: float = 12.8, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__(reduction, loss_weight)
        check_positive(self, constant=constant)
        self.constant = constant

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return nwd_loss(pred, target, self.constant)
