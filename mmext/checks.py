"""Checks of arguments, for losses, heads and assigners. None reads a value of a tensor: a GPU is never waited for."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def name_of(owner: object) -> str:
    """How a message names the owner of an argument: a string as it is, any other object by its class."""
    return owner if isinstance(owner, str) else type(owner).__name__


def check_choice(owner: object, name: str, value: object, choices: tuple) -> None:
    """Raise a ValueError that names the value and the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f'{name_of(owner)}: {name} must be one of {", ".join(map(repr, choices))}, but is {value!r}')


def check_at_least(owner: object, low: float, **values: float) -> None:
    """Raise a ValueError that names the first value that is not a finite number of at least `low`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < float('inf'):
            raise ValueError(f'{name_of(owner)}: {name} must be a number of at least {low}, but is {value!r}')


def check_positive(owner: object, **values: float) -> None:
    """Raise a ValueError that names the first value that is not a finite number above 0."""
    check_at_least(owner, 0, **values)
    for name, value in values.items():
        if value == 0:
            raise ValueError(f'{name_of(owner)}: {name} must be above 0, but is 0')


def check_tensors(owner: object, pred: Tensor, **others: object) -> None:
    """Raise an error that names the remedy, unless the losses can compute with these tensors.

    Args:
        owner: Whom a message names.
        pred: The prediction, a floating-point tensor.
        **others: Real tensors on the device of `pred`. Of a tuple or list each part is checked.

    Raises:
        TypeError: For something else than a tensor, a prediction that is not floating-point, or a complex tensor.
        ValueError: For a tensor on another device.
    """
    _check_is_tensor(owner, 'pred', pred)
    if not pred.is_floating_point():
        raise TypeError(
            f'{name_of(owner)}: pred must be a floating-point tensor, but is {pred.dtype}, which has no gradient; '
            'use pred.float()'
        )
    for name, value in others.items():
        parts: Iterable[Any] = value if isinstance(value, (tuple, list)) else [value]
        for part in parts:
            _check_is_tensor(owner, name, part)
            if part.is_complex():
                raise TypeError(f'{name_of(owner)}: {name} must be real, but is {part.dtype}')
            if part.device != pred.device:
                raise ValueError(
                    f'{name_of(owner)}: {name} is on {part.device}, but pred on {pred.device}; '
                    f'use {name}.to(pred.device)'
                )


def _check_is_tensor(owner: object, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f'{name_of(owner)}: {name} must be a tensor, but is a {type(value).__name__}; use torch.as_tensor'
        )


def checked_divisor(owner: object, avg_factor: float | Tensor, device: torch.device) -> float | Tensor:
    """What a loss on this device is divided by: `avg_factor`, at least the machine epsilon of float32.

    Raises:
        TypeError: For a complex tensor.
        ValueError: For a number that is negative or not finite, a tensor with more than one element, or a tensor on
            another device than this one and the CPU. The value of a tensor is not checked.
    """
    smallest = torch.finfo(torch.float32).eps
    if not isinstance(avg_factor, Tensor):
        check_at_least(owner, 0, avg_factor=avg_factor)
        return max(avg_factor, smallest)
    if avg_factor.is_complex():
        raise TypeError(f'{name_of(owner)}: avg_factor must be real, but is {avg_factor.dtype}')
    if avg_factor.numel() != 1:
        raise ValueError(
            f'{name_of(owner)}: avg_factor must be one number, but is a tensor of shape {tuple(avg_factor.shape)}; '
            'for one factor per row use weight'
        )
    if avg_factor.device not in (device, torch.device('cpu')):
        raise ValueError(
            f'{name_of(owner)}: avg_factor is on {avg_factor.device}, but pred on {device}; '
            'use avg_factor.to(pred.device)'
        )
    return avg_factor.reshape(()).clamp(min=smallest)
