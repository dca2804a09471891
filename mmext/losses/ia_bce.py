"""IoU-aware BCE loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss
from .numerics import bce, power
from .targets import Target, dense_target, weigh_classes

# The smallest target of a positive.
LOWEST_TARGET = 0.01


def ia_bce_loss(
    logit: Tensor,
    target: Target,
    alpha: float = 0.25,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""IoU-aware BCE: the target of a positive mixes its score and its IoU; easy negatives are down-weighted.

    .. math::
        L = \begin{cases} \mathrm{BCE}(p, q) & t > 0 \\ p^\gamma\, \mathrm{BCE}(p, 0) & t = 0 \end{cases}, \qquad
        q = \operatorname{sg}\bigl(\max(p^\alpha t^{1 - \alpha},\, 0.01)\bigr)

    q is detached, so a positive comes to rest where p = q, which is at p = t for t of at least 0.01. The weight of
    negatives keeps its gradient. With alpha and gamma 0 it is BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], where 0 marks a negative; integer labels (...), or both; see
            :func:`dense_target`.
        alpha: The share of the score in the target of a positive, in [0, 1).
        gamma: The focusing parameter of negatives, at least 0.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of class weights, does not fit the logits.

    Example:
        With alpha 1/2, at p = 3/4, a positive of IoU 1/3 has the target sqrt(3/4 * 1/3) = 1/2, and so
        1/2 * ln(4/3) + 1/2 * ln 4; a negative has (3/4)**2 * ln 4:

        >>> logit = torch.tensor([[3.0]]).log().repeat(2, 1)
        >>> ia_bce_loss(logit, torch.tensor([[1 / 3], [0.0]]), alpha=0.5)
        tensor([[0.8370],
                [0.7798]])

    Source: Cai et al., `Align-DETR <https://arxiv.org/abs/2304.07527>`_.
    """
    logit, target = dense_target(logit, target)
    # 1 for positives, 0 for negatives: arithmetic is several times faster on a CPU than masks.
    probability, positive = logit.sigmoid(), target.sign()
    mixed = probability.detach() ** alpha * target ** (1 - alpha)
    quality = positive * mixed.clamp(min=LOWEST_TARGET)
    weight = torch.lerp(power(probability, gamma, up_to_1=True), positive, positive)
    return weigh_classes(weight * bce(logit, quality), class_weight)


@MODELS.register_module()
class IABCELoss(SigmoidLoss):
    """IoU-aware BCE loss, weighted and reduced; the formula is that of :func:`ia_bce_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        alpha: The share of the score in the target of a positive, in [0, 1).
        gamma: The focusing parameter of negatives, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For an alpha outside [0, 1), or a negative gamma.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.IABCELoss', reduction='sum'))
        >>> loss(torch.zeros(1, 2), (torch.tensor([0]), torch.tensor([0.6])))  # class 0 with IoU 0.6
        tensor(0.8664)
    """

    rest = 'p = max(t, 0.01)'

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        check_at_least(self, 0, alpha=alpha, gamma=gamma)
        if alpha >= 1:
            raise ValueError(f'IABCELoss: alpha must be in [0, 1), but is {alpha}')
        self.alpha = alpha
        self.gamma = gamma

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return ia_bce_loss(logit, target, self.alpha, self.gamma, self.class_weight)

    def resting_point(self, target: Tensor) -> Tensor:
        return target.clamp(min=LOWEST_TARGET)
