"""Focal loss over a sigmoid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss, register_per_class
from .numerics import bce, lerp, power
from .targets import Target, dense_target, per_class, weigh_classes


def focal_loss(
    logit: Tensor,
    target: Target,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Focal loss: down-weights well-classified examples.

    .. math::
        L = \alpha_t\, (1 - p_t)^\gamma\, \mathrm{BCE}(p, t), \qquad
        p_t = p\,t + (1 - p)(1 - t), \quad \alpha_t = \alpha\,t + (1 - \alpha)(1 - t)

    It is made for targets of 0 and 1. For a target between them, label smoothing included, its minimum is not at p = t
    (t = 0.6 gives p = 0.72): use :func:`quality_focal_loss` or :func:`varifocal_loss` there. With gamma 0 it is the
    weighted BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        alpha: The weight of positives in [0, 1], one number or one per class; negatives have 1 - alpha.
        gamma: The focusing parameter, at least 0.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of alphas or class weights, does not fit the logits.

    Example:
        At logit 0, p is 1/2 and BCE is ln 2, so a positive has 0.25 * (1/2)**2 * ln 2:

        >>> focal_loss(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[0.0433]])

    Source: Lin et al., `Focal loss <https://arxiv.org/abs/1708.02002>`_, eq. 5.
    """
    logit, target = dense_target(logit, target)
    alpha = per_class(alpha, logit)
    miss = torch.addcmul(target, lerp(1, -1, target), logit.sigmoid())
    balance = lerp(1 - alpha, alpha, target)
    return weigh_classes(balance * power(miss, gamma, up_to_1=True) * bce(logit, target), class_weight)


@MODELS.register_module()
class FocalLoss(SigmoidLoss):
    """Focal loss over a sigmoid, weighted and reduced; the formula is that of :func:`focal_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        alpha: The weight of positives in [0, 1], one number or one per class; negatives have 1 - alpha.
        gamma: The focusing parameter, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For an alpha outside [0, 1], or a negative gamma.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.FocalLoss', reduction='sum'))
        >>> loss(torch.zeros(2, 3), torch.tensor([0, 3]))  # class 0, and background
        tensor(0.6931)
    """

    soft_target = False

    def __init__(self, alpha: float | Sequence[float] = 0.25, gamma: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        register_per_class(self, 'alpha', alpha, highest=1)
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return focal_loss(logit, target, self.alpha, self.gamma, self.class_weight)
