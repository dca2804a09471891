"""What every loss shares: weight, reduce, scale, once."""

from abc import ABCMeta, abstractmethod

import torch
from torch import Tensor, nn

REDUCTIONS = ('none', 'mean', 'sum')


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common floating type, float32 or wider."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def power(base: Tensor, exponent: float, up_to_1: bool = False) -> Tensor:
    """`base**exponent` for `base >= 0` and `exponent >= 0`, finite, with a gradient that is finite at 0, too.

    An exponent below 1 has an infinite slope at 0, where any rounding error of the base would become a large gradient:
    a base below the resolution of its type counts as 0 there, and has no gradient. A base whose power would overflow
    saturates. `up_to_1` promises that the base is in [0, 1], and saves those checks.
    """
    info = torch.finfo(base.dtype)
    if exponent == 0:
        return torch.ones_like(base)
    if exponent == 1:
        return base
    if exponent > 1:
        return (base if up_to_1 else base.clamp(min=0, max=info.max ** (0.5 / exponent))).pow(exponent)
    return torch.where(base > info.eps, base.clamp(min=info.eps).pow(exponent), 0.0)


def lower_power(base: Tensor, exponent: float) -> Tensor:
    """The derivative of :func:`power` by its base, divided by the exponent, for a base in [0, 1]."""
    if exponent == 2:
        return base
    if exponent >= 1:
        return base.pow(exponent - 1)
    eps = torch.finfo(base.dtype).eps
    return torch.where(base > eps, base.clamp(min=eps).pow(exponent - 1), 0.0)


def _name(owner: object) -> str:
    """What a message calls the owner of an argument: the name of a function, or of an object's class."""
    return owner if isinstance(owner, str) else type(owner).__name__


def check_choice(owner: object, name: str, value: object, choices: tuple) -> None:
    """Raise a ValueError that names the value and the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f'{_name(owner)}: {name} must be one of {", ".join(map(repr, choices))}, but is {value!r}')


def check_positive(owner: object, **values: float) -> None:
    """Raise a ValueError that names the first value that is no finite number above 0."""
    check_at_least(owner, 0, **values)
    for name, value in values.items():
        if value == 0:
            raise ValueError(f'{_name(owner)}: {name} must be above 0, but is 0')


def check_at_least(owner: object, low: float, **values: float) -> None:
    """Raise a ValueError that names the first value that is no finite number of at least `low`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < float('inf'):
            raise ValueError(f'{_name(owner)}: {name} must be a number of at least {low}, but is {value!r}')


class ElementwiseLoss(nn.Module, metaclass=ABCMeta):
    """Base of the losses: a subclass computes :meth:`elementwise`, this class does all that follows.

    Args:
        reduction: `'none'`, `'mean'` (divide by `avg_factor`, or where none is given by the number of
            elements) or `'sum'`.
        loss_weight: The factor on the result, a number.

    Raises:
        ValueError: For an unknown reduction, or a loss weight that is no number >= 0.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0):
        super().__init__()
        check_choice(self, 'reduction', reduction, REDUCTIONS)
        check_at_least(self, 0, loss_weight=loss_weight)
        self.reduction = reduction
        self.loss_weight = loss_weight

    @abstractmethod
    def elementwise(self, pred: Tensor, target: Tensor, **context: object) -> Tensor:
        """The loss of each element, in float32 or wider, not yet weighted."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **context: object,
    ) -> Tensor:
        """The weighted and reduced loss, by mmdet's contract.

        Args:
            pred: The prediction, as the class says.
            target: The target, as the class says.
            weight: A factor for each element or for each row; False counts as 0, True as 1.
            avg_factor: What `'mean'` divides the sum by; a tensor stays on its device. 0 counts as a
                tiny number, so that a sum of nothing is 0.
            reduction_override: Takes the place of the reduction given at construction.
            **context: What a loss alone needs; it goes to :meth:`elementwise`.

        Returns:
            A scalar, or with `'none'` one value for each element.

        Raises:
            ValueError: For an unknown reduction, an `avg_factor` beside `'sum'`, or shapes that do not fit.
        """
        reduction = self.reduction if reduction_override is None else reduction_override
        check_choice(self, 'reduction_override', reduction, REDUCTIONS)
        if reduction == 'sum' and avg_factor is not None:
            raise ValueError(
                f"{type(self).__name__}: reduction='sum' does not divide, so avg_factor has no "
                "meaning with it; use reduction='mean'"
            )
        if reduction == 'none' or (reduction == 'mean' and avg_factor is None):
            loss = self._weighted(pred, target, weight, **context)
            if reduction == 'mean':
                loss = loss.mean() if loss.numel() else loss.sum()
        else:
            loss = self.total(pred, target, weight, **context)
            if avg_factor is not None:
                tiny = torch.finfo(torch.float32).eps
                loss = loss / (avg_factor.clamp(min=tiny) if isinstance(avg_factor, Tensor) else max(avg_factor, tiny))
        return loss if self.loss_weight == 1 else self.loss_weight * loss

    def total(self, pred: Tensor, target: Tensor, weight: Tensor | None, **context: object) -> Tensor:
        """The sum of the weighted loss of each element."""
        return self._weighted(pred, target, weight, **context).sum()

    def _weighted(self, pred: Tensor, target: Tensor, weight: Tensor | None, **context: object) -> Tensor:
        loss = self.elementwise(pred, target, **context)
        return loss if weight is None else loss * self._fit(weight, loss.shape)

    def _fit(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """`weight` in a shape that multiplies a loss of this shape: the same, that of its rows, or flattened."""
        if weight.shape == shape:
            return weight
        if weight.shape == shape[:-1]:
            return weight.unsqueeze(-1)
        if weight.numel() == shape.numel():
            return weight.reshape(shape)
        raise ValueError(
            f'{type(self).__name__}: a weight of shape {tuple(weight.shape)} fits no loss of shape '
            f'{tuple(shape)}; give one weight for each element or for each row'
        )
