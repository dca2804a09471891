r"""Losses of the IoU family for boxes.

.. math:: L = 1 - \text{overlap}^\alpha + \sum_{\text{terms}} \text{term}^\alpha

A variant is a function of a :class:`BoxPair` that returns its penalty terms, most of them in [0, 1]; `alpha` is the
power of alpha-IoU, and 1 gives the classical loss. The overlap is the IoU, or what Inner-IoU and Focaler-IoU make of
it. In the module a focus may multiply the whole: see :mod:`mmext.losses.focus`.
"""

import math
from collections.abc import Callable, Sequence
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.registry import MODELS

from .base import ElementwiseLoss, check_at_least, check_choice, check_positive, power
from .box_pair import BoxPair, area

Penalty = Callable[..., tuple[Tensor, ...]]
VARIANTS: dict[str, Penalty] = {}
# What a variant alone needs: the keywords of its function.
KEYWORDS: dict[str, tuple[str, ...]] = {}


def variant(penalty: Penalty) -> Penalty:
    """Register a function of a :class:`BoxPair`, and of keywords of its own, as the variant of its name."""
    VARIANTS[penalty.__name__] = penalty
    KEYWORDS[penalty.__name__] = tuple(signature(penalty).parameters)[1:]
    return penalty


@variant
def iou(pair: BoxPair) -> tuple[Tensor, ...]:
    """IoU: no penalty; with alpha 2 YOLOX's own loss.

    Source: Yu et al., `UnitBox <https://arxiv.org/abs/1608.01471>`_.
    """
    return ()


@variant
def giou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Generalized IoU: the empty share of the enclosing box.

    .. math:: \frac{C - U}{C}

    Source: Rezatofighi et al., `GIoU <https://arxiv.org/abs/1902.09630>`_, algorithm 1.
    """
    # Not below 0 by rounding.
    return (pair.ratio((pair.enclose_area - pair.union).relu(), pair.enclose_area),)


@variant
def diou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Distance IoU: the squared distance of the centres over the squared diagonal of the enclosing box.

    .. math:: \frac{\rho^2}{c^2}

    Source: Zheng et al., `DIoU <https://arxiv.org/abs/1911.08287>`_, eq. 7.
    """
    return (pair.distance,)


@variant
def ciou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Complete IoU: DIoU's term, and the difference of the aspects times a trade-off without a gradient.

    .. math::
        \frac{\rho^2}{c^2}, \quad \operatorname{sg}\Big(\frac{v}{1 - \mathrm{IoU} + v}\Big)\, v, \qquad
        v = \frac{4}{\pi^2} \Big(\arctan\frac{w^*}{h^*} - \arctan\frac{w}{h}\Big)^2

    Source: Zheng et al., `DIoU <https://arxiv.org/abs/1911.08287>`_, eq. 8 to 11.
    """
    angle, target_angle = (torch.div(*F.threshold(wh, pair.eps, pair.eps)).atan() for wh in (pair.wh, pair.target_wh))
    aspect = 4 / math.pi**2 * (angle - target_angle).square()
    trade_off = pair.ratio(aspect, 1 - pair.iou + aspect).detach()
    return pair.distance, trade_off * aspect


@variant
def eiou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Efficient IoU: DIoU's term, and the squared differences of the sides over the enclosing box's squared sides.

    .. math:: \frac{\rho^2}{c^2}, \quad \frac{(w - w^*)^2}{c_w^2}, \quad \frac{(h - h^*)^2}{c_h^2}

    mmdet's `EIoULoss` is Extended IoU, another loss.

    Source: Zhang et al., `EIoU <https://arxiv.org/abs/2101.08158>`_, eq. 6.
    """
    sides = pair.ratio((pair.wh - pair.target_wh).square(), pair.enclose_wh.square())
    return pair.distance, *sides


@variant
def siou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""SCYLLA IoU: the mean of a distance that depends on the angle and of the difference of the shapes, one term.

    .. math::
        \tfrac12 \sum_{t = x, y} \Big(1 - e^{-(2 - \Lambda)\, (d_t / c_t)^2}\Big) +
        \tfrac12 \sum_{t = w, h} \Big(1 - e^{-|t - t^*| / \max(t, t^*)}\Big)^4, \qquad
        \Lambda = \sin\Big(2 \arcsin \frac{\min(|d_x|, |d_y|)}{\rho}\Big) = \frac{2\, |d_x d_y|}{\rho^2}

    The second form of the angle is a fraction and has a gradient everywhere.

    Source: Gevorgyan, `SIoU <https://arxiv.org/abs/2205.12740>`_, section 3.
    """
    angle = pair.ratio(2 * area(pair.offset).abs(), pair.squared_distance)
    distance = -torch.expm1((angle - 2) * pair.ratio(pair.offset.square(), pair.enclose_wh.square()))
    shape = (-torch.expm1(-pair.side_differences)).pow(4)
    return ((distance + shape).sum(0) / 2,)


@variant
def shape(pair: BoxPair, scale: float = 0.0) -> tuple[Tensor, ...]:
    r"""Shape-IoU: distance and shape, weighted by the target's own sides.

    .. math::
        \frac{k_h d_x^2 + k_w d_y^2}{c^2}, \quad
        \tfrac12 \Big(1 - e^{-k_h |w - w^*| / \max(w, w^*)}\Big)^4 +
        \tfrac12 \Big(1 - e^{-k_w |h - h^*| / \max(h, h^*)}\Big)^4, \qquad
        k_w = \frac{2\, w^{*s}}{w^{*s} + h^{*s}}, \quad k_h = 2 - k_w

    `scale`, s, grows with the size of a data set's objects; 0 weighs both sides alike.

    Source: Zhang and Zhang, `Shape-IoU <https://arxiv.org/abs/2312.17663>`_, section 3.
    """
    log_aspect = pair.target_wh.clamp(min=pair.eps).log()
    width_weight = 2 * torch.sigmoid(scale * (log_aspect[0] - log_aspect[1]))
    weights = torch.stack([2 - width_weight, width_weight])
    distance = pair.ratio((weights * pair.offset.square()).sum(0), pair.squared_diagonal)
    return distance, (-torch.expm1(-weights * pair.side_differences)).pow(4).sum(0) / 2


@variant
def mpdiou(pair: BoxPair, image_size: Sequence[float]) -> tuple[Tensor, ...]:
    r"""Minimum point distance: the squared distances of two corners over the squared diagonal of the image.

    .. math:: \frac{d_{tl}^2}{W^2 + H^2}, \quad \frac{d_{br}^2}{W^2 + H^2}

    `image_size` is the (height, width) of the network's input in the unit of the boxes.

    Source: Ma and Xu, `MPDIoU <https://arxiv.org/abs/2307.07662>`_, eq. 10.
    """
    height, width = image_size
    corners = pair.edge_offsets.square().sum(1) / (height**2 + width**2)
    return corners.unbind()


@variant
def piou(pair: BoxPair) -> tuple[Tensor, ...]:
    r"""Powerful IoU: the mean distance of the edges over the target's sides.

    .. math::
        1 - e^{-P^2}, \qquad P = \frac14 \Big(\frac{|d_{x1}| + |d_{x2}|}{w^*} + \frac{|d_{y1}| + |d_{y2}|}{h^*}\Big)

    Its second version is this with the focus :class:`PIoUFocus`.

    Source: Liu et al., `Powerful-IoU <https://doi.org/10.1016/j.neunet.2023.11.041>`_, Neural Networks 2024.
    """
    return (-torch.expm1(-pair.edge_distance.square()),)


def overlap(pair: BoxPair, inner_ratio: float | None, interval: Sequence[float] | None) -> Tensor:
    """The IoU of the pair, of its boxes scaled by Inner-IoU's ratio, and stretched from Focaler-IoU's interval."""
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
    **of_the_variant: object,
) -> Tensor:
    """The formula of :func:`iou_loss`."""
    loss = 1 - power(overlap(pair, inner_ratio, interval), alpha, up_to_1=True)
    for term in VARIANTS[variant](pair, **of_the_variant):
        loss = loss + power(term, alpha)
    return loss


def check_arguments(
    owner: object,
    variant: str,
    alpha: float,
    inner_ratio: float | None,
    interval: Sequence[float] | None,
    eps: float,
    **of_the_variant: object,
) -> None:
    """Raise what :func:`iou_loss` documents."""
    name = owner if isinstance(owner, str) else type(owner).__name__
    check_choice(owner, 'variant', variant, tuple(VARIANTS))
    check_positive(owner, alpha=alpha, eps=eps)
    if inner_ratio is not None:
        check_positive(owner, inner_ratio=inner_ratio)
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise ValueError(f'{name}: interval must be (low, high) with 0 <= low < high <= 1, but is {interval!r}')
    for keyword in of_the_variant:
        if keyword not in KEYWORDS[variant]:
            owners = [other for other, keywords in KEYWORDS.items() if keyword in keywords]
            hint = f'; it belongs to the variant {owners[0]!r}' if owners else ''
            raise TypeError(
                f'{name}: variant {variant!r} knows no argument {keyword!r}{hint}. Where it comes from the base '
                "config, add _delete_=True to the dict that names the type: it then replaces the base's"
            )
    if 'scale' in of_the_variant:
        check_at_least(owner, 0, scale=of_the_variant['scale'])
    size = of_the_variant.get('image_size')
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise ValueError(f'{name}: image_size must be (height, width), both above 0, but is {size!r}')


def check_image_size(name: str, variant: str, of_the_variant: dict[str, object]) -> None:
    """Raise a ValueError that names the remedy where the variant needs an image size and has none."""
    if 'image_size' in KEYWORDS[variant] and of_the_variant.get('image_size') is None:
        raise ValueError(
            f"{name}: variant {variant!r} needs image_size=(height, width), the size of the network's input in the "
            'unit of the boxes. mmext.YOLOXHead gives it with each call; for another head state it in the config'
        )


def iou_loss(
    pred: Tensor,
    target: Tensor,
    variant: str = 'iou',
    alpha: float = 1.0,
    inner_ratio: float | None = None,
    interval: Sequence[float] | None = None,
    eps: float = 1e-7,
    **of_the_variant: object,
) -> Tensor:
    r"""Loss of the IoU family for aligned pairs of boxes.

    .. math:: L = 1 - \mathrm{IoU}^\alpha + \sum_{\text{terms}} \text{term}^\alpha

    The penalty terms are those of the variant: see :mod:`mmext.losses.iou`. In them :math:`w, h` are the sides of the
    prediction and :math:`w^*, h^*` those of the target; :math:`d_x, d_y` and :math:`\rho` the offsets and the distance
    of the centres; :math:`U` the area of the union; :math:`c_w, c_h`, :math:`C` and :math:`c` the sides, the area and
    the diagonal of the enclosing box; :math:`\operatorname{sg}` stops the gradient.

    `inner_ratio` (Inner-IoU) puts in place of the IoU that of both boxes with their sides multiplied by the ratio.
    `interval` (Focaler-IoU) stretches it: :math:`\operatorname{clamp}((\mathrm{IoU} - low) / (high - low), 0, 1)`.
    Both may be given; the penalty is that of the boxes as they are.

    The loss is 0 for identical boxes and the same for boxes in any unit (mpdiou: with `image_size` in that unit). It is
    computed in float32 or wider, whatever the inputs' type; loss and gradient are finite for all finite boxes.
    Relations: alpha 2 of variant iou is YOLOX's stock loss, mmdet's `IoULoss(mode='square')`; ciou equals diou for
    equal aspects; eiou equals diou for equal sizes.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (n, 4), in pixels or any other unit.
        target: Target boxes of the same shape and unit.
        variant: One of `VARIANTS`: iou, giou, diou, ciou, eiou, siou, shape, mpdiou, piou.
        alpha: The power, above 0. Above 1 it favours the pairs that overlap well already; below 1 the others.
        inner_ratio: The ratio of Inner-IoU, above 0, in the paper 0.5 to 1.5; below 1 it sharpens good overlaps, above
            1 it reaches further.
        interval: (low, high) of Focaler-IoU with 0 <= low < high <= 1, by default of its authors (0, 0.95): outside of
            it the overlap has no gradient.
        eps: The smallest denominator. A pair whose union is below it has IoU 0.
        **of_the_variant: `scale` >= 0 of shape; `image_size`, (height, width), of mpdiou.

    Returns:
        The loss of each pair, of shape (n,).

    Raises:
        ValueError: For shapes that are not aligned boxes, an unknown variant, a number outside its range, or mpdiou
            without an image size.
        TypeError: For a keyword that the variant does not know.

    Source: He et al., `alpha-IoU <https://arxiv.org/abs/2110.13675>`_, eq. 4; Zhang et al., `Inner-IoU
    <https://arxiv.org/abs/2311.02877>`_, eq. 4 to 12; Zhang and Zhang, `Focaler-IoU <https://arxiv.org/abs/2401.10525>`_,
    eq. 2; the variants name their own.
    """
    check_arguments('iou_loss', variant, alpha, inner_ratio, interval, eps, **of_the_variant)
    check_image_size('iou_loss', variant, of_the_variant)
    return loss_of_pair(BoxPair(pred, target, eps), variant, alpha, inner_ratio, interval, **of_the_variant)


class BoxLoss(ElementwiseLoss):
    """Base of the losses of boxes: of a weight of shape (n, 4), as mmdet's heads give it, each row's mean counts."""

    def _fit(self, weight: Tensor, shape: torch.Size) -> Tensor:
        if weight.shape == (*shape, 4):
            weight = weight.mean(-1)
        return super()._fit(weight, shape)


@MODELS.register_module()
class IoULoss(BoxLoss):
    """Module of :func:`iou_loss`, times a focus. `mean` without an `avg_factor` divides by the number of pairs.

    A weight may be of shape (n,) or, as mmdet's heads give it, (n, 4), whose rows are averaged. Every variant, alpha,
    overlap and focus go together.

    Args:
        variant: One of `VARIANTS`: iou, giou, diou, ciou, eiou, siou, shape, mpdiou, piou.
        alpha: The power of alpha-IoU, above 0; 1 is the classical loss.
        inner_ratio: The ratio of Inner-IoU, above 0; None: none.
        interval: (low, high) of Focaler-IoU in [0, 1]; None: none.
        focus: The config of a multiplier: `dict(type='mmext.FocalFocus')`, `'mmext.WiseFocus'` or `'mmext.PIoUFocus'`;
            None: 1.
        eps: The smallest denominator, above 0.
        reduction: See :class:`ElementwiseLoss`.
        loss_weight: See :class:`ElementwiseLoss`.
        **of_the_variant: `scale` of shape. `image_size` of mpdiou comes with the call; given here it is fixed.

    Raises:
        ValueError: For an unknown variant, or a number outside its range.
        TypeError: For a keyword that the variant does not know.
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
        **of_the_variant: object,
    ):
        super().__init__(reduction, loss_weight)
        check_arguments(self, variant, alpha, inner_ratio, interval, eps, **of_the_variant)
        self.variant = variant
        self.alpha = alpha
        self.inner_ratio = inner_ratio
        self.interval = interval
        self.focus = None if focus is None else MODELS.build(focus)
        self.eps = eps
        self.of_the_variant = of_the_variant

    @property
    def needs_image_size(self) -> bool:
        """Whether a call must bring `image_size`; heads ask."""
        return 'image_size' in KEYWORDS[self.variant] and 'image_size' not in self.of_the_variant

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        image_size: Sequence[float] | None = None,
    ) -> Tensor:
        """See :meth:`ElementwiseLoss.forward`.

        Args:
            pred: Predicted boxes (n, 4).
            target: Target boxes (n, 4).
            weight: Of shape (n,) or (n, 4). Pairs of weight 0 are padding: no running mean counts them.
            avg_factor: What `'mean'` divides the sum by.
            reduction_override: Takes the place of the reduction given at construction.
            image_size: (height, width) of the network's input, for mpdiou alone.

        Raises:
            ValueError: See :meth:`ElementwiseLoss.forward`; and for mpdiou without an image size.
        """
        return super().forward(
            pred, target, weight, avg_factor, reduction_override, counted=weight, image_size=image_size
        )

    def elementwise(
        self, pred: Tensor, target: Tensor, counted: Tensor | None = None, image_size: Sequence[float] | None = None
    ) -> Tensor:
        of_the_variant = dict(self.of_the_variant)
        if self.needs_image_size:
            of_the_variant['image_size'] = image_size
            check_image_size('IoULoss', self.variant, of_the_variant)
        pair = BoxPair(pred, target, self.eps)
        loss = loss_of_pair(pair, self.variant, self.alpha, self.inner_ratio, self.interval, **of_the_variant)
        return loss if self.focus is None else self.focus(pair, counted) * loss

    def extra_repr(self) -> str:
        given = dict(alpha=self.alpha, inner_ratio=self.inner_ratio, interval=self.interval, **self.of_the_variant)
        given.update(reduction=self.reduction, loss_weight=self.loss_weight)
        return ', '.join([self.variant, *(f'{name}={value}' for name, value in given.items() if value is not None)])
