"""Class weights from the number of objects of each class."""

import logging
from collections.abc import Sequence

from mmengine.logging import print_log

METHODS = ('inverse', 'sqrt', 'effective')
POWERS = {'inverse': 1.0, 'sqrt': 0.5}


def class_weights(
    counts: Sequence[int], method: str | None = None, beta: float = 0.999, power: float | None = None
) -> list[float]:
    r"""One weight per class, larger for rarer classes, with a mean of 1 over the objects.

    .. math::
        \text{power } a\text{: } w_c \propto n_c^{-a}, \qquad
        \text{effective: } w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c n_c\, w_c = \sum_c n_c

    The power 0 gives equal weights, 0.5 is the method `'sqrt'`, 1 the method `'inverse'`. The effective number of
    samples ranges from equal weights (beta 0) to the inverse frequency (beta near 1). The mean is 1 over the objects,
    not over the classes as in the paper, so the loss keeps its size and `loss_weight` its meaning. A class without
    objects gets the mean of the other classes' weights, and a warning is logged.

    Args:
        counts: The number of objects of each class, at least 0; at least one above 0.
        method: `'inverse'` frequency, its square root `'sqrt'`, or the `'effective'` number of samples, the default.
        beta: The parameter of the effective number, in [0, 1).
        power: The exponent a, at least 0, in place of a method.

    Returns:
        The weight of each class, for `alpha` of :class:`SoftmaxFocalLoss` and `class_weight` of the other losses.

    Raises:
        ValueError: For an unknown method, a method beside a power, a negative power, a beta outside [0, 1), a negative
            count, or no count above 0.

    Example:
        >>> class_weights([900, 100], power=1)
        [0.5555555555555556, 5.0]

    Source: Cui et al., `Class-balanced loss <https://arxiv.org/abs/1901.05555>`_, eq. 6.
    """
    if method is not None and power is not None:
        raise ValueError(f'class_weights: give a method ({method!r}) or a power ({power!r}), not both')
    method = method or 'effective'
    if method not in METHODS:
        raise ValueError(f'class_weights: method must be one of {", ".join(METHODS)}, but is {method!r}')
    if not 0 <= beta < 1:
        raise ValueError(f'class_weights: beta must be in [0, 1), but is {beta!r}')
    power = POWERS.get(method) if power is None else power
    if power is not None and not 0 <= power < float('inf'):
        raise ValueError(f'class_weights: power must be a number of at least 0, but is {power!r}')
    counts = list(counts)
    if not counts or min(counts) < 0 or max(counts) == 0:
        raise ValueError(f'class_weights: counts must be at least 0, at least one above 0, but are {counts}')
    weights = [_weight(count, max(counts), power, beta) if count else None for count in counts]
    present = [weight for weight in weights if weight is not None]
    if len(present) < len(weights):
        empty = [index for index, count in enumerate(counts) if not count]
        print_log(
            f"class_weights: the classes at index {empty} have no objects and get the other classes' mean weight",
            logger='current',
            level=logging.WARNING,
        )
    scale = sum(counts) / sum(count * weight for count, weight in zip(counts, weights) if count)
    mean = sum(present) / len(present)
    return [scale * (mean if weight is None else weight) for weight in weights]


def _weight(count: int, largest: int, power: float | None, beta: float) -> float:
    """The weight of a class before scaling, by the power, or if it is None by the effective number."""
    return (1 - beta) / (1 - beta**count) if power is None else (largest / count) ** power
