"""Focal loss over a softmax."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.checks import check_at_least, check_tensors
from mmext.registry import MODELS

from .base import ElementwiseLoss, register_per_class
from .numerics import lerp, power, upcast
from .targets import per_class


def softmax_focal_loss(
    logit: Tensor,
    target: Tensor,
    alpha: float | Sequence[float] | None = None,
    gamma: float = 2.0,
    background_index: int = 0,
) -> Tensor:
    r"""Focal loss over a softmax, for exactly one label per row.

    .. math:: L = -\alpha_y\, (1 - p_y)^\gamma \log p_y, \qquad p = \operatorname{softmax}(\text{logit})

    With gamma 0 it is the weighted cross entropy. It takes labels alone: a softmax represents neither soft targets nor
    rows without a class, unless one of the classes is the background.

    Args:
        logit: (..., C), before the softmax.
        target: The labels y in 0..C-1, of shape (...) or (..., 1); integers, or floats that hold integers.
        alpha: One weight of at least 0 per class; or a number a in [0, 1], which gives the background class a and every
            other class 1 - a; None: 1 for all.
        gamma: The focusing parameter, at least 0.
        background_index: The class that a single alpha treats as background; -1 is the last.

    Returns:
        The loss of each row, (...).

    Raises:
        TypeError: For something else than tensors, or logits that are not floating-point.
        ValueError: If the target, its device, or the number of alphas does not fit the logits.
        RuntimeError: For a label outside 0..C-1, from torch. On a GPU the device stops with an assertion instead.

    Example:
        With two equal logits p is 1/2 and the loss (1/2)**2 * ln 2:

        >>> softmax_focal_loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.1733])

    Source: Lin et al., `Focal loss <https://arxiv.org/abs/1708.02002>`_, eq. 5, over a softmax.
    """
    # torch does not notice labels on another device, and then the loss is a random number.
    check_tensors('softmax_focal_loss', logit, target=target)
    rows = logit.shape[:-1]
    if not isinstance(target, Tensor) or target.shape not in (rows, (*rows, 1)):
        given = f'of shape {tuple(target.shape)}' if isinstance(target, Tensor) else 'a pair (labels, scores)'
        raise ValueError(
            f'the target of a softmax over logits of shape {tuple(logit.shape)} must be labels of shape '
            f"{tuple(rows)}, but is {given}; in YOLOXHead set cls_target='label'; a head with soft targets "
            'needs a loss over a sigmoid, such as mmext.QualityFocalLoss'
        )
    (logit,) = upcast(logit)
    label = target.reshape(*rows, 1).long()
    log_p = logit.log_softmax(-1).gather(-1, label).squeeze(-1)
    loss = -power(-torch.expm1(log_p), gamma) * log_p
    if alpha is None:
        return loss
    alpha = per_class(alpha, logit)
    if isinstance(alpha, Tensor):
        return alpha[label.squeeze(-1)] * loss
    background = label.squeeze(-1) == background_index % logit.shape[-1]
    return lerp(1 - alpha, alpha, background.to(loss.dtype)) * loss


@MODELS.register_module()
class SoftmaxFocalLoss(ElementwiseLoss):
    """Focal loss over a softmax, weighted and reduced; the formula is that of :func:`softmax_focal_loss`.

    In :class:`YOLOXHead` it is a `loss_cls` with `cls_target='label'`, and the head then predicts with a softmax. The
    classes there are those of the objects, without a background: give one alpha per class.

    Shape:
        pred: logits (..., C). target: labels (...) or (..., 1). The loss is a scalar, or (...) with
        `reduction='none'`. Without `avg_factor`, `'mean'` averages over the rows.

    Args:
        alpha: One weight of at least 0 per class; or a number in [0, 1], the weight of the background class, with 1
            minus it for every other class; None: 1 for all.
        gamma: The focusing parameter, at least 0.
        num_classes: The number of logits in a row; if given, the number of alphas is checked against it.
        background_index: The class that a single alpha treats as background; -1 is the last.
        use_sigmoid: Must be False. mmdet's heads read it from the config.
        **kwargs: `reduction` and `loss_weight`; see :class:`ElementwiseLoss`.

    Raises:
        ValueError: For a negative gamma or weight, a single alpha above 1, a wrong number of weights, an index outside
            the classes, or `use_sigmoid` that is not False.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.SoftmaxFocalLoss', alpha=[1.0, 4.0], reduction='sum'))
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.8664)
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
        register_per_class(self, 'alpha', alpha, highest=1 if isinstance(alpha, (int, float)) else float('inf'))
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
