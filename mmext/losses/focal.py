r"""Losses for classification and objectness.

.. math:: L = \text{weight}(p, t)\, \mathrm{BCE}(p, t), \qquad p = \operatorname{sigmoid}(\text{logit})

Poly-1 adds a term to it, the asymmetric loss shifts p for negatives; and beside them stands the focal loss of a
softmax. Each is computed from logits, in float32 or wider, and is stable for logits of +-1000.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.registry import MODELS

from .base import ElementwiseLoss, check_at_least, lower_power, power, wide
from .weighted_bce import Alpha, Target, Weigh, bce, dense_target, per_class, weighted_bce, weighted_bce_sum


def weigh_classes(loss: Tensor, class_weight: Sequence[float] | Tensor | None) -> Tensor:
    """The loss (..., C) with each class multiplied by its weight, positives and negatives alike."""
    return loss if class_weight is None else loss * per_class(class_weight, loss, 'class_weight')


def from_probability(probability: Tensor) -> Tensor:
    """The logit of a probability, in float32 or wider; 0 and 1 count as the nearest numbers that have a gradient."""
    (probability,) = wide(probability)
    eps = torch.finfo(probability.dtype).eps
    return probability.clamp(eps**2, 1 - eps).logit()


def variance(p: Tensor) -> Tensor:
    """p (1 - p), the derivative of the sigmoid."""
    return torch.addcmul(p, p, p, value=-1)


def mix(negative: Alpha, positive: Alpha, t: Tensor) -> Tensor:
    """(1 - t) negative + t positive, in one operation."""
    if isinstance(negative, Tensor):
        return torch.lerp(negative, positive, t)
    return torch.rsub(t, negative, alpha=negative - positive)


def focal_weight(p: Tensor, t: Tensor | None, gamma: float, alpha: Alpha) -> tuple[Tensor, Callable[[], Tensor]]:
    """The weight of :func:`focal_loss` and its slope."""
    direction, miss, balance = 1, p, 1 - alpha
    if t is not None:
        direction = mix(1, -1, t)
        miss = torch.addcmul(t, direction, p)
        balance = mix(1 - alpha, alpha, t)
    shared = balance * lower_power(miss, gamma)
    weight = shared * miss if gamma else balance * torch.ones_like(miss)
    return weight, lambda: (direction * shared).mul_(variance(p))


def focal_loss(
    logit: Tensor,
    target: Target,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Focal loss: turn away from what is already right.

    .. math::
        L = \alpha_t\, (1 - p_t)^\gamma\, \mathrm{BCE}(p, t), \qquad
        p_t = p\,t + (1 - p)(1 - t), \quad \alpha_t = \alpha\,t + (1 - \alpha)(1 - t)

    Made for hard targets: for t strictly between 0 and 1, label smoothing among them, its minimum is not at p = t
    (t = 0.6 gives p = 0.72); there use :func:`quality_focal_loss` or :func:`varifocal_loss`. gamma 0 is the weighted
    BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        alpha: The weight of positives, 1 - alpha that of negatives, in [0, 1]; one number, or one per class.
        gamma: The focus, at least 0.
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target or the number of alphas or weights does not fit the logits.

    Source: Lin et al., `Focal loss <https://arxiv.org/abs/1708.02002>`_, eq. 5.
    """
    return weigh_classes(weighted_bce(logit, target, focal_weight, gamma, alpha), class_weight)


def poly_focal_loss(
    logit: Tensor,
    target: Target,
    epsilon: float = 1.0,
    alpha: float | Sequence[float] | None = None,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Poly-1 focal loss: the focal loss with another coefficient of the first power of 1 - p_t.

    .. math::
        L = \alpha_t \big((1 - p_t)^\gamma\, \mathrm{BCE}(p, t) + \epsilon\, (1 - p_t)^{\gamma + 1}\big)

    with the focal loss's :math:`p_t` and :math:`\alpha_t`. Made for hard targets: for t strictly between 0 and 1 the
    minimum is not at p = t. epsilon 0 is the focal loss, gamma 0 Poly-1 cross entropy.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        epsilon: What is added to the first coefficient, which is 1: at least -1.
        alpha: The weight of positives, 1 - alpha that of negatives, in [0, 1]; one number, or one per class; None: 1
            for both, the published form.
        gamma: The focus, at least 0.
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target or the number of alphas or weights does not fit the logits.

    Source: Leng et al., `PolyLoss <https://arxiv.org/abs/2204.12511>`_, table 1.
    """
    logit, target = dense_target(logit, target)
    miss = logit.sigmoid() * (1 - target) + (-logit).sigmoid() * target
    loss = power(miss, gamma) * bce(logit, target) + epsilon * power(miss, gamma + 1)
    if alpha is not None:
        alpha = per_class(alpha, logit)
        loss = (alpha * target + (1 - alpha) * (1 - target)) * loss
    return weigh_classes(loss, class_weight)


def asymmetric_loss(
    logit: Tensor,
    target: Target,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Asymmetric loss: focus negatives more than positives, and drop the easiest of them.

    .. math::
        L = -t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \qquad p_m = \max(p - m, 0)

    The weights keep their gradient, as in the paper's analysis of it; the authors' code stops it unless told
    otherwise. A negative with p near 1 has hardly any gradient: it counts as mislabelled. Made for hard targets: for t
    strictly between 0 and 1 the minimum is not at p = t. With both gammas equal and clip 0 it is the focal loss of
    weight 1; with gammas 0, BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C), integer labels (...), or both; see :func:`dense_target`.
        gamma_pos: The focus of positives, at least 0.
        gamma_neg: The focus of negatives, at least 0.
        clip: The margin m, in [0, 1): a negative with p below it has no loss.
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target or the number of weights does not fit the logits.

    Source: Ben-Baruch et al., `ASL <https://arxiv.org/abs/2009.14119>`_, eq. 5 to 7.
    """
    logit, target = dense_target(logit, target)
    probability, miss = logit.sigmoid(), (-logit).sigmoid()
    # log(1 - p_m): without a margin the sum would lose what the sigmoid saturates.
    log_reject = (miss + clip).clamp(max=1).log() if clip > 0 else F.logsigmoid(-logit)
    positive = power(miss, gamma_pos) * F.logsigmoid(logit)
    negative = power((probability - clip).relu(), gamma_neg) * log_reject
    return weigh_classes(-(target * positive + (1 - target) * negative), class_weight)


def varifocal_weight(
    p: Tensor, t: Tensor | None, gamma: float, alpha: Alpha, iou_weighted: bool = True
) -> tuple[Tensor, Callable[[], Tensor]]:
    """The weight of :func:`varifocal_loss` and its slope."""
    if t is not None:
        # Arithmetic, since masks take a CPU longer.
        positive = t.sign()
        alpha = mix(alpha, 0 * alpha, positive)
    of_negatives = alpha * power(p, gamma, up_to_1=True)
    weight = of_negatives if t is None else of_negatives + (t if iou_weighted else positive)
    return weight, lambda: torch.addcmul(of_negatives, of_negatives, p, value=-1)


def varifocal_loss(
    logit: Tensor,
    target: Target,
    alpha: float | Sequence[float] = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    class_weight: Sequence[float] | None = None,
) -> Tensor:
    r"""Varifocal loss: weight positives by their IoU score, focus negatives.

    .. math::
        L = \begin{cases} t\, \mathrm{BCE}(p, t) & t > 0 \\ \alpha\, p^\gamma\, \mathrm{BCE}(p, 0) & t = 0 \end{cases}

    The minimum is at p = t for every t. The weight keeps its gradient. For t in {0, 1}, alpha 1 and gamma 0 it is BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], 0 marks a negative; integer labels (...), or both; see :func:`dense_target`.
        alpha: The weight of negatives, at least 0; one number, or one per class.
        gamma: The focus of negatives, at least 0.
        iou_weighted: Weight positives by t; False: by 1.
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.

    Returns:
        The loss of each element, (..., C).

    Raises:
        ValueError: Where the target or the number of alphas or weights does not fit the logits.

    Source: Zhang et al., `VarifocalNet <https://arxiv.org/abs/2008.13367>`_, eq. 2.
    """
    weigh = partial(varifocal_weight, iou_weighted=iou_weighted)
    return weigh_classes(weighted_bce(logit, target, weigh, gamma, alpha), class_weight)


def quality_focal_weight(
    p: Tensor, t: Tensor | None, gamma: float, alpha: Alpha
) -> tuple[Tensor, Callable[[], Tensor]]:
    """The weight of :func:`quality_focal_loss` and its slope; gamma is its beta."""
    error = p if t is None else p - t
    miss = p if t is None else error.abs()
    return power(miss, gamma, up_to_1=True), lambda: error.sign().mul_(lower_power(miss, gamma)).mul_(variance(p))


def quality_focal_loss(
    logit: Tensor, target: Target, beta: float = 2.0, class_weight: Sequence[float] | None = None
) -> Tensor:
    r"""Quality focal loss: the focus is the distance from the score to its target.

    .. math:: L = \sum_{\text{classes}} |t - p|^\beta\, \mathrm{BCE}(p, t)

    The minimum is at p = t for every t. The weight keeps its gradient. beta 0 is the sum of BCE.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores (..., C) in [0, 1], integer labels (...), or both; see :func:`dense_target`.
        beta: The focus, at least 0.
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.

    Returns:
        The loss of each row, (...), as mmdet's.

    Raises:
        ValueError: Where the target or the number of weights does not fit the logits.

    Source: Li et al., `GFL <https://arxiv.org/abs/2006.04388>`_, eq. 5.
    """
    return weigh_classes(weighted_bce(logit, target, quality_focal_weight, beta), class_weight).sum(-1)


def softmax_focal_loss(
    logit: Tensor,
    target: Tensor,
    alpha: float | Sequence[float] | None = None,
    gamma: float = 2.0,
    background_index: int = 0,
) -> Tensor:
    r"""Focal loss of a softmax, for labels of which exactly one is true.

    .. math:: L = -\alpha_y\, (1 - p_y)^\gamma \log p_y, \qquad p = \operatorname{softmax}(\text{logit})

    gamma 0 is the weighted cross entropy. It takes labels alone: a softmax has no place for soft targets, nor for rows
    that belong to no class, unless one of the classes is the background.

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

    Source: Lin et al., `Focal loss <https://arxiv.org/abs/1708.02002>`_, eq. 5, over a softmax.
    """
    rows = logit.shape[:-1]
    if not isinstance(target, Tensor) or target.shape not in (rows, (*rows, 1)):
        given = f'of shape {tuple(target.shape)}' if isinstance(target, Tensor) else 'a pair (labels, scores)'
        raise ValueError(
            f'the target of a softmax over logits of shape {tuple(logit.shape)} must be labels of shape '
            f"{tuple(rows)}, but is {given}; in YOLOXHead set cls_target='label'; a head that feeds soft targets "
            'needs a loss over a sigmoid, such as mmext.QualityFocalLoss'
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


def keep(loss: ElementwiseLoss, name: str, values: float | Sequence[float] | None, highest: float) -> None:
    """Set `loss.name`: a number or None as it is, one number per class in a buffer that stays out of checkpoints."""
    if isinstance(values, (int, float)) or values is None:
        setattr(loss, name, values)
        numbers = [] if values is None else [values]
    else:
        numbers = list(values)
        loss.register_buffer(name, torch.tensor(numbers, dtype=torch.float32), persistent=False)
        if not numbers:
            raise ValueError(f'{type(loss).__name__}: {name} is an empty list; give one number per class')
    if not all(0 <= number <= highest and number < float('inf') for number in numbers):
        limits = f'in [0, {highest}]' if highest < float('inf') else 'at least 0'
        raise ValueError(
            f'{type(loss).__name__}: {name} must be {limits}, one number or one per class, but is {values!r}'
        )


class SigmoidLoss(ElementwiseLoss):
    """Base of the losses over a sigmoid.

    Args:
        class_weight: One factor >= 0 per class, on its positives and negatives alike; None: 1.
        activated: The predictions are probabilities, as mmdet's TOODHead gives them, and not logits.
        use_sigmoid: True; in configs because mmdet's heads read it there.
        **kwargs: `reduction` and `loss_weight`; see :class:`ElementwiseLoss`.

    Raises:
        ValueError: Where `use_sigmoid` is not True, or a class weight is no number >= 0.
    """

    soft_target = True
    """Whether the minimum is at p = t for t strictly between 0 and 1, as targets made of IoUs need it."""

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        activated: bool = False,
        use_sigmoid: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if use_sigmoid is not True:
            raise ValueError(
                f'{type(self).__name__}: use_sigmoid must be True, but is {use_sigmoid!r}; for a softmax '
                'use mmext.SoftmaxFocalLoss'
            )
        if isinstance(class_weight, (int, float)):
            raise ValueError(
                f'{type(self).__name__}: class_weight must be one number per class, but is {class_weight!r}; '
                'to scale the whole loss use loss_weight'
            )
        keep(self, 'class_weight', class_weight, highest=float('inf'))
        self.activated = activated
        self.use_sigmoid = use_sigmoid

    def elementwise(self, pred: Tensor, target: Target) -> Tensor:
        return self.of_logits(from_probability(pred) if self.activated else pred, target)

    @abstractmethod
    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        """The loss of each element or row, from logits."""


class WeightedBCELoss(SigmoidLoss):
    """Base of the losses that are a weight times the binary cross entropy; their gradient has a closed form.

    A subclass states its weight, which :meth:`elementwise` and :meth:`total` share.
    """

    gamma: float
    alpha: float | Tensor
    per_row = False
    """Whether the loss has one value for each row, the sum over its classes."""

    @property
    @abstractmethod
    def weigh(self) -> Weigh:
        """The weight and its slope."""

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        loss = weigh_classes(weighted_bce(logit, target, self.weigh, self.gamma, self.alpha), self.class_weight)
        return loss.sum(-1) if self.per_row else loss

    def total(self, pred: Tensor, target: Target, weight: Tensor | None) -> Tensor:
        logit = from_probability(pred) if self.activated else pred
        closed = torch.is_grad_enabled() and logit.requires_grad and not torch.compiler.is_compiling()
        if not closed or (weight is not None and weight.requires_grad):
            return super().total(pred, target, weight)
        scale = None
        if weight is not None:
            scale = self._fit(weight, logit.shape[:-1] if self.per_row else logit.shape)
            scale = scale.unsqueeze(-1) if self.per_row else scale
        if self.class_weight is not None:
            class_weight = per_class(self.class_weight, logit, 'class_weight')
            scale = class_weight if scale is None else scale * class_weight
        return weighted_bce_sum(logit, target, self.weigh, self.gamma, self.alpha, scale)


@MODELS.register_module()
class FocalLoss(WeightedBCELoss):
    """Module of :func:`focal_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        alpha: The weight of positives in [0, 1]; one number, or one per class.
        gamma: The focus, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For an alpha outside [0, 1], or a negative gamma.
    """

    soft_target = False

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.25,
        gamma: float = 2.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        keep(self, 'alpha', alpha, highest=1)
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma

    @property
    def weigh(self) -> Weigh:
        return focal_weight


@MODELS.register_module()
class PolyFocalLoss(SigmoidLoss):
    """Module of :func:`poly_focal_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        epsilon: What is added to the first coefficient, at least -1.
        alpha: The weight of positives in [0, 1]; one number, or one per class; None: 1 for positives and negatives.
        gamma: The focus, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For an epsilon below -1, an alpha outside [0, 1], or a negative gamma.
    """

    soft_target = False

    def __init__(
        self,
        epsilon: float = 1.0,
        alpha: float | Sequence[float] | None = None,
        gamma: float = 2.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(self, -1, epsilon=epsilon)
        check_at_least(self, 0, gamma=gamma)
        keep(self, 'alpha', alpha, highest=1)
        self.epsilon = epsilon
        self.gamma = gamma

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return poly_focal_loss(logit, target, self.epsilon, self.alpha, self.gamma, class_weight=self.class_weight)


@MODELS.register_module()
class AsymmetricLoss(SigmoidLoss):
    """Module of :func:`asymmetric_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        gamma_pos: The focus of positives, at least 0.
        gamma_neg: The focus of negatives, at least 0.
        clip: The margin below which a negative has no loss, in [0, 1).
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative gamma, or a clip outside [0, 1).
    """

    soft_target = False

    def __init__(
        self,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(self, 0, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
        if clip >= 1:
            raise ValueError(f'AsymmetricLoss: clip must be in [0, 1), but is {clip}')
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.clip = clip

    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        return asymmetric_loss(logit, target, self.gamma_pos, self.gamma_neg, self.clip, class_weight=self.class_weight)


@MODELS.register_module()
class VarifocalLoss(WeightedBCELoss):
    """Module of :func:`varifocal_loss`. `mean` without an `avg_factor` divides by the number of elements.

    Args:
        alpha: The weight of negatives, at least 0; one number, or one per class.
        gamma: The focus of negatives, at least 0.
        iou_weighted: Weight positives by their target; False: by 1.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative alpha or gamma.
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        keep(self, 'alpha', alpha, highest=float('inf'))
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    @property
    def weigh(self) -> Weigh:
        return partial(varifocal_weight, iou_weighted=self.iou_weighted)


@MODELS.register_module()
class QualityFocalLoss(WeightedBCELoss):
    """Module of :func:`quality_focal_loss`. `mean` without an `avg_factor` divides by the number of rows.

    Args:
        beta: The focus, at least 0.
        **kwargs: `class_weight`, `activated`, `use_sigmoid`, `reduction`, `loss_weight`; see :class:`SigmoidLoss`.

    Raises:
        ValueError: For a negative beta.
    """

    per_row = True

    def __init__(
        self,
        beta: float = 2.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(self, 0, beta=beta)
        self.gamma = self.beta = beta
        self.alpha = 1.0

    @property
    def weigh(self) -> Weigh:
        return quality_focal_weight


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
        **kwargs: `reduction` and `loss_weight`; see :class:`ElementwiseLoss`.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        if use_sigmoid is not False:
            raise ValueError(
                f'SoftmaxFocalLoss: use_sigmoid must be False, but is {use_sigmoid!r}; for a sigmoid use '
                'mmext.FocalLoss'
            )
        check_at_least(self, 0, gamma=gamma)
        keep(self, 'alpha', alpha, highest=1 if isinstance(alpha, (int, float)) else float('inf'))
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
