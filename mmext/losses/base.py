"""Base classes of the losses: weighting, reduction and scaling."""

import logging
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from types import FrameType

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmext.checks import check_at_least, check_choice, check_tensors, checked_divisor
from mmext.compat import is_compiling

from .blockwise import blockwise_sum
from .numerics import inverse_sigmoid
from .targets import Target, blank_ignored

REDUCTIONS = ('none', 'mean', 'sum')
# Heads that divide what a loss returns by the number of positives.
DIVIDING_HEADS = (
    'mmdet.models.dense_heads.yolox_head',
    'mmyolo.models.dense_heads.ppyoloe_head',
    'mmyolo.models.dense_heads.yolov6_head',
    'mmyolo.models.dense_heads.yolov8_head',
    'mmyolo.models.dense_heads.yolox_head',
    'mmpose.models.heads.hybrid_heads.rtmo_head',
    'mmpose.models.heads.hybrid_heads.yoloxpose_head',
)


class ElementwiseLoss(nn.Module, metaclass=ABCMeta):
    """Base of all losses: weights, reduces and scales what a subclass computes in :meth:`elementwise`.

    Args:
        reduction: `'none'`, `'sum'`, or `'mean'`, which divides the sum by `avg_factor`, or by the number of elements
            if no `avg_factor` is given.
        loss_weight: A factor on the result, at least 0.

    Raises:
        ValueError: For an unknown reduction, or a loss weight that is not a number of at least 0.
    """

    per_row = True
    """Whether the loss has one value for each row of the prediction, and not for each element."""

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__()
        check_choice(self, 'reduction', reduction, REDUCTIONS)
        check_at_least(self, 0, loss_weight=loss_weight)
        self.reduction = reduction
        self.loss_weight = loss_weight
        self._caller_checked = False

    @abstractmethod
    def elementwise(self, pred: Tensor, target: Tensor, **context: object) -> Tensor:
        """The unweighted loss of each element or row, in float32 or wider."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **context: object,
    ) -> Tensor:
        """The weighted and reduced loss; the arguments are those of mmdet's losses.

        Shapes, types and devices are checked. The values of tensors are not, since that would make the host wait for
        the GPU: a NaN in an element or row of nonzero weight makes the loss NaN.

        Args:
            pred: The prediction: boxes (n, 4), or logits (..., C).
            target: The target, in a form that the class accepts.
            weight: A factor on each element or on each row; a bool counts as 0 or 1. What has weight 0 has loss 0 and
                gradient 0, even if it is NaN or its label does not exist.
            avg_factor: The divisor of `'mean'`, a number of at least 0 or a tensor with one element. Below 1.2e-7 it
                is raised to that, so that an empty sum divided by 0 is 0.
            reduction_override: Replaces the reduction given at construction.
            **context: Further inputs that only some losses take; they go to :meth:`elementwise`.

        Returns:
            A scalar; with `'none'` one value for each element or row.

        Raises:
            TypeError: For something else than a tensor, or a prediction that is not floating-point.
            ValueError: For an unknown reduction, an `avg_factor` together with `'sum'`, an `avg_factor` that is a
                negative or not finite number or more than one, or shapes or devices that do not fit.
        """
        check_tensors(self, pred, target=target, **({} if weight is None else {'weight': weight}))
        reduction = self.reduction if reduction_override is None else reduction_override
        check_choice(self, 'reduction_override', reduction, REDUCTIONS)
        if reduction == 'sum' and avg_factor is not None:
            raise ValueError(
                f"{type(self).__name__}: reduction='sum' does not divide, so it takes no avg_factor; "
                "use reduction='mean'"
            )
        if reduction == 'mean' and avg_factor is None and not self._caller_checked:
            self._check_caller()
        if reduction == 'none':
            loss = self._weighted(pred, target, weight, **context)
        elif reduction == 'mean' and avg_factor is None:
            loss = self.weighted_mean(pred, target, weight, **context)
        else:
            loss = self.weighted_sum(pred, target, weight, **context)
            if avg_factor is not None:
                loss = loss / checked_divisor(self, avg_factor, pred.device)
        return loss if self.loss_weight == 1 else self.loss_weight * loss

    def weighted_sum(self, pred: Tensor, target: Tensor, weight: Tensor | None, **context: object) -> Tensor:
        """The sum of the weighted loss over all elements."""
        return self._weighted(pred, target, weight, **context).sum()

    def weighted_mean(self, pred: Tensor, target: Tensor, weight: Tensor | None, **context: object) -> Tensor:
        """The mean of the weighted loss over all elements; 0 if there are none."""
        loss = self._weighted(pred, target, weight, **context)
        return loss.mean() if loss.numel() else loss.sum()

    def _weighted(self, pred: Tensor, target: Tensor, weight: Tensor | None, **context: object) -> Tensor:
        if weight is None:
            return self.elementwise(pred, target, **context)
        weight = self.broadcast_weight(weight, self.shape_of_loss(pred))
        pred, target = blank_ignored(weight, pred, target)
        return self.elementwise(pred, target, **context) * weight

    def shape_of_loss(self, pred: Tensor) -> torch.Size:
        """The shape of what :meth:`elementwise` returns for this prediction."""
        return pred.shape[:-1] if self.per_row else pred.shape

    def broadcast_weight(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """`weight` in a shape that broadcasts to a loss of this shape.

        Raises:
            ValueError: Unless there is one weight for each element or for each row.
        """
        if weight.shape == shape or (len(shape) > 1 and weight.shape == (*shape[:-1], 1)):
            return weight
        if weight.shape == shape[:-1]:
            return weight.unsqueeze(-1)
        if weight.numel() == shape.numel():
            return weight.reshape(shape)
        raise ValueError(
            f'{type(self).__name__}: a weight of shape {tuple(weight.shape)} does not fit a loss of shape '
            f'{tuple(shape)}; give one weight for each element or for each row'
        )

    def _check_caller(self) -> None:
        """Warn once if the head divides a mean again; one look at the stack, in the first call alone."""
        if is_compiling():
            return
        self._caller_checked = True
        frame = sys._getframe(2)
        while frame is not None and _module(frame).startswith(('torch.', 'mmext.losses', 'mmext.adapters')):
            frame = frame.f_back
        if frame is not None and _module(frame) in DIVIDING_HEADS:
            print_log(
                f"{type(self).__name__} has reduction='mean', but {_module(frame)} divides by the number of positives "
                "itself, so the loss is divided twice and becomes negligible. Set reduction='sum'"
                + (", or bbox_head.type='mmext.YOLOXHead'" if _module(frame).startswith('mmdet.') else ''),
                logger='current',
                level=logging.WARNING,
            )


def _module(frame: FrameType) -> str:
    """The module of a frame; code that was executed from a string may have none."""
    return frame.f_globals.get('__name__', '')


class BoxLoss(ElementwiseLoss):
    """Base of the losses for boxes (n, 4). A weight of shape (n, 4), as mmdet's heads give it, is averaged per row."""

    scale_invariant = True
    """Whether the unit of the boxes makes no difference."""

    def broadcast_weight(self, weight: Tensor, shape: torch.Size) -> Tensor:
        if weight.shape == (*shape, 4):
            weight = weight.mean(-1)
        return super().broadcast_weight(weight, shape)


class SigmoidLoss(ElementwiseLoss):
    """Base of the losses over a sigmoid: a subclass computes :meth:`of_logits`.

    Args:
        class_weight: One factor of at least 0 per class, for positives and negatives alike; None: 1.
        activated: The predictions are probabilities, as in mmdet's TOODHead, and not logits.
        use_sigmoid: Must be True. mmdet's heads read it from the config.
        **kwargs: `reduction` and `loss_weight`; see :class:`ElementwiseLoss`.

    Raises:
        ValueError: If `use_sigmoid` is not True, or a class weight is not a number of at least 0.
    """

    soft_target = True
    """Whether the loss is made for targets between 0 and 1, such as IoUs, and not for 0 and 1 alone."""
    per_row = False
    """Whether the loss has one value for each row, the sum over its classes, and not for each element."""
    rest = 'p = t'
    """Where training with a soft target t comes to rest, for the documentation."""

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
        register_per_class(self, 'class_weight', class_weight, highest=float('inf'))
        self.activated = activated
        self.use_sigmoid = use_sigmoid

    @abstractmethod
    def of_logits(self, logit: Tensor, target: Target) -> Tensor:
        """The loss of each element or row, from logits (..., C)."""

    def resting_point(self, target: Tensor) -> Tensor:
        """`rest` as a number: where training with targets above 0 comes to rest, for a loss made for soft targets."""
        return target

    def elementwise(self, pred: Tensor, target: Target) -> Tensor:
        return self.of_logits(inverse_sigmoid(pred) if self.activated else pred, target)

    def weighted_sum(self, pred: Tensor, target: Target, weight: Tensor | None) -> Tensor:
        if is_compiling() or (weight is not None and weight.requires_grad):
            return super().weighted_sum(pred, target, weight)
        if weight is not None:
            shape = self.shape_of_loss(pred)
            weight = self.broadcast_weight(weight, shape).expand(shape)
        return blockwise_sum(self.elementwise, pred, target, weight)

    def weighted_mean(self, pred: Tensor, target: Target, weight: Tensor | None) -> Tensor:
        return self.weighted_sum(pred, target, weight) / max(1, self.shape_of_loss(pred).numel())


def register_per_class(
    loss: ElementwiseLoss, name: str, values: float | Sequence[float] | None, highest: float
) -> None:
    """Set the attribute `name`: None or a number unchanged, a list as a buffer (C,) that no checkpoint holds.

    Raises:
        ValueError: For an empty list, or a number outside [0, highest].
    """
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
