r"""Losses of the IoU family for boxes.

    L = 1 - IoU**alpha + sum(term**alpha for term in penalty)

A variant is a function of a :class:`BoxPair` that returns its penalty terms, each in [0, 1] or close; `alpha` is the
power of alpha-IoU (He et al., NeurIPS 2021, https://arxiv.org/abs/2110.13675, eq. 4), and 1 gives the
classical loss.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmext.registry import MODELS

from .base import ElementwiseLoss, check_choice, check_positive, power
from .box_pair import BoxPair

Penalty = Callable[[BoxPair], tuple[Tensor, ...]]
VARIANTS: dict[str, Penalty] = {}


def variant(penalty: Penalty) -> Penalty:
    """Register a function of a :class:`BoxPair` as the variant of its name."""
    VARIANTS[penalty.__name__] = penalty
    return penalty


@variant
def iou(pair: BoxPair) -> tuple[Tensor, ...]:
    """IoU, no penalty; with alpha 2 YOLOX's own loss. Yu et al., https://arxiv.org/abs/1608.01471."""
    return ()


@variant
def giou(pair: BoxPair) -> tuple[Tensor, ...]:
    """The empty share of the enclosing box. Rezatofighi et al., https://arxiv.org/abs/1902.09630, algorithm 1."""
    return (pair.ratio(pair.enclose_area - pair.union, pair.enclose_area),)


@variant
def diou(pair: BoxPair) -> tuple[Tensor, ...]:
    """Squared centre distance over squared enclosing diagonal. https://arxiv.org/abs/1911.08287, eq. 7."""
    return (pair.distance,)


@variant
def ciou(pair: BoxPair) -> tuple[Tensor, ...]:
    """DIoU's, and the difference of aspect times a constant trade-off. https://arxiv.org/abs/1911.08287, eq. 10."""
    angles = [torch.atan2(*wh.clamp(min=pair.eps).unbind(-1)) for wh in (pair.wh, pair.target_wh)]
    aspect = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    trade_off = pair.ratio(aspect, 1 - pair.iou + aspect).detach()
    return pair.distance, trade_off * aspect


@variant
def eiou(pair: BoxPair) -> tuple[Tensor, ...]:
    """Efficient IoU: DIoU's, and the squared differences of the sides over the enclosing box's squared sides.

    Zhang et al., https://arxiv.org/abs/2101.08158, eq. 6. mmdet's `EIoULoss` is Extended IoU, another loss.
    """
    sides = pair.ratio((pair.wh - pair.target_wh).square(), pair.enclose_wh.square())
    return pair.distance, *sides.unbind(-1)


def iou_loss(pred: Tensor, target: Tensor, variant: str = 'iou', alpha: float = 1.0, eps: float = 1e-7) -> Tensor:
    r"""Loss of the IoU family for aligned pairs of boxes.

        L = 1 - IoU**alpha + sum(term**alpha for term in penalty)

    | variant | penalty terms |
    |---|---|
    | iou | none |
    | giou | (C - U) / C |
    | diou | rho2 / c2 |
    | ciou | rho2 / c2, sg(v / (1 - IoU + v)) v with v = 4 / pi^2 (atan(w\*/h\*) - atan(w/h))^2 |
    | eiou | rho2 / c2, (w - w\*)^2 / cw^2, (h - h\*)^2 / ch^2 |

    U is the area of the union; cw, ch, C and c2 = cw^2 + ch^2 are the sides, the area and the squared diagonal of the
    enclosing box; rho2 is the squared distance of the centres; w, h are the prediction's sides, w\*, h\* the target's;
    sg stops the gradient. The loss is 0 for identical boxes, at most 1 + the number of terms, and the same for boxes
    in any unit. It is computed in float32 or wider, whatever the inputs' type; loss and gradient are finite for all
    finite boxes.

    Relations: alpha 2 of variant iou is YOLOX's stock loss, mmdet's `IoULoss(mode='square')`; ciou equals diou for
    equal aspects; eiou equals diou for equal sizes.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (n, 4), in pixels or any other unit.
        target: Target boxes of the same shape and unit.
        variant: One of `VARIANTS`.
        alpha: The power, above 0. Above 1 it favours the pairs that overlap well already; below 1 the others.
        eps: The smallest denominator. A pair whose union is below it has IoU 0.

    Returns:
        The loss of each pair, of shape (n,).

    Raises:
        ValueError: For shapes that are not aligned boxes, an unknown variant, or an alpha that is not above 0.

    Source: He et al., alpha-IoU, https://arxiv.org/abs/2110.13675, eq. 4; the variants name their own.
    """
    if variant not in VARIANTS:
        raise ValueError(f'iou_loss: variant must be one of {", ".join(VARIANTS)}, but is {variant!r}')
    if not alpha > 0:
        raise ValueError(f'iou_loss: alpha must be above 0, but is {alpha!r}')
    pair = BoxPair(pred, target, eps)
    loss = 1 - power(pair.iou, alpha)
    for term in VARIANTS[variant](pair):
        loss = loss + power(term, alpha)
    return loss


@MODELS.register_module()
class IoULoss(ElementwiseLoss):
    """Module of :func:`iou_loss`. `mean` without an `avg_factor` divides by the number of pairs.

    A weight may be of shape (n,) or, as mmdet's heads give it, (n, 4), whose rows are averaged.

    Args:
        variant: One of `VARIANTS`: iou, giou, diou, ciou, eiou.
        alpha: The power of alpha-IoU, above 0; 1 is the classical loss.
        eps: The smallest denominator, above 0.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: For an unknown variant, or an alpha or eps that is not above 0.
    """

    def __init__(
        self,
        variant: str = 'iou',
        alpha: float = 1.0,
        eps: float = 1e-7,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ):
        super().__init__(reduction, loss_weight)
        check_choice(self, 'variant', variant, tuple(VARIANTS))
        check_positive(self, alpha=alpha, eps=eps)
        self.variant = variant
        self.alpha = alpha
        self.eps = eps

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return iou_loss(pred, target, self.variant, self.alpha, self.eps)

    def _fit(self, weight: Tensor, loss: Tensor) -> Tensor:
        if weight.shape == (*loss.shape, 4):
            weight = weight.mean(-1)
        return super()._fit(weight, loss)

    def extra_repr(self) -> str:
        return f'{self.variant}, alpha={self.alpha}, reduction={self.reduction}, loss_weight={self.loss_weight}'
