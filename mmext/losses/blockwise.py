"""The sum of an elementwise loss, computed in blocks, with its gradient.

Autograd would keep several tensors as large as the logits until the backward pass. Here each block goes through
autograd by itself, forward and backward, while it is in the cache, and only its gradient is kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .numerics import upcast
from .targets import Target, blank_ignored, split_target

Formula = Callable[[Tensor, Target], Tensor]
# Elements per block. On a CPU, per thread: larger blocks do not fit the cache, smaller ones add call overhead. On other
# devices, in total: about 1 GiB of float32 intermediates.
CPU_BLOCK = 2**17
DEVICE_BLOCK = 2**24


def blockwise_sum(formula: Formula, pred: Tensor, target: Target, weight: Tensor | None = None) -> Tensor:
    """The sum of `formula(pred, target) * weight`, in float32 or wider.

    The first backward pass uses the gradient that was computed beside the sum. Later ones (`retain_graph=True`), and
    one that is itself differentiated (`create_graph=True`), compute it again. `torch.func` is not supported.

    Args:
        formula: The loss of each element (..., C) or of each row (...). It must not depend on other rows.
        pred: (..., C); the only input that gets a gradient.
        target: See :func:`~mmext.losses.targets.dense_target`.
        weight: A factor on what the formula returns, of the same shape. Where it is 0, NaN counts for nothing.

    Raises:
        ValueError: If the target does not fit.
    """
    labels, scores = split_target(pred, target)
    parts = [part if part is None else part.detach() for part in (labels, scores, weight)]
    if pred.dim() == 1:
        pred, *parts = (part if part is None else part.unsqueeze(0) for part in (pred, *parts))
    elif pred.dim() > 2 and pred.is_contiguous():
        # Other layouts, such as a head's (B, C, H, W), would be copied; they are split along the first dimension.
        last = pred.dim() - 2
        pred, *parts = (part if part is None else part.flatten(0, last) for part in (pred, *parts))
    with_gradient = torch.is_grad_enabled() and pred.requires_grad
    return _BlockwiseSum.apply(formula, with_gradient, pred, *parts)


class _BlockwiseSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, formula: Formula, with_gradient: bool, *tensors: Tensor | None) -> Tensor:
        ctx.formula, ctx.dtype = formula, tensors[0].dtype
        ctx.save_for_backward(*tensors)
        total, ctx.gradient = _sum(formula, with_gradient, *tensors)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            pred, labels, scores, weight = ctx.saved_tensors
            loss = ctx.formula(*_counted(pred, labels, scores, weight))
            slope = grad_output.expand_as(loss) if weight is None else grad_output * weight.expand_as(loss)
            (gradient,) = torch.autograd.grad(loss, pred, slope, create_graph=True)
            return None, None, gradient, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _sum(ctx.formula, True, *ctx.saved_tensors)
        # In place: nothing else holds this tensor, and a second one would double the memory.
        return None, None, gradient.mul_(grad_output).to(ctx.dtype), None, None, None


def _sum(formula: Formula, with_gradient: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The sum over all blocks, and its gradient if asked for."""
    pred = tensors[0]
    block = CPU_BLOCK * torch.get_num_threads() if pred.device.type == 'cpu' else DEVICE_BLOCK
    rows = max(1, block * len(pred) // max(1, pred.numel()))
    if rows >= len(pred):
        return _sum_of_block(formula, with_gradient, *tensors)
    gradient = torch.empty_like(pred, dtype=torch.promote_types(pred.dtype, torch.float32)) if with_gradient else None
    total = 0
    for start in range(0, len(pred), rows):
        block = slice(start, start + rows)
        parts = (tensor if tensor is None else tensor[block] for tensor in tensors)
        total_of_block, gradient_of_block = _sum_of_block(formula, with_gradient, *parts)
        total = total + total_of_block
        if with_gradient:
            gradient[block] = gradient_of_block
    return total, gradient


def _sum_of_block(
    formula: Formula,
    with_gradient: bool,
    pred: Tensor,
    labels: Tensor | None,
    scores: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    with torch.set_grad_enabled(with_gradient):
        leaf, target = _counted(*upcast(pred.detach()), labels, scores, weight)
        loss = formula(leaf.requires_grad_(with_gradient), target)
    if weight is not None:
        (weight,) = upcast(weight)
    total = (loss.detach() if weight is None else loss.detach() * weight).sum()
    if not with_gradient:
        return total, None
    # The weight is the gradient of the sum by the loss: autograd need not multiply by it.
    slope = (torch.ones_like(total) if weight is None else weight).expand_as(loss)
    (gradient,) = torch.autograd.grad(loss, leaf, slope)
    # Of a linear formula it is the slope itself, which must not be changed.
    return total, gradient.clone() if gradient.data_ptr() == slope.data_ptr() else gradient


def _counted(
    pred: Tensor, labels: Tensor | None, scores: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Target]:
    """Prediction and target, without what has weight 0."""
    target = scores if labels is None else labels if scores is None else (labels, scores)
    return (pred, target) if weight is None else blank_ignored(weight, pred, target)
