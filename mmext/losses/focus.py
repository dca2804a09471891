r"""Factors on box losses.

.. math:: L = \text{focus} \cdot \Bigl(1 - \text{overlap}^\alpha + \sum_{\text{terms}} \text{term}^\alpha\Bigr)

A focus is a function of the :class:`BoxPair` with unscaled boxes, whatever the variant, the power and the overlap.
"""

from abc import ABCMeta, abstractmethod

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmext.checks import check_at_least, check_choice, check_positive
from mmext.registry import MODELS

from .box_pair import BoxPair
from .numerics import power

# The arguments of each version of Wise-IoU, with the paper's values.
WISE_VERSIONS = {1: {}, 2: {'gamma': 0.5}, 3: {'alpha': 1.9, 'delta': 3.0}}


class Focus(nn.Module, metaclass=ABCMeta):
    """Base of the factors on :class:`IoULoss`."""

    @abstractmethod
    def forward(self, pair: BoxPair, weight: Tensor | None = None) -> Tensor:
        """The factor on the loss of each pair, (n,).

        Args:
            pair: The boxes.
            weight: The weight of each pair, (n,) or (n, 4). A pair of weight 0 is padding and enters no mean.
        """


@MODELS.register_module()
class FocalFocus(Focus):
    r"""The focus of Focal-EIoU: up-weights pairs that overlap well.

    .. math:: \operatorname{sg}(\mathrm{IoU})^\gamma

    The factor is detached. A pair without overlap has loss 0 and no gradient.

    Args:
        gamma: The power, at least 0.

    Raises:
        ValueError: For a negative gamma.

    Example:
        The IoU is 1/2: sqrt(1/2) * (1 - 1/2).

        >>> loss = MODELS.build(dict(type='mmext.IoULoss', focus=dict(type='mmext.FocalFocus', gamma=0.5)))
        >>> loss(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 20]]))
        tensor(0.3536)

    Source: Zhang et al., `EIoU <https://arxiv.org/abs/2101.08158>`_, eq. 11.
    """

    def __init__(self, gamma: float = 0.5):
        super().__init__()
        check_at_least(self, 0, gamma=gamma)
        self.gamma = gamma

    def forward(self, pair: BoxPair, weight: Tensor | None = None) -> Tensor:
        return power(pair.iou.detach(), self.gamma)


@MODELS.register_module()
class PIoUFocus(Focus):
    r"""The focus of Powerful-IoU v2: up-weights pairs of medium quality.

    .. math:: 3 z\, e^{-z^2}, \qquad z = \lambda e^{-P}

    P is the mean edge distance of the variant piou. As in the authors' code, the factor keeps its gradient. It falls to
    0 with the distance, and so does the loss: pairs that are far apart are pushed further apart.

    Args:
        lam: lambda, above 0.

    Raises:
        ValueError: For a lambda that is not above 0.

    Example:
        Identical boxes have the factor 3 * 1.3 * exp(-1.3**2), whatever the loss:

        >>> focus = MODELS.build(dict(type='mmext.PIoUFocus', lam=1.3))
        >>> boxes = torch.tensor([[0.0, 0, 10, 10]])
        >>> focus(BoxPair(boxes, boxes))
        tensor([0.7196])

    Source: Liu et al., `Powerful-IoU <https://doi.org/10.1016/j.neunet.2023.11.041>`_, Neural Networks 2024.
    """

    def __init__(self, lam: float = 1.3):
        super().__init__()
        check_positive(self, lam=lam)
        self.lam = lam

    def forward(self, pair: BoxPair, weight: Tensor | None = None) -> Tensor:
        z = self.lam * torch.exp(-pair.edge_distance)
        return 3 * z * torch.exp(-z.square())


@MODELS.register_module()
class WiseFocus(Focus):
    r"""The focus of Wise-IoU: weights pairs by their center distance, and from version 2 on by their loss relative to
    the running mean.

    .. math::
        v_1 = \exp\frac{\rho^2}{\operatorname{sg}(c^2)}, \qquad v_2 = \beta^\gamma\, v_1, \qquad
        v_3 = \frac{\beta}{\delta\, \alpha^{\beta - \delta}}\, v_1, \qquad
        \beta = \frac{\operatorname{sg}(1 - \mathrm{IoU})}{m}

    m is the running mean of 1 - IoU. It starts at 1 and moves by `momentum` towards the mean of each training batch
    before it is used. It is a buffer: saved in checkpoints, resumed, and equal on all ranks. Pairs of weight 0, pairs
    whose loss is not finite, empty batches and evaluation do not change it. Version 3 gives outliers little weight: the
    factor falls again beyond beta = 1 / ln(alpha).

    Args:
        version: 1, 2 or 3.
        momentum: The step of the running mean, in [0, 1]; 0 keeps it. The paper suggests 1 - 0.05**(1 / (n * t)) for n
            iterations per epoch and t epochs until the AP levels off.
        sync: All-reduce the mean over the ranks at each call. Every rank must then call the loss equally often, as
            :class:`YOLOXHead` and mmdet's RetinaHead do. With a head that skips the loss on ranks without positives,
            training would hang: set it to False there, so that each rank keeps its own mean.
        **version_kwargs: `gamma`, at least 0, of version 2; `alpha`, above 1, and `delta`, above 0, of version 3.

    Raises:
        ValueError: For an unknown version, or a number outside its range.
        TypeError: For an argument that the version does not take.

    Example:
        Version 1, centers 5 apart, enclosing diagonal sqrt(10**2 + 20**2): exp(25 / 500).

        >>> focus = MODELS.build(dict(type='mmext.WiseFocus', version=1))
        >>> focus(BoxPair(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 20]])))
        tensor([1.0513])

    Source: Tong et al., `Wise-IoU <https://arxiv.org/abs/2301.10051>`_, eq. 5 to 11.
    """

    def __init__(self, version: int = 3, momentum: float = 0.01, sync: bool = True, **version_kwargs: float):
        super().__init__()
        check_choice(self, 'version', version, tuple(WISE_VERSIONS))
        defaults = WISE_VERSIONS[version]
        for name in version_kwargs:
            if name not in defaults:
                known = ', '.join(defaults) or 'none of its own'
                raise TypeError(f'WiseFocus: version {version} takes no argument {name!r}, only {known}')
        check_at_least(self, 0, momentum=momentum, **version_kwargs)
        if momentum > 1:
            raise ValueError(f'WiseFocus: momentum must be in [0, 1], but is {momentum}')
        self.version = version
        self.momentum = momentum
        self.sync = sync
        self.arguments = {**defaults, **version_kwargs}
        if version == 3 and not (self.arguments['alpha'] > 1 and self.arguments['delta'] > 0):
            raise ValueError(f'WiseFocus: alpha must be above 1 and delta above 0, but they are {self.arguments}')
        if version > 1:
            self.register_buffer('mean', torch.ones(()))

    def forward(self, pair: BoxPair, weight: Tensor | None = None) -> Tensor:
        attention = torch.exp(pair.ratio(pair.squared_distance, pair.squared_diagonal.detach()))
        if self.version == 1:
            return attention
        loss = 1 - pair.iou.detach()
        if self.training:
            self._update(loss, weight)
        beta = loss / self.mean.to(loss.dtype).clamp(min=torch.finfo(loss.dtype).eps)
        if self.version == 2:
            return power(beta, self.arguments['gamma']) * attention
        alpha, delta = self.arguments['alpha'], self.arguments['delta']
        return beta / (delta * alpha ** (beta - delta)) * attention

    @torch.no_grad()
    def _update(self, loss: Tensor, weight: Tensor | None) -> None:
        """Move the mean towards that of the pairs that count, over all ranks; unchanged if there are none."""
        # 1 - IoU is at most 1, or NaN: one NaN would stay in the mean permanently.
        counts = loss <= 1
        if weight is not None:
            weighted = weight if weight.dtype == torch.bool else weight > 0
            weighted = weighted.any(-1) if weighted.dim() > loss.dim() else weighted
            counts = counts & weighted.reshape(loss.shape)
        total = torch.stack([(loss * counts).nansum(), counts.sum(dtype=loss.dtype)])
        if self.sync:
            all_reduce(total)
        step = (self.momentum * (total[1] > 0)).to(self.mean.dtype)
        self.mean.lerp_((total[0] / total[1].clamp(min=1)).to(self.mean.dtype), step)

    def extra_repr(self) -> str:
        given = dict(version=self.version, momentum=self.momentum, sync=self.sync, **self.arguments)
        return ', '.join(f'{name}={value}' for name, value in given.items())
