"""Normalized Wasserstein distance loss, for tiny boxes. It does not use the IoU, so it is no variant of `IoULoss`."""

import torch
from torch import Tensor

from mmext.checks import check_positive
from mmext.registry import MODELS

from .base import BoxLoss
from .box_pair import BoxPair


def nwd_loss(pred: Tensor, target: Tensor, constant: float = 12.8) -> Tensor:
    r"""Loss of the normalized Wasserstein distance between the Gaussians that model two boxes.

    .. math:: L = 1 - \exp\Bigl(-\frac1K \sqrt{d_x^2 + d_y^2 + \tfrac14 (w - w^*)^2 + \tfrac14 (h - h^*)^2}\Bigr)

    It is in [0, 1), 0 for identical boxes (with gradient 0 there), and grows with the distance, whether or not the
    boxes overlap. Unlike the IoU it depends on the unit.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (n, 4), in pixels.
        target: Target boxes of the same shape and unit.
        constant: K, above 0, in the unit of the boxes: the mean object size of the data set, 12.8 px for AI-TOD.

    Returns:
        The loss of each pair, of shape (n,), in float32 or wider.

    Raises:
        ValueError: For shapes that are not aligned boxes, or a constant that is not above 0.

    Example:
        Two boxes of one size, 6.4 px apart: 1 - exp(-6.4 / 12.8).

        >>> nwd_loss(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[6.4, 0, 14.4, 8]]))
        tensor([0.3935])

    Source: Wang et al., `NWD <https://arxiv.org/abs/2110.13389>`_, eq. 8 to 10.
    """
    check_positive('nwd_loss', constant=constant)
    pair = BoxPair(pred, target)
    # At 0 the norm has the gradient 0, a square root an infinite one.
    distance = torch.linalg.vector_norm(torch.cat([pair.offset, pair.growth / 2]), dim=0)
    return -torch.expm1(-distance / constant)


@MODELS.register_module()
class NWDLoss(BoxLoss):
    """NWD loss, weighted and reduced; the formula is that of :func:`nwd_loss`.

    Shape:
        pred, target: boxes (x1, y1, x2, y2), (n, 4), in pixels. weight: (n,), or (n, 4), which is averaged per row. The
        loss is a scalar, or (n,) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over the pairs.

    Args:
        constant: The mean object size of the data set, in the unit of the boxes, above 0.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`. The authors use 2 in one-stage and 10 in two-stage detectors.

    Raises:
        ValueError: For a constant that is not above 0.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.NWDLoss', constant=8.0))
        >>> loss(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[8.0, 0, 16, 8]]))
        tensor(0.6321)
    """

    scale_invariant = False

    def __init__(self, constant: float = 12.8, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__(reduction, loss_weight)
        check_positive(self, constant=constant)
        self.constant = constant

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return nwd_loss(pred, target, self.constant)
