"""Targets and per-class factors in the form that a classification loss computes with."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
