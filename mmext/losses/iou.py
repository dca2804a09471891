r"""Losses of the IoU family for boxes.

.. math:: L = 1 - \text{overlap}^\alpha + \sum_{\text{terms}} \text{term}^\alpha

A variant is a function of a :class:`BoxPair` that returns its penalty terms, most of them in [0, 1]. `alpha` is the
power of alpha-IoU; 1 gives the classical loss. The overlap is the IoU, or the IoU as modified by Inner-IoU and
Focaler-IoU. In :class:`IoULoss` a focus may multiply the whole: see :mod:`mmext.losses.focus`.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.checks import check_at_least, check_choice, check_positive, name_of
from mmext.registry import MODELS

from .base import BoxLoss
from .box_pair import BoxPair, area
from .numerics import power

Penalty = Callable[..., tuple[Tensor, ...]]
# Checks the value of a keyword, given the owner that a message names.
Check = Callable[[object, object], None]
VARIANTS: dict[str, Penalty] = {}
KEYWORDS: dict[str, dict[str, Check]] = {}
"""The keywords that only one variant takes, with their checks."""


def variant(**keywords: Check) -> Callable[[Penalty], Penalty]:
    """Register a function of a :class:`BoxPair` as the variant of its name.

    Args:
        **keywords: The check of each further keyword of the function.
    """

    def register(penalty: Penalty) -> Penalty:
        VARIANTS[penalty.__name__] = penalty
        KEYWORDS[penalty.__name__] = keywords
        return penalty

    return register


def check_scale(owner: object, scale: float) -> None:
    """Raise a ValueError unless the scale is a number of at least 0."""
    check_at_least(owner, 0, scale=scale)


def check_image_size(owner: object, size: Sequence[float] | None) -> None:
    """Raise a ValueError, naming the remedy, unless the size is (height, width), both above 0."""
    if size is None:
        raise ValueError(
            f"{name_of(owner)}: variant 'mpdiou' needs image_size=(height, width), the size of the network's input in "
            'the unit of the boxes. mmext.YOLOXHead passes it with each call; for any other head set it in the config'
        )
    if not (len(size) == 2 and min(size) > 0):
        raise ValueError(f'{name_of(owner)}: image_size must be (height, width), both above 0, but is {size!r}')


@variant()
def iou(pair: BoxPair) -> tuple[Tensor, ...]:
    """IoU: no penalty. With alpha 2 it is YOLOX's stock loss.

    Source: Yu et al., `UnitBox <https://arxiv.org/abs/1608.01471>`_.
    """
    return ()


@variant()
def giou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Generalized IoU: the share of the enclosing box that neither box covers.

    .. math:: \frac{C - U}{C}

    Source: Rezatofighi et al., `GIoU <https://arxiv.org/abs/1902.09630>`_, algorithm 1.
    """
    # Rounding could make it negative.
    return (pair.ratio((pair.enclose_area - pair.union).relu(), pair.enclose_area),)


@variant()
def diou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Distance IoU: the squared center distance over the squared diagonal of the enclosing box.

    .. math:: \frac{\rho^2}{c^2}

    Source: Zheng et al., `DIoU <https://arxiv.org/abs/1911.08287>`_, eq. 7.
    """
    return (pair.distance,)


@variant()
def ciou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Complete IoU: DIoU's term, and the difference of the aspect ratios times a detached trade-off.

    .. math::
        \frac{\rho^2}{c^2}, \quad \operatorname{sg}\Bigl(\frac{v}{1 - \mathrm{IoU} + v}\Bigr)\, v, \qquad
        v = \frac{4}{\pi^2} \Bigl(\arctan\frac{w^*}{h^*} - \arctan\frac{w}{h}\Bigr)^2

    Source: Zheng et al., `DIoU <https://arxiv.org/abs/1911.08287>`_, eq. 8 to 11.
    """
    angle, target_angle = (torch.div(*F.threshold(wh, pair.eps, pair.eps)).atan() for wh in (pair.wh, pair.target_wh))
    aspect = 4 / math.pi**2 * (angle - target_angle).square()
    trade_off = pair.ratio(aspect, 1 - pair.iou + aspect).detach()
    return pair.distance, trade_off * aspect


@variant()
def eiou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Efficient IoU: DIoU's term, and the squared side differences over the enclosing box's squared sides.

    .. math:: \frac{\rho^2}{c^2}, \quad \frac{(w - w^*)^2}{c_w^2}, \quad \frac{(h - h^*)^2}{c_h^2}

    mmdet's `EIoULoss` is Extended IoU, a different loss.

    Source: Zhang et al., `EIoU <https://arxiv.org/abs/2101.08158>`_, eq. 6.
    """
    sides = pair.ratio(pair.growth.square(), pair.enclose_wh.square())
    return pair.distance, *sides


@variant()
def siou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""SCYLLA IoU: the mean of an angle-dependent distance cost and a shape cost, as one term.

    .. math::
        \tfrac12 \sum_{t = x, y} \Bigl(1 - e^{-(2 - \Lambda)\, (d_t / c_t)^2}\Bigr) +
        \tfrac12 \sum_{t = w, h} \Bigl(1 - e^{-|t - t^*| / \max(t, t^*)}\Bigr)^4, \qquad
        \Lambda = \sin\Bigl(2 \arcsin \frac{\min(|d_x|, |d_y|)}{\rho}\Bigr) = \frac{2\, |d_x d_y|}{\rho^2}

    The code uses the second form of the angle cost, which is differentiable everywhere.

    Source: Gevorgyan, `SIoU <https://arxiv.org/abs/2205.12740>`_, section 3.
    """
    angle = pair.ratio(2 * area(pair.offset).abs(), pair.squared_distance)
    distance = -torch.expm1((angle - 2) * pair.ratio(pair.offset.square(), pair.enclose_wh.square()))
    shape = (-torch.expm1(-pair.side_differences)).pow(4)
    return ((distance + shape).sum(0) / 2,)


@variant(scale=check_scale)
def shape(pair: BoxPair, scale: float = 0.0) -> tuple[Tensor, ...]:
    r"""Shape-IoU: distance and shape costs, weighted by the target's sides.

    .. math::
        \frac{k_h d_x^2 + k_w d_y^2}{c^2}, \quad
        \tfrac12 \Bigl(1 - e^{-k_h |w - w^*| / \max(w, w^*)}\Bigr)^4 +
        \tfrac12 \Bigl(1 - e^{-k_w |h - h^*| / \max(h, h^*)}\Bigr)^4, \qquad
        k_w = \frac{2\, w^{*s}}{w^{*s} + h^{*s}}, \quad k_h = 2 - k_w

    Args:
        pair: The boxes.
        scale: s, at least 0; the paper chooses it by the size of a data set's objects. 0 weights both sides equally.

    Source: Zhang and Zhang, `Shape-IoU <https://arxiv.org/abs/2312.17663>`_, section 3.
    """
    log_aspect = pair.target_wh.clamp(min=pair.eps).log()
    width_weight = 2 * torch.sigmoid(scale * (log_aspect[0] - log_aspect[1]))
    weights = torch.stack([2 - width_weight, width_weight])
    distance = pair.ratio((weights * pair.offset.square()).sum(0), pair.squared_diagonal)
    return distance, (-torch.expm1(-weights * pair.side_differences)).pow(4).sum(0) / 2


@variant(image_size=check_image_size)
def mpdiou(pair: BoxPair, image_size: Sequence[float]) -> tuple[Tensor, ...]:
    r"""Minimum point distance: the squared distances of two corners over the image's squared diagonal.

    .. math:: \frac{d_{tl}^2}{W^2 + H^2}, \quad \frac{d_{br}^2}{W^2 + H^2}

    Args:
        pair: The boxes.
        image_size: (height, width) of the network's input, in the unit of the boxes.

    Source: Ma and Xu, `MPDIoU <https://arxiv.org/abs/2307.07662>`_, eq. 10.
    """
    height, width = image_size
    corners = pair.edge_offsets.square().sum(1) / (height**2 + width**2)
    return corners.unbind()


@variant()
def piou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Powerful IoU: the mean edge distance over the target's sides.

    .. math::
        1 - e^{-P^2}, \qquad P = \frac14 \Bigl(\frac{|d_{x1}| + |d_{x2}|}{w^*} + \frac{|d_{y1}| + |d_{y2}|}{h^*}\Bigr)

    PIoU v2 is this variant with the focus :class:`PIoUFocus`.

    Source: Liu et al., `Powerful-IoU <https://doi.org/10.1016/j.neunet.2023.11.041>`_, Neural Networks 2024.
    """
    return (-torch.expm1(-pair.edge_distance.square()),)


@variant()
def interp(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Interpolated IoU: the IoU loss of a box between the prediction B and the target G.

    .. math::
        1 - \mathrm{IoU}(B', G), \qquad B' = (1 - a)\, B + a\, G, \qquad
        a = \operatorname{sg}\bigl(\operatorname{clamp}(1 - \mathrm{IoU}(B, G),\, 0.6,\, 0.99)\bigr)

    B' overlaps the target even if B does not, so distant pairs get a gradient without a geometric penalty.

    Source: `InterpIoU <https://arxiv.org/abs/2507.12420>`_.
    """
    share = (1 - pair.iou.detach()).clamp(0.6, 0.99)
    return (1 - pair.interpolated(share).iou,)


def overlap(pair: BoxPair, inner_ratio: float | None, interval: Sequence[float] | None) -> Tensor:
    """The IoU, as modified by Inner-IoU and Focaler-IoU.

    Args:
        pair: The boxes.
        inner_ratio: The factor on all sides before the IoU is computed; None: 1.
        interval: (low, high), which is stretched to (0, 1); None: no stretching.

    Returns:
        (n,), in [0, 1].
    """
    iou = pair.iou if inner_ratio is None else pair.scaled(inner_ratio).iou
    if interval is None:
        return iou
    low, high = interval
    return ((iou - low) / (high - low)).clamp(0, 1)


def loss_of_pair(
    pair: BoxPair,
    variant: str,
    alpha: float,
    inner_ratio: float | None,
    interval: Sequence[float] | None,
    **variant_kwargs: object,
) -> Tensor:
    """The formula of :func:`iou_loss`."""
    loss = 1 - power(overlap(pair, inner_ratio, interval), alpha, up_to_1=True)
    for term in VARIANTS[variant](pair, **variant_kwargs):
        loss = loss + power(term, alpha)
    return loss


def check_arguments(
    owner: object,
    variant: str,
    alpha: float,
    inner_ratio: float | None,
    interval: Sequence[float] | None,
    eps: float,
    **variant_kwargs: object,
) -> None:
    """Raise the errors that :func:`iou_loss` documents."""
    check_choice(owner, 'variant', variant, tuple(VARIANTS))
    check_positive(owner, alpha=alpha, eps=eps)
    if inner_ratio is not None:
        check_positive(owner, inner_ratio=inner_ratio)
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise ValueError(
            f'{name_of(owner)}: interval must be (low, high) with 0 <= low < high <= 1, but is {interval!r}'
        )
    for keyword, value in variant_kwargs.items():
        if keyword not in KEYWORDS[variant]:
            owners = [other for other, keywords in KEYWORDS.items() if keyword in keywords]
            hint = f'; it belongs to the variant {owners[0]!r}' if owners else ''
            raise TypeError(
                f'{name_of(owner)}: variant {variant!r} takes no argument {keyword!r}{hint}. If it comes from the base '
                "config, add _delete_=True to the dict that names the type: it then replaces the base's"
            )
        KEYWORDS[variant][keyword](owner, value)


def takes_image_size(variant: str) -> bool:
    """Whether the variant needs the size of the network's input."""
    return 'image_size' in KEYWORDS[variant]


def iou_loss(
    pred: Tensor,
    target: Tensor,
    variant: str = 'iou',
    alpha: float = 1.0,
    inner_ratio: float | None = None,
    interval: Sequence[float] | None = None,
    eps: float = 1e-7,
    **variant_kwargs: object,
) -> Tensor:
    r"""Loss of the IoU family for aligned pairs of boxes.

    .. math:: L = 1 - \mathrm{IoU}^\alpha + \sum_{\text{terms}} \text{term}^\alpha

    The variant determines the penalty terms: see :mod:`mmext.losses.iou`. In them :math:`w, h` are the sides of the
    prediction and :math:`w^*, h^*` those of the target; :math:`d_x, d_y` are the offsets between the centers and
    :math:`\rho` their distance; :math:`U` is the area of the union; :math:`c_w, c_h`, :math:`C` and :math:`c` are the
    sides, the area and the diagonal of the enclosing box; :math:`\operatorname{sg}` stops the gradient.

    `inner_ratio` (Inner-IoU) replaces the IoU by that of both boxes with their sides multiplied by the ratio.
    `interval` (Focaler-IoU) stretches it: :math:`\operatorname{clamp}((\mathrm{IoU} - low) / (high - low), 0, 1)`.
    Both may be given. The penalty terms always use the unscaled boxes.

    The loss is 0 for identical boxes and does not depend on the unit (mpdiou: if `image_size` has that unit). It is
    computed in float32 or wider, whatever the inputs' type. Loss and gradient are finite for all finite boxes. alpha 2
    of variant iou is YOLOX's stock loss, mmdet's `IoULoss(mode='square')`; ciou equals diou for equal aspect ratios;
    eiou equals diou for equal sizes.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (n, 4), in pixels or any other unit.
        target: Target boxes of the same shape and unit.
        variant: One of `VARIANTS`.
        alpha: The power, above 0. Above 1 it favors pairs that overlap well already, below 1 the others.
        inner_ratio: The ratio of Inner-IoU, above 0, in the paper 0.5 to 1.5. Below 1 only good overlaps count, above 1
            pairs further apart count too.
        interval: (low, high) of Focaler-IoU with 0 <= low < high <= 1; its authors' default is (0, 0.95). The overlap
            has no gradient outside the interval.
        eps: The smallest denominator. A pair whose union is below it has IoU 0.
        **variant_kwargs: `scale` of shape, at least 0; `image_size` of mpdiou, (height, width).

    Returns:
        The loss of each pair, of shape (n,).

    Raises:
        ValueError: For shapes that are not aligned boxes, an unknown variant, a number outside its range, or mpdiou
            without an image size.
        TypeError: For a keyword that the variant does not take.

    Example:
        The boxes have the same width and the target twice the height: IoU 1/2, and DIoU's term is 1/20.

        >>> pred, target = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 20]])
        >>> iou_loss(pred, target, variant='diou')
        tensor([0.5500])
        >>> iou_loss(pred, target, variant='iou', alpha=2.0)
        tensor([0.7500])

    Source: He et al., `alpha-IoU <https://arxiv.org/abs/2110.13675>`_, eq. 4; Zhang et al., `Inner-IoU
    <https://arxiv.org/abs/2311.02877>`_, eq. 4 to 12; Zhang and Zhang, `Focaler-IoU <https://arxiv.org/abs/2401.10525>`_,
    eq. 2; each variant names its own.
    """
    check_arguments('iou_loss', variant, alpha, inner_ratio, interval, eps, **variant_kwargs)
    if takes_image_size(variant):
        check_image_size('iou_loss', variant_kwargs.get('image_size'))
    return loss_of_pair(BoxPair(pred, target, eps), variant, alpha, inner_ratio, interval, **variant_kwargs)


@MODELS.register_module()
class IoULoss(BoxLoss):
    """Loss of the IoU family, times a focus, weighted and reduced; the formula is that of :func:`iou_loss`.

    Every variant, alpha, overlap and focus can be combined.

    Shape:
        pred, target: boxes (x1, y1, x2, y2), (n, 4), in one unit. weight: (n,), or (n, 4), which is averaged per row.
        The loss is a scalar, or (n,) with `reduction='none'`. Without `avg_factor`, `'mean'` averages over the pairs.

    Args:
        variant: One of `VARIANTS`.
        alpha: The power of alpha-IoU, above 0; 1 is the classical loss.
        inner_ratio: The ratio of Inner-IoU, above 0; None: 1.
        interval: (low, high) of Focaler-IoU in [0, 1]; None: no stretching.
        focus: The config of a factor: `dict(type='mmext.FocalFocus')`, `'mmext.WiseFocus'` or `'mmext.PIoUFocus'`;
            None: 1.
        eps: The smallest denominator, above 0.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.
        **variant_kwargs: `scale` of shape. `image_size` of mpdiou comes with each call; given here it is fixed.

    Raises:
        ValueError: For an unknown variant, or a number outside its range.
        TypeError: For a keyword that the variant does not take.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.IoULoss', variant='diou', reduction='sum', loss_weight=5.0))
        >>> loss(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 20]]))
        tensor(2.7500)
    """

    def __init__(
        self,
        variant: str = 'iou',
        alpha: float = 1.0,
        inner_ratio: float | None = None,
        interval: Sequence[float] | None = None,
        focus: dict | None = None,
        eps: float = 1e-7,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        **variant_kwargs: object,
    ):
        super().__init__(reduction, loss_weight)
        check_arguments(self, variant, alpha, inner_ratio, interval, eps, **variant_kwargs)
        self.variant = variant
        self.alpha = alpha
        self.inner_ratio = inner_ratio
        self.interval = interval
        self.focus = None if focus is None else MODELS.build(focus)
        self.eps = eps
        self.variant_kwargs = variant_kwargs

    @property
    def scale_invariant(self) -> bool:
        """Whether the unit of the boxes makes no difference, as for all variants but mpdiou."""
        return not takes_image_size(self.variant)

    @property
    def needs_image_size(self) -> bool:
        """Whether each call must pass `image_size`; heads read it."""
        return takes_image_size(self.variant) and 'image_size' not in self.variant_kwargs

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        image_size: Sequence[float] | None = None,
    ) -> Tensor:
        """The weighted and reduced loss; see :meth:`ElementwiseLoss.forward`.

        Args:
            pred: Predicted boxes (n, 4).
            target: Target boxes (n, 4).
            weight: (n,) or (n, 4). Pairs of weight 0 are padding and do not enter a running mean.
            avg_factor: The divisor of `'mean'`.
            reduction_override: Replaces the reduction given at construction.
            image_size: (height, width) of the network's input, for mpdiou alone.

        Raises:
            ValueError: See :meth:`ElementwiseLoss.forward`; also for mpdiou without an image size.
        """
        return super().forward(
            pred, target, weight, avg_factor, reduction_override, counted=weight, image_size=image_size
        )

    def elementwise(
        self, pred: Tensor, target: Tensor, counted: Tensor | None = None, image_size: Sequence[float] | None = None
    ) -> Tensor:
        variant_kwargs = self.variant_kwargs
        if self.needs_image_size:
            check_image_size(self, image_size)
            variant_kwargs = {**variant_kwargs, 'image_size': image_size}
        pair = BoxPair(pred, target, self.eps)
        loss = loss_of_pair(pair, self.variant, self.alpha, self.inner_ratio, self.interval, **variant_kwargs)
        return loss if self.focus is None else self.focus(pair, counted) * loss

    def extra_repr(self) -> str:
        given = dict(alpha=self.alpha, inner_ratio=self.inner_ratio, interval=self.interval, **self.variant_kwargs)
        given.update(reduction=self.reduction, loss_weight=self.loss_weight)
        return ', '.join([self.variant, *(f'{name}={value}' for name, value in given.items() if value is not None)])
