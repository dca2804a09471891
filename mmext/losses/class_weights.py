"""Weights for imbalanced classes, from their counts."""

from collections.abc import Sequence

METHODS = ('inverse', 'sqrt', 'effective')


def class_weights(counts: Sequence[int], method: str = 'effective', beta: float = 0.999) -> list[float]:
    r"""One weight per class: the rarer, the larger; over the objects they are 1 on average.

    .. math::
        \text{inverse: } w_c \propto \frac{1}{n_c}, \qquad \text{sqrt: } w_c \propto \frac{1}{\sqrt{n_c}}, \qquad
        \text{effective: } w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c n_c\, w_c = \sum_c n_c

    The effective number of samples goes from no weights (beta 0) to the inverse frequency (beta to 1). With a mean of 1
    over the objects, and not over the classes as in the paper, the loss keeps its size, and its `loss_weight` its
    meaning.

    Args:
        counts: How many objects each class has, all above 0.
        method: `'inverse'` frequency, its square root `'sqrt'`, or `'effective'` number of samples.
        beta: Of the effective number, in [0, 1).

    Returns:
        The weight of each class, for `alpha` of :class:`SoftmaxFocalLoss` and `class_weight` of the others.

    Raises:
        ValueError: For an unknown method, a count that is not above 0, or a beta outside [0, 1).

    Source: Cui et al., `Class-balanced loss <https://arxiv.org/abs/1901.05555>`_, eq. 6.
    """
    if method not in METHODS:
        raise ValueError(f'class_weights: method must be one of {", ".join(METHODS)}, but is {method!r}')
    if not 0 <= beta < 1:
        raise ValueError(f'class_weights: beta must be in [0, 1), but is {beta!r}')
    if not counts or min(counts) <= 0:
        raise ValueError(
            f'class_weights: each class needs a count above 0, but they are {list(counts)}; leave out the classes that '
            'have no objects'
        )
    if method == 'effective':
        weights = [(1 - beta) / (1 - beta**count) for count in counts]
    else:
        weights = [1 / count if method == 'inverse' else count**-0.5 for count in counts]
    mean = sum(count * weight for count, weight in zip(counts, weights)) / sum(counts)
    return [weight / mean for weight in weights]
