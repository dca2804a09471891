"""Matchability-aware loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss
from .numerics import bce, power
from .targets import Target, dense_target, weigh_classes


def ma_loss(logit: Tensor, target: Target, gamma: float = 1.5, class_weight: Sequence[float] | None = None) -> Tensor:
    r"""Matchability-aware loss: lowers the target of poor matches and down-weights easy negatives.

    .. math::
        L = \begin{cases} \mathrm{BCE}(p, t^\gamma) & t > 0 \\
        \operatorname{sg}(p)^\gamma\, \mathrm{BCE}(p, 0) & t = 0 \end{cases}

    The minimum for a positive is at :math:`p = t^\gamma`, below t: the score still ranks boxes by their IoU. The weight
    of negatives is detached. With gamma 0 positives have the target 1, negatives the weight 1, and a NaN target
    counts as a negative.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], where 0 marks a negative; integer labels (...), or both; see
            :func:`dense_target`.
        gamma: The exponent of the target and of the negatives' weight, at least 0.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of class weights, does not fit the logits.

    Example:
        At p = 3/4 a positive of IoU 1/4 has the target (1/4)**1.5 = 1/8, and so 1/8 * ln(4/3) + 7/8 * ln 4; a negative
        has (3/4)**1.5 * ln 4:

        >>> ma_loss(torch.tensor([[3.0]]).log().repeat(2, 1), torch.tensor([[0.25], [0.0]]))
        tensor([[1.2490],
                [0.9004]])

    Source: Huang et al., `DEIM <https://arxiv.org/abs/2412.04234>`_.
    """
    logit, target = dense_target(logit, target)
    # 1 for positives, 0 for negatives: arithmetic is several times faster on a CPU than masks.
    positive = target.sign()
    weight = torch.lerp(power(logit.sigmoid().detach(), gamma, up_to_1=True), positive, positive)
    quality = positive * power(target, gamma, up_to_1=True)
    return weigh_classes(weight * bce(logit, quality), class_weight)


@MODELS.register_module()
class MALoss(SigmoidLoss):
    """Matchability-aware loss, weighted and reduced; the formula is that of :func:`ma_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        gamma: The exponent of the target and of the negatives' weight, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative gamma.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.MALoss', reduction='sum'))
        >>> loss(torch.zeros(1, 2), (torch.tensor([0]), torch.tensor([0.6])))  # class 0 with IoU 0.6
        tensor(0.9382)
    """

    rest = 'p = t**gamma'

    def __init__(self, gamma: float = 1.5, **kwargs):
        super().__init__(**kwargs)
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return ma_loss(logit, target, self.gamma, self.class_weight)

    def resting_point(self, target: Tensor) -> Tensor:
        return target**self.gamma
