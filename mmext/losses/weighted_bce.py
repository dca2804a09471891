r"""What focal, varifocal and quality focal loss share: a weighted binary cross entropy, its gradient in closed form.

.. math::
    L = w\, \mathrm{BCE}(p, t), \qquad
    \frac{\partial L}{\partial x} = w\, (p - t) + \gamma\, s\, \mathrm{BCE}(p, t), \qquad
    p = \operatorname{sigmoid}(x), \qquad \gamma\, s = \frac{\partial w}{\partial x}

with the power :math:`\gamma` of the focus.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import repeat
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import wide

Target = Tensor | tuple[Tensor, Tensor]
Alpha = float | Tensor
# Of p, t, gamma and alpha: the weight, and a function that computes its slope dw/dx, divided by gamma. A target of None
# is 0 for all.
Weigh = Callable[[Tensor, Tensor | None, float, Alpha], tuple[Tensor, Callable[[], Tensor]]]
# On a CPU so many elements go at once in each thread: fewer are slower, and all at once take more memory.
BLOCK = 2**17


def labels_and_scores(logit: Tensor, target: Target) -> tuple[Tensor | None, Tensor | None]:
    """The labels of each row, None where the target has none; and the scores, None where they are 1.

    Args:
        logit: (..., C), before the sigmoid.
        target: See :func:`dense_target`.

    Raises:
        ValueError: Where the target is none of these.
    """
    labels, scores = target if isinstance(target, (tuple, list)) else (target, None)
    if scores is None and target.shape == logit.shape:
        return None, target.detach()
    rows = logit.shape[:-1]
    if labels.is_floating_point() or labels.shape != rows or (scores is not None and scores.shape != rows):
        shapes = [f'{part.dtype} of shape {tuple(part.shape)}' for part in (labels, scores) if part is not None]
        raise ValueError(
            f'the target of logits of shape {tuple(logit.shape)} must be scores of that shape, integer '
            f'labels of shape {tuple(rows)}, or a pair (labels, scores) of that shape; but is '
            f'{" and ".join(shapes)}'
        )
    return labels, None if scores is None else scores.detach()


def dense_target(logit: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The logits, float32 or wider, and the target in their shape and type, without a gradient.

    Args:
        logit: (..., C), before the sigmoid.
        target: The same shape, scores in [0, 1]; or integer labels (...), where C and every other number outside
            0..C-1 means background; or the pair of such labels and the scores of the labelled class, both (...).

    Raises:
        ValueError: Where the target is none of these.
    """
    labels, scores = labels_and_scores(logit, target)
    if labels is None:
        return wide(logit, scores)
    one_hot = labels.unsqueeze(-1) == torch.arange(logit.shape[-1], device=labels.device)
    return wide(logit, one_hot if scores is None else one_hot * scores.unsqueeze(-1))


def per_class(values: float | Sequence[float] | Tensor, logit: Tensor, name: str = 'alpha') -> Alpha:
    """A number as it is; one number per class as a tensor beside the logits."""
    if isinstance(values, (int, float)):
        return values
    values = torch.as_tensor(values, dtype=torch.promote_types(logit.dtype, torch.float32), device=logit.device)
    if values.shape != logit.shape[-1:]:
        raise ValueError(
            f'{name} has {values.numel()} values, one per class, but the logits have {logit.shape[-1]} classes'
        )
    return values


def bce(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of each element."""
    return F.binary_cross_entropy_with_logits(logit, target, reduction='none')


def weighted_bce(
    logit: Tensor, target: Target, weigh: Weigh, gamma: float, alpha: float | Sequence[float] = 1.0
) -> Tensor:
    """The weighted binary cross entropy of each element, in float32 or wider.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores, labels, or both; see :func:`dense_target`.
        weigh: The weight, of p, t, gamma and alpha.
        gamma: The power of the focus, at least 0.
        alpha: What the weight is made of, a number or one per class.
    """
    logit, target = dense_target(logit, target)
    weight, _ = weigh(logit.sigmoid(), target, gamma, per_class(alpha, logit))
    return weight * bce(logit, target)


def weighted_bce_sum(
    logit: Tensor,
    target: Target,
    weigh: Weigh,
    gamma: float,
    alpha: float | Sequence[float] = 1.0,
    scale: Tensor | None = None,
) -> Tensor:
    """The sum of :func:`weighted_bce` over all elements, its gradient computed beside it.

    The gradient is all that is kept for the backward. Nothing but it is as large as the logits, no dense target where
    labels are given, and on a CPU no intermediate. It can be differentiated once, by the logits alone; for more, sum
    :func:`weighted_bce`. The type of the logits decides that of the sum, float32 or wider.

    Args:
        logit: (..., C), before the sigmoid.
        target: Scores, labels, or both; see :func:`dense_target`.
        weigh: The weight and its slope, of p, t, gamma and alpha.
        gamma: The power of the focus, at least 0.
        alpha: What the weight is made of, a number or one per class.
        scale: A factor on each element, of a shape that expands to that of the logits.
    """
    labels, scores = labels_and_scores(logit, target)
    if scale is not None:
        (scale,) = wide(scale)
        scale = scale.expand_as(logit)
    if logit.dim() == 1:
        logit, labels, scores, scale = (part if part is None else part[None] for part in (logit, labels, scores, scale))
    return _WeightedBCESum.apply(logit, labels, scores, scale, (weigh, gamma, per_class(alpha, logit)))


class _WeightedBCESum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        logit: Tensor,
        labels: Tensor | None,
        scores: Tensor | None,
        scale: Tensor | None,
        how: tuple[Weigh, float, Alpha],
    ) -> Tensor:
        ctx.dtype = logit.dtype
        gradient = torch.empty_like(logit, dtype=torch.promote_types(logit.dtype, torch.float32))
        blocks = _blocks(gradient, logit, labels, scores, scale)
        total = reduce(add, (_sum(*block, *how) for block in blocks))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_of_sum: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # In place, unless another backward will ask for it; autograd itself frees it then.
        multiply = torch.mul if _graph_is_kept() else Tensor.mul_
        return multiply(gradient, gradient_of_sum).to(ctx.dtype), None, None, None, None


def _graph_is_kept() -> bool:
    """Whether the backward that runs was called with `retain_graph=True`; where torch does not tell, yes."""
    ask = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return ask is None or ask()


def _blocks(*tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
    """The same rows of each tensor; on a GPU all of them at once."""
    size = max(1, len(tensors[0]))
    if tensors[0].device.type == 'cpu' and tensors[0].numel():
        size = max(1, BLOCK * torch.get_num_threads() * size // tensors[0].numel())
    return zip(*(repeat(None) if tensor is None else tensor.split(size) for tensor in tensors))


def _sum(
    gradient: Tensor,
    logit: Tensor,
    labels: Tensor | None,
    scores: Tensor | None,
    scale: Tensor | None,
    weigh: Weigh,
    gamma: float,
    alpha: Alpha,
) -> Tensor:
    """The sum of the loss; writes the gradient."""
    (logit,) = wide(logit)
    if labels is None:
        loss, _ = _closed_form(logit, scores.to(logit.dtype), weigh, gamma, alpha, out=gradient)
    else:
        # As if all were background; then the column of each label anew.
        loss, _ = _closed_form(logit, None, weigh, gamma, alpha, out=gradient)
        labels = labels.long()
        known = (labels >= 0) & (labels < logit.shape[-1])
        column = torch.where(known, labels, 0).unsqueeze(-1)
        score = (known if scores is None else known * scores).to(logit.dtype).unsqueeze(-1)
        alpha = alpha[column] if isinstance(alpha, Tensor) else alpha
        of_labels = _closed_form(logit.gather(-1, column), score, weigh, gamma, alpha)
        for values, value in zip((loss, gradient), of_labels):
            values.scatter_(-1, column, value)
    if scale is not None:
        loss, _ = loss.mul_(scale), gradient.mul_(scale)
    return loss.sum()


def _closed_form(
    logit: Tensor, target: Tensor | None, weigh: Weigh, gamma: float, alpha: Alpha, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of each element and its gradient."""
    probability = logit.sigmoid()
    # (1 - t) x - log p, and log p = x where p underflows: two thirds of the time of `logsigmoid` on a CPU.
    log_p = probability.clamp(min=torch.finfo(logit.dtype).tiny).log_()
    torch.minimum(log_p, logit, out=log_p)
    entropy = logit - log_p if target is None else torch.addcmul(logit, target, logit, value=-1).sub_(log_p)
    weight, compute_slope = weigh(probability, target, gamma, alpha)
    slope = compute_slope()
    error = probability * weight if target is None else probability.sub_(target).mul_(weight)
    gradient = torch.addcmul(error, slope, entropy, value=gamma, out=out)
    return entropy.mul_(weight), gradient
