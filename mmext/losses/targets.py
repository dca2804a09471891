"""Targets and per-class factors in the form that a classification loss computes with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .numerics import upcast

Target = Tensor | tuple[Tensor, Tensor]


def split_target(logit: Tensor, target: Target) -> tuple[Tensor | None, Tensor | None]:
    """The labels (None for a dense target) and the scores (None for labels without scores).

    Args:
        logit: (..., C).
        target: See :func:`dense_target`.

    Raises:
        ValueError: If the target has none of the forms of :func:`dense_target`.
    """
    if not logit.dim():
        raise ValueError('the logits must be of shape (..., C), but are a single number; use logit.reshape(1, 1)')
    labels, scores = target if isinstance(target, (tuple, list)) else (target, None)
    if scores is None and target.shape == logit.shape:
        return None, target.detach()
    rows = logit.shape[:-1]
    if labels.is_floating_point() or labels.shape != rows or (scores is not None and scores.shape != rows):
        shapes = [f'{part.dtype} of shape {tuple(part.shape)}' for part in (labels, scores) if part is not None]
        raise ValueError(
            f'the target of logits of shape {tuple(logit.shape)} must be scores of the same shape, integer '
            f'labels of shape {tuple(rows)}, or a pair (labels, scores), both of shape {tuple(rows)}; but it is '
            f'{" and ".join(shapes)}'
        )
    return labels, None if scores is None else scores.detach()


def dense_target(logit: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The logits and the dense target, (..., C) both, in one type of float32 or wider; the target has no gradient.

    Args:
        logit: (..., C), before the sigmoid.
        target: One of three forms: scores (..., C) in [0, 1], which is not checked; integer labels (...), where any
            number outside 0..C-1 means background; or a pair (labels, scores), both (...), with the score of the
            labeled class.

    Raises:
        ValueError: If the target has none of these forms.
    """
    labels, scores = split_target(logit, target)
    if labels is None:
        return upcast(logit, scores)
    one_hot = labels.unsqueeze(-1) == torch.arange(logit.shape[-1], device=labels.device)
    return upcast(logit, one_hot if scores is None else one_hot * scores.unsqueeze(-1))


def blank_ignored(weight: Tensor, pred: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Prediction and target with 0 in the place of what has weight 0.

    Multiplying the loss by 0 is not enough: 0 * NaN is NaN, in the loss and again in the gradient.

    Args:
        weight: The weight of each element or of each row of the prediction, (...) or (..., C); bools, too.
        pred: (..., C).
        target: Of the shape of the prediction, or one value for each row, or a pair of these.
    """
    ignored = weight == 0
    if ignored.dim() < pred.dim():
        ignored = ignored.unsqueeze(-1)

    def blank(part: Tensor) -> Tensor:
        if part.dim() == pred.dim():
            return _MaskedFill.apply(part, ignored)
        return part.masked_fill(ignored.squeeze(-1) if ignored.shape[-1] == 1 else ignored.all(-1), 0)

    return blank(pred), tuple(map(blank, target)) if isinstance(target, (tuple, list)) else blank(target)


class _MaskedFill(torch.autograd.Function):
    """`masked_fill` with 0, whose gradient is not masked: the weight has made it 0 there already."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor, mask: Tensor) -> Tensor:
        return tensor.masked_fill(mask, 0)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def per_class(values: float | Sequence[float] | Tensor, logit: Tensor, name: str = 'alpha') -> float | Tensor:
    """A number unchanged; one number per class as a tensor (C,) on the device of the logits (..., C).

    Raises:
        ValueError: If the number of values is not C.
    """
    if isinstance(values, (int, float)):
        return values
    values = torch.as_tensor(values, dtype=torch.promote_types(logit.dtype, torch.float32), device=logit.device)
    if values.shape != logit.shape[-1:]:
        raise ValueError(
            f'{name} has {values.numel()} values, one per class, but the logits have {logit.shape[-1]} classes'
        )
    return values


def weigh_classes(loss: Tensor, class_weight: Sequence[float] | Tensor | None) -> Tensor:
    """The loss (..., C) times the weight of each class, for positives and negatives alike."""
    return loss if class_weight is None else loss * per_class(class_weight, loss, 'class_weight')
