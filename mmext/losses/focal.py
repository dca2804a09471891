r"""Focal losses for classification and objectness.

    L = weight(p, t) * BCE(p, t),   p = sigmoid(logit)

and beside them the focal loss of a softmax. Each is computed from logits, in float32 or wider, and is stable for
logits of +-1000.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.registry import MODELS

from .base import ElementwiseLoss, check_at_least, power, wide

Target = Tensor | tuple[Tensor, Tensor]


def dense_target(logit: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The logits, float32 or wider, and the target in their shape and type, without a gradient.

    Args:
        logit: (..., C), before the sigmoid.
        target: The same shape, scores in [0, 1]; or integer labels (...), where C and every other number outside
            0..C-1 means background; or the pair of such labels and the scores of the labelled class, both (...).

    Raises:
        ValueError: Where the target is none of these.
    """
    labels, score = target if isinstance(target, (tuple, list)) else (target, None)
    if score is None and target.shape == logit.shape:
        return wide(logit, target.detach())
    rows = logit.shape[:-1]
    if labels.is_floating_point() or labels.shape != rows or (score is not None and score.shape != rows):
        shapes = [f'{part.dtype} of shape {tuple(part.shape)}' for part in (labels, score) if part is not None]
        raise ValueError(
            f'the target of logits of shape {tuple(logit.shape)} must be scores of that shape, integer '
            f'labels of shape {tuple(rows)}, or a pair (labels, scores) of that shape; but is '
            f'{" and ".join(shapes)}'
        )
    one_hot = labels.unsqueeze(-1) == torch.arange(logit.shape[-1], device=labels.device)
    if score is not None:
        one_hot = one_hot * score.detach().unsqueeze(-1)
    return wide(logit, one_hot)


def per_class(values: float | Sequence[float] | Tensor, logit: Tensor) -> float | Tensor:
    """A number as it is; one number per class as a tensor beside the logits."""
    if isinstance(values, (int, float)):
        return values
    values = torch.as_tensor(values, dtype=logit.dtype, device=logit.device)
    if values.shape != logit.shape[-1:]:
        raise ValueError(
            f'alpha has {values.numel()} values, one per class, but the logits have {logit.shape[-1]} classes'
        )
    return values


def bce(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of each element."""
    return F.binary_cross_entropy_with_logits(logit, target, reduction='none')


def focal_loss(logit: Tensor, target: Target, alpha: float | Sequence[float] = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss: turn away from what is already right.

        L = alpha_t (1 - p_t)**gamma BCE(p, t)
        p_t = p t + (1 - p) (1 - t),   alpha_t = alpha t + (1 - alpha) (1 - t)

    Made for hard targets: for t strictly between 0 and 1 its minimum is not at p = t (t = 0.6 gives p = 0.72); there
    use :func:`quality_focal_loss` or :func:`varifocal_loss`. gamma 0 is the weighted BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        alpha: The weight of positives, 1 - alpha that of negatives, in [0, 1]; one number, or one per class.
        gamma: The focus, at least 0.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target or the number of alphas does not fit the logits.

    Source: Lin et al., https://arxiv.org/abs/1708.02002, eq. 5.
    """
    logit, target = dense_target(logit, target)
    alpha = per_class(alpha, logit)
    miss = logit.sigmoid() * (1 - target) + (-logit).sigmoid() * target
    balance = alpha * target + (1 - alpha) * (1 - target)
    return balance * power(miss, gamma) * bce(logit, target)


def varifocal_loss(
    logit: Tensor, target: Target, alpha: float = 0.75, gamma: float = 2.0, iou_weighted: bool = True
) -> Tensor:
    """Varifocal loss: weight positives by their IoU score, focus negatives.

        L = t BCE(p, t)                    where t > 0
            alpha p**gamma BCE(p, 0)       where t = 0

    The minimum is at p = t for every t. The weight keeps its gradient. For t in {0, 1}, alpha 1 and gamma 0 it is BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], 0 marks a negative; integer labels (...), or both; see :func:`dense_target`.
        alpha: The weight of negatives, at least 0.
        gamma: The focus of negatives, at least 0.
        iou_weighted: Weight positives by t; False: by 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target does not fit the logits.

    Source: Zhang et al., https://arxiv.org/abs/2008.13367, eq. 2.
    """
    logit, target = dense_target(logit, target)
    positive = target if iou_weighted else torch.ones_like(target)
    weight = torch.where(target > 0, positive, alpha * power(logit.sigmoid(), gamma))
    return weight * bce(logit, target)


def quality_focal_loss(logit: Tensor, target: Target, beta: float = 2.0) -> Tensor:
    """Quality focal loss: the focus is the distance from the score to its target.

        L = sum over classes of abs(t - p)**beta BCE(p, t)

    The minimum is at p = t for every t. The weight keeps its gradient. beta 0 is the sum of BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], integer labels (...), or both; see :func:`dense_target`.
        beta: The focus, at least 0.

    Returns:
        The loss of each row, (...), as mmdet's.

    Raises:
        ValueError: Where the target does not fit the logits.

    Source: Li et al., https://arxiv.org/abs/2006.04388, eq. 5.
    """
    logit, target = dense_target(logit, target)
    miss = (target * (-logit).sigmoid() - (1 - target) * logit.sigmoid()).abs()
    return (power(miss, beta) * bce(logit, target)).sum(-1)


def softmax_focal_loss(
    logit: Tensor,
    target: Tensor,
    alpha: float | Sequence[float] | None = None,
    gamma: float = 2.0,
    background_index: int = 0,
) -> Tensor:
    """Focal loss of a softmax, for labels of which exactly one is true.

        L = -alpha[y] (1 - p_y)**gamma log p_y,   p = softmax(logit)

    gamma 0 is the weighted cross entropy.

    Args:
        logit: (..., C), before the softmax.
        target: The labels y in 0..C-1, of any integer type, or floats that hold integers, (...) or (..., 1).
        alpha: One weight >= 0 per class; or a number a in [0, 1]: a for the background class, 1 - a for every other;
            None: 1 for all.
        gamma: The focus, at least 0.
        background_index: The class that a single alpha takes for the background; -1 is the last.

    Returns:
        The loss of each row, (...).

    Raises:
        ValueError: Where the target or the number of alphas does not fit the logits.

    Source: Lin et al., https://arxiv.org/abs/1708.02002, eq. 5, over a softmax.
    """
    rows = logit.shape[:-1]
    if target.shape not in (rows, (*rows, 1)):
        raise ValueError(
            f'the target of a softmax over logits of shape {tuple(logit.shape)} must be labels of shape '
            f"{tuple(rows)}, but is of shape {tuple(target.shape)}; in YOLOXHead set cls_target='label'"
        )
    (logit,) = wide(logit)
    label = target.reshape(*rows, 1).long()
    log_p = logit.log_softmax(-1).gather(-1, label).squeeze(-1)
    loss = -power(-torch.expm1(log_p), gamma) * log_p
    if alpha is None:
        return loss
    alpha = per_class(alpha, logit)
    if isinstance(alpha, Tensor):
        return alpha[label.squeeze(-1)] * loss
    background = label.squeeze(-1) == background_index % logit.shape[-1]
    return torch.where(background, alpha, 1 - alpha) * loss


def keep_alpha(loss: ElementwiseLoss, alpha: float | Sequence[float], highest: float) -> None:
    """Set `loss.alpha`: a number, or one per class in a buffer that follows the module and stays out of checkpoints."""
    values = [alpha] if isinstance(alpha, (int, float)) else list(alpha)
    if not values or not all(0 <= value <= highest for value in values):
        raise ValueError(
            f'{type(loss).__name__}: alpha must be in [0, {highest}], one number or one per class, but is {alpha!r}'
        )
    if isinstance(alpha, (int, float)):
        loss.alpha = alpha
    else:
        loss.register_buffer('alpha', torch.tensor(values, dtype=torch.float32), persistent=False)


class SigmoidLoss(ElementwiseLoss):
    """Base of the losses over a sigmoid: `use_sigmoid`, which mmdet's heads read, can only be True.

    Args:
        use_sigmoid: True; in configs because mmdet's heads read it there.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: Where `use_sigmoid` is not True.
    """

    soft_target = True
    """Whether the minimum is at p = t for t strictly between 0 and 1, as targets made of IoUs need it."""

    def __init__(self, use_sigmoid: bool = True, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__(reduction, loss_weight)
        if use_sigmoid is not True:
            raise ValueError(
                f'{type(self).__name__}: use_sigmoid must be True, but is {use_sigmoid!r}; for a softmax '
                'use mmext.SoftmaxFocalLoss'
            )
        self.use_sigmoid = use_sigmoid


@MODELS.register_module()
class FocalLoss(SigmoidLoss):
    """Module of :func:`focal_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        alpha: The weight of positives in [0, 1]; one number, or one per class.
        gamma: The focus, at least 0.
        use_sigmoid: See :class:`SigmoidLoss`.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: For an alpha outside [0, 1], or a negative gamma.
    """

    soft_target = False

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.25,
        gamma: float = 2.0,
        use_sigmoid: bool = True,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ):
        super().__init__(use_sigmoid, reduction, loss_weight)
        keep_alpha(self, alpha, highest=1)
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma

    def elementwise(self, pred: Tensor, target: Target) -> Tensor:
        return focal_loss(pred, target, self.alpha, self.gamma)


@MODELS.register_module()
class VarifocalLoss(SigmoidLoss):
    """Module of :func:`varifocal_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        alpha: The weight of negatives, at least 0.
        gamma: The focus of negatives, at least 0.
        iou_weighted: Weight positives by their target; False: by 1.
        use_sigmoid: See :class:`SigmoidLoss`.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: For a negative alpha or gamma.
    """

    def __init__(
        self,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        use_sigmoid: bool = True,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ):
        super().__init__(use_sigmoid, reduction, loss_weight)
        check_at_least(self, 0, alpha=alpha, gamma=gamma)
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    def elementwise(self, pred: Tensor, target: Target) -> Tensor:
        return varifocal_loss(pred, target, self.alpha, self.gamma, self.iou_weighted)


@MODELS.register_module()
class QualityFocalLoss(SigmoidLoss):
    """Module of :func:`quality_focal_loss`. `mean` without an `avg_factor` divides by the number of rows.

    Args:
        beta: The focus, at least 0.
        use_sigmoid: See :class:`SigmoidLoss`.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: For a negative beta.
    """

    def __init__(self, beta: float = 2.0, use_sigmoid: bool = True, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__(use_sigmoid, reduction, loss_weight)
        check_at_least(self, 0, beta=beta)
        self.beta = beta

    def elementwise(self, pred: Tensor, target: Target) -> Tensor:
        return quality_focal_loss(pred, target, self.beta)


@MODELS.register_module()
class SoftmaxFocalLoss(ElementwiseLoss):
    """Module of :func:`softmax_focal_loss`. `mean` without an `avg_factor` divides by the number of rows.

    In :class:`YOLOXHead` it is a `loss_cls` with `cls_target='label'`, and the head predicts with a softmax. YOLOX's
    classes are those of the objects alone, without a background: give one alpha per class there.

    Args:
        alpha: One weight >= 0 per class; or a number in [0, 1]: that of the background class, 1 minus it for every
            other; None: 1 for all.
        gamma: The focus, at least 0.
        num_classes: The number of logits in a row; where given, one alpha per class is checked against it.
        background_index: The class that a single alpha takes for the background; -1 is the last.
        use_sigmoid: False; in configs because mmdet's heads read it there.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.

    Raises:
        ValueError: For a negative gamma or weight, a single alpha above 1, a wrong number of weights, an index outside
            the classes, or `use_sigmoid` that is not False.
    """

    soft_target = False

    def __init__(
        self,
        alpha: float | Sequence[float] | None = None,
        gamma: float = 2.0,
        num_classes: int | None = None,
        background_index: int = 0,
        use_sigmoid: bool = False,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ):
        super().__init__(reduction, loss_weight)
        if use_sigmoid is not False:
            raise ValueError(
                f'SoftmaxFocalLoss: use_sigmoid must be False, but is {use_sigmoid!r}; for a sigmoid use '
                'mmext.FocalLoss'
            )
        check_at_least(self, 0, gamma=gamma)
        if alpha is None:
            self.alpha = None
        else:
            keep_alpha(self, alpha, highest=1 if isinstance(alpha, (int, float)) else float('inf'))
        if num_classes is not None:
            self._check_classes(num_classes, alpha, background_index)
        self.gamma = gamma
        self.num_classes = num_classes
        self.background_index = background_index
        self.use_sigmoid = use_sigmoid

    @staticmethod
    def _check_classes(num_classes: int, alpha: object, background_index: int) -> None:
        if isinstance(alpha, Sequence) and len(alpha) != num_classes:
            raise ValueError(
                f'SoftmaxFocalLoss: alpha has {len(alpha)} weights, but num_classes is {num_classes}; '
                'give one weight per class'
            )
        if not -num_classes <= background_index < num_classes:
            raise ValueError(
                f'SoftmaxFocalLoss: background_index {background_index} is outside the {num_classes} classes'
            )

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return softmax_focal_loss(pred, target, self.alpha, self.gamma, self.background_index)
