"""Quality focal loss."""

from collections.abc import Sequence

from torch import Tensor

from mmext.checks import check_at_least
from mmext.registry import MODELS

from .base import SigmoidLoss
from .numerics import bce, power
from .targets import Target, dense_target, weigh_classes


def quality_focal_loss(
    logit: Tensor, target: Target, beta: float = 2.0, class_weight: Sequence[float] | None = None
) -> Tensor:
    r"""Quality focal loss: weights each element by the distance of its score from the target.

    .. math:: L = \sum_{\text{classes}} |t - p|^\beta\, \mathrm{BCE}(p, t)

    The minimum is at p = t for every t. The weight keeps its gradient. With beta 0 it is the sum of BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], integer labels (...), or both; see :func:`dense_target`.
        beta: The focusing parameter, at least 0.
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.

    Returns:
        The loss of each row, (...), as in mmdet.

    Raises:
        ValueError: If the target, or the number of class weights, does not fit the logits.

    Example:
        At logit 0 a score of 1 has (1/2)**2 * ln 2, a score of 1/2 nothing:

        >>> quality_focal_loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.5]]))
        tensor([0.1733, 0.0000])

    Source: Li et al., `GFL <https://arxiv.org/abs/2006.04388>`_, eq. 5.
    """
    logit, target = dense_target(logit, target)
    distance = logit.sigmoid() - target
    if beta % 2:
        # An even power needs no absolute value, which costs a third of the time.
        distance = distance.abs()
    return weigh_classes(power(distance, beta, up_to_1=True) * bce(logit, target), class_weight).sum(-1)


@MODELS.register_module()
class QualityFocalLoss(SigmoidLoss):
    """Quality focal loss, weighted and reduced; the formula is that of :func:`quality_focal_loss`.

    Shape:
        pred: logits (..., C). target: scores (..., C), integer labels (...), or a pair (labels, scores). The loss is a
        scalar, or one value for each row, (...), with `reduction='none'`. Without `avg_factor`, `'mean'` averages over
        the rows.

    Args:
        beta: The focusing parameter, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative beta.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.QualityFocalLoss', reduction='sum'))
        >>> loss(torch.zeros(1, 2), (torch.tensor([0]), torch.tensor([0.5])))  # class 0 with IoU 0.5
        tensor(0.1733)
    """

    per_row = True

    def __init__(self, beta: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        check_at_least(self, 0, beta=beta)
        self.beta = beta

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return quality_focal_loss(logit, target, self.beta, self.class_weight)
