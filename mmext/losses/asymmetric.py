"""Asymmetric loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss
from .numerics import power
from .targets import Target, dense_target, weigh_classes


def asymmetric_loss(
    logit: Tensor,
    target: Target,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Asymmetric loss: focuses negatives more than positives and discards very easy negatives.

    .. math::
        L = -t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \qquad p_m = \max(p - m, 0)

    The focusing factors keep their gradient, as in the paper's analysis; the authors' code detaches them by default. A
    negative with p near 1 has almost no gradient: it counts as mislabeled. The loss is made for targets of 0 and 1: for
    a target between them its minimum is not at p = t. With equal gammas and clip 0 it is focal loss without alpha; with
    both gammas and clip 0, it is BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        gamma_pos: The focusing parameter of positives, at least 0.
        gamma_neg: The focusing parameter of negatives, at least 0.
        clip: The margin m in [0, 1): a negative with p below it has no loss.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: If the target, or the number of class weights, does not fit the logits.

    Example:
        At logit 0 a positive has 1/2 * ln 2, a negative -0.45**4 * ln 0.55:

        >>> asymmetric_loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))
        tensor([[0.3466],
                [0.0245]])

    Source: Ben-Baruch et al., `ASL <https://arxiv.org/abs/2009.14119>`_, eq. 5 to 7.
    """
    logit, target = dense_target(logit, target)
    log_p = F.logsigmoid(logit)
    probability = log_p.exp()
    shifted = (probability - clip).relu()
    # A margin below the resolution of p would leave log(0) at p = 1.
    log_reject = torch.log1p(-shifted) if clip > torch.finfo(logit.dtype).eps else F.logsigmoid(-logit)
    positive = power(1 - probability, gamma_pos, up_to_1=True) * log_p
    negative = power(shifted, gamma_neg, up_to_1=True) * log_reject
    return weigh_classes((target - 1) * negative - target * positive, class_weight)


@MODELS.register_module()
class AsymmetricLoss(SigmoidLoss):
    """Asymmetric loss, weighted and reduced; the formula is that of :func:`asymmetric_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or (..., C) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over all elements.

    Args:
        gamma_pos: The focusing parameter of positives, at least 0.
        gamma_neg: The focusing parameter of negatives, at least 0.
        clip: The margin in [0, 1): a negative with p below it has no loss.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative gamma, or a clip outside [0, 1).

    Example:
        >>> loss = MODELS.build(dict(type='mmext.AsymmetricLoss', reduction='sum'))
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.3711)
    """

    soft_target = False

    def __init__(self, gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05, **kwargs):
        super().__init__(**kwargs)
        check_at_least(self, 0, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
        if clip >= 1:
            raise ValueError(f'AsymmetricLoss: clip must be in [0, 1), but is {clip}')
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.clip = clip

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return asymmetric_loss(logit, target, self.gamma_pos, self.gamma_neg, self.clip, self.class_weight)
