"""Poly-1 focal loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss, register_per_class
from .numerics import bce, lerp, power
from .targets import Target, dense_target, per_class, weigh_classes


def poly_focal_loss(
    logit: Tensor,
    target: Target,
    epsilon: float = 1.0,
    alpha: float | Sequence[float] | None = None,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Poly-1 focal loss: focal loss whose first polynomial coefficient is raised by epsilon.

    .. math::
        L = \alpha_t \bigl((1 - p_t)^\gamma\, \mathrm{BCE}(p, t) + \epsilon\, (1 - p_t)^{\gamma + 1}\bigr)

    :math:`p_t` and :math:`\alpha_t` are those of :func:`focal_loss`. It is made for targets of 0 and 1: for a target
    between them its minimum is not at p = t. epsilon 0 gives focal loss, gamma 0 gives Poly-1 cross entropy.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        epsilon: The amount added to the first polynomial coefficient (1 in focal loss), at least -1.
        alpha: The weight of positives in [0, 1], one number or one per class; negatives have 1 - alpha. None, the
            published form, weights both by 1.
        gamma: The focusing parameter, at least 0.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of alphas or class weights, does not fit the logits.

    Example:
        At logit 0 a positive has (1/2)**2 * ln 2 + (1/2)**3:

        >>> poly_focal_loss(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[0.2983]])

    Source: Leng et al., `PolyLoss <https://arxiv.org/abs/2204.12511>`_, table 1.
    """
    logit, target = dense_target(logit, target)
    miss = torch.addcmul(target, lerp(1, -1, target), logit.sigmoid())
    focus = power(miss, gamma, up_to_1=True)
    loss = focus * (bce(logit, target) + epsilon * miss)
    if alpha is not None:
        alpha = per_class(alpha, logit)
        loss = lerp(1 - alpha, alpha, target) * loss
    return weigh_classes(loss, class_weight)


@MODELS.register_module()
class PolyFocalLoss(SigmoidLoss):
    """Poly-1 focal loss, weighted and reduced; the formula is that of :func:`poly_focal_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        epsilon: The amount added to the first polynomial coefficient, at least -1.
        alpha: The weight of positives in [0, 1], one number or one per class; None: 1 for positives and negatives.
        gamma: The focusing parameter, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For an epsilon below -1, an alpha outside [0, 1], or a negative gamma.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.PolyFocalLoss', epsilon=2.0, reduction='sum'))
        >>> loss(torch.zeros(1, 1), torch.tensor([0]))
        tensor(0.4233)
    """

    soft_target = False

    def __init__(
        self, epsilon: float = 1.0, alpha: float | Sequence[float] | None = None, gamma: float = 2.0, **kwargs
    ):
        super().__init__(**kwargs)
        check_at_least(self, -1, epsilon=epsilon)
        check_at_least(self, 0, gamma=gamma)
        register_per_class(self, 'alpha', alpha, highest=1)
        self.epsilon = epsilon
        self.gamma = gamma

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return poly_focal_loss(logit, target, self.epsilon, self.alpha, self.gamma, self.class_weight)
