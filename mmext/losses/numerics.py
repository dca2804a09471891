"""Numerics that the losses share: types, powers, logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common floating-point type, float32 or wider."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def power(base: Tensor, exponent: float, up_to_1: bool = False) -> Tensor:
    """`base**exponent` with a finite value and a finite gradient, also at 0.

    With an exponent below 1 the slope at 0 is infinite and would turn a rounding error of the base into a large
    gradient. A base below the machine epsilon therefore counts as 0 and has no gradient. A power that would overflow
    saturates.

    Args:
        base: At least 0.
        exponent: At least 0.
        up_to_1: Whether the base is known to be in [0, 1]; skips the overflow clamp.
    """
    info = torch.finfo(base.dtype)
    if exponent == 0:
        return torch.ones_like(base)
    if exponent == 1:
        return base
    if exponent == 2 and up_to_1:
        # A third faster, with its gradient, than `pow`.
        return base * base
    if exponent > 1:
        return (base if up_to_1 else base.clamp(min=0, max=info.max ** (0.5 / exponent))).pow(exponent)
    # The comparison is false for NaN, which must stay NaN.
    return torch.where(base <= info.eps, 0.0, base.clamp(min=info.eps).pow(exponent))


def lerp(start: float | Tensor, end: float | Tensor, weight: Tensor) -> Tensor:
    """`start + weight * (end - start)` in one pass; start and end are numbers, or tensors with one number per class."""
    if isinstance(start, Tensor):
        return torch.lerp(start, end, weight)
    return torch.rsub(weight, start, alpha=start - end)


def bce(logit: Tensor, target: Tensor) -> Tensor:
    """The binary cross entropy of each element."""
    return F.binary_cross_entropy_with_logits(logit, target, reduction='none')


def inverse_sigmoid(probability: Tensor) -> Tensor:
    """The logit of a probability, in float32 or wider; probabilities are clamped away from 0 and 1."""
    (probability,) = upcast(probability)
    eps = torch.finfo(probability.dtype).eps
    return probability.clamp(eps**2, 1 - eps).logit()
