"""Varifocal loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss, register_per_class
from .numerics import bce, lerp, power
from .targets import Target, dense_target, per_class, weigh_classes


def varifocal_loss(
    logit: Tensor,
    target: Target,
    alpha: float | Sequence[float] = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Varifocal loss: weights positives by their IoU and down-weights easy negatives.

    .. math::
        L = \begin{cases} t\, \mathrm{BCE}(p, t) & t > 0 \\ \alpha\, p^\gamma\, \mathrm{BCE}(p, 0) & t = 0 \end{cases}

    The minimum is at p = t for every t. The weight keeps its gradient. For t in {0, 1}, alpha 1 and gamma 0 it is BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], where 0 marks a negative; integer labels (...), or both; see
            :func:`dense_target`.
        alpha: The weight of negatives, at least 0; one number, or one per class.
        gamma: The focusing parameter of negatives, at least 0.
        iou_weighted: Weight positives by t; False: by 1.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of alphas or class weights, does not fit the logits.

    Example:
        At logit 0 a positive of IoU 0.6 has 0.6 * ln 2, a negative 0.75 * (1/2)**2 * ln 2:

        >>> varifocal_loss(torch.zeros(2, 1), torch.tensor([[0.6], [0.0]]))
        tensor([[0.4159],
                [0.1300]])

    Source: Zhang et al., `VarifocalNet <https://arxiv.org/abs/2008.13367>`_, eq. 2.
    """
    logit, target = dense_target(logit, target)
    alpha = per_class(alpha, logit)
    # 1 for positives, 0 for negatives: arithmetic is several times faster on a CPU than masks.
    positive = target.sign()
    focus = power(logit.sigmoid(), gamma, up_to_1=True)
    weight = torch.addcmul(target if iou_weighted else positive, lerp(alpha, 0 * alpha, positive), focus)
    return weigh_classes(weight * bce(logit, target), class_weight)


@MODELS.register_module()
class VarifocalLoss(SigmoidLoss):
    """Varifocal loss, weighted and reduced; the formula is that of :func:`varifocal_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        alpha: The weight of negatives, at least 0; one number, or one per class.
        gamma: The focusing parameter of negatives, at least 0.
        iou_weighted: Weight positives by their target; False: by 1.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative alpha or gamma.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.VarifocalLoss', reduction='sum'))
        >>> loss(torch.zeros(1, 2), (torch.tensor([0]), torch.tensor([0.6])))  # class 0 with IoU 0.6
        tensor(0.5459)
    """

    def __init__(self, alpha: float | Sequence[float] = 0.75, gamma: float = 2.0, iou_weighted: bool = True, **kwargs):
        super().__init__(**kwargs)
        register_per_class(self, 'alpha', alpha, highest=float('inf'))
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return varifocal_loss(logit, target, self.alpha, self.gamma, self.iou_weighted, self.class_weight)
