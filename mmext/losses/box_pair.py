"""Geometry of box pairs, shared by the box losses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .numerics import upcast


def sides(edges: Tensor) -> Tensor:
    """Width and height from the edges ((-x1, -y1), (x2, y2)): (2, 2, ...) -> (2, ...)."""
    near, far = edges
    return near + far


class _Lengths(torch.autograd.Function):
    """The lengths of a :class:`BoxPair` from boxes (..., 4): widths and heights of predictions, targets and
    intersections, (2, ...) each, and how far each edge must move outwards to reach the target's, (2, 2, ...).

    A side of the intersection is negative if the boxes are apart. Coordinates saturate, so that no product of four
    overflows, and x2 and y2 are raised to x1 and y1. The backward pass ignores both clamps. A float16 gradient
    saturates at float16's range instead of overflowing.
    """

    @staticmethod
    def forward(ctx, pred: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = pred.dtype, target.dtype
        both = torch.stack([boxes.movedim(-1, 0) for boxes in upcast(pred, target)]).unflatten(1, (2, 2))
        limit = torch.finfo(both.dtype).max ** 0.25 / 4
        near, far = both.clamp_(-limit, limit).unbind(1)
        far.clamp_(min=near)
        # With near negated, larger is further outwards: the intersection is the minimum, and near + far is the size.
        wh, target_wh = near.neg_() + far
        edges, target_edges = both
        offsets = target_edges - edges
        if not ctx.needs_input_grad[1]:
            ctx.mark_non_differentiable(target_wh)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(offsets)
        return wh, target_wh, sides(torch.minimum(edges, target_edges)), offsets

    @staticmethod
    def backward(
        ctx, wh: Tensor | None, target_wh: Tensor | None, overlap_wh: Tensor | None, offsets: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        (outside,) = ctx.saved_tensors
        outside = outside.detach()
        # An edge of the intersection is the inner one of the two; equal edges share the gradient.
        share = torch.heaviside(outside, outside.new_full((), 0.5))
        of_pred = of_target = None
        if ctx.needs_input_grad[0]:
            of_pred = _Lengths._of_boxes(wh, overlap_wh, share, offsets, -1, ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            of_target = _Lengths._of_boxes(target_wh, overlap_wh, 1 - share, offsets, 1, ctx.dtypes[1])
        return of_pred, of_target

    @staticmethod
    def _of_boxes(
        wh: Tensor | None,
        overlap_wh: Tensor | None,
        share: Tensor,
        offsets: Tensor | None,
        sign: int,
        dtype: torch.dtype,
    ) -> Tensor | None:
        """The gradient of the boxes from that of their lengths, the one of the offsets times a sign."""
        gradient = None if wh is None else wh.expand_as(share)
        if offsets is not None:
            gradient = sign * offsets if gradient is None else torch.add(gradient, offsets, alpha=sign)
        if overlap_wh is not None:
            gradient = overlap_wh * share if gradient is None else torch.addcmul(gradient, overlap_wh, share)
        if gradient is None:
            return None
        if dtype == torch.float16:
            limit = torch.finfo(torch.float16).max
            gradient = gradient.clamp(-limit, limit)
        near, far = gradient.to(dtype)
        return torch.cat([-near, far]).movedim(0, -1)


class lazy_property:  # noqa: N801
    """`functools.cached_property` without the lock of Python 3.11, which `torch.compile` cannot trace."""

    def __init__(self, compute: Callable[['BoxPair'], Tensor]):
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, pair: 'BoxPair | None', owner: type) -> 'Tensor | lazy_property':
        if pair is None:
            return self
        value = self.compute(pair)
        setattr(pair, self.compute.__name__, value)
        return value


def area(wh: Tensor) -> Tensor:
    """Width times height, (2, ...) -> (...); the backward of `prod` would synchronize with the host."""
    width, height = wh
    return width * height


class BoxPair:
    """Aligned pairs of boxes, with the lengths and areas that IoU losses share, computed on first use.

    Lengths have shape (2, ...), x before y, which keeps each operation on long rows. `wh` and `target_wh` are the sides
    of the predicted and of the target boxes; `overlap_wh` those of the intersection, negative if the boxes are apart;
    `edge_offsets`, (2, 2, ...), is how far each edge of the prediction, the left and upper ones first, must move
    outwards to reach the target's.

    Denominators are clamped, not padded: identical boxes have an IoU of exactly 1, and a pair whose union is below
    `eps` has IoU 0. A box with x2 < x1 or y2 < y1 counts as the empty box at its (x1, y1). Coordinates beyond a quarter
    of the fourth root of the type's maximum (1e9 in float32) saturate, so that no product overflows.

    To stop a gradient, use `.detach()`, not `torch.no_grad()`: a property keeps the grad mode of its first use.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (..., 4), in any unit.
        target: Their targets, of the same shape and unit.
        eps: The smallest denominator, an area or a length in that unit.

    Raises:
        TypeError: If the target is not a tensor.
        ValueError: If the shapes differ or do not end in 4.
    """

    def __init__(self, pred: Tensor, target: Tensor, eps: float = 1e-7):
        if not isinstance(target, Tensor):
            raise TypeError(f'target must be boxes (n, 4) in one tensor, but is a {type(target).__name__}')
        if pred.shape != target.shape or pred.shape[-1:] != (4,):
            raise ValueError(
                'pred and target must be aligned boxes (x1, y1, x2, y2) of one shape (n, 4), but are '
                f'of shapes {tuple(pred.shape)} and {tuple(target.shape)}'
            )
        self.eps = eps
        self.wh, self.target_wh, self.overlap_wh, self.edge_offsets = _Lengths.apply(pred, target)

    @lazy_property
    def intersection(self) -> Tensor:
        """Area of the intersection, (...)."""
        # The gradient must pass at 0; otherwise a zero-width box could never grow.
        # Nothing below 0 may pass: the smallest subnormal number is the only threshold between 0 and the rest.
        info = torch.finfo(self.overlap_wh.dtype)
        return area(F.threshold(self.overlap_wh, -info.tiny * info.eps, 0))

    @lazy_property
    def union(self) -> Tensor:
        """Area of the union, (...)."""
        return area(self.wh) + area(self.target_wh) - self.intersection

    @lazy_property
    def iou(self) -> Tensor:
        """Intersection over union in [0, 1], (...)."""
        return self.intersection / F.threshold(self.union, self.eps, float('inf'))

    @lazy_property
    def enclose_wh(self) -> Tensor:
        """Width and height of the smallest box that encloses both, (2, ...)."""
        return self.wh + self.target_wh - self.overlap_wh

    @lazy_property
    def enclose_area(self) -> Tensor:
        """Area of the smallest box that encloses both, (...)."""
        return area(self.enclose_wh)

    @lazy_property
    def offset(self) -> Tensor:
        """From the predicted center to the target's, (2, ...)."""
        near, far = self.edge_offsets
        return (far - near) / 2

    @lazy_property
    def growth(self) -> Tensor:
        """By how much the target is wider and higher than the prediction, (2, ...).

        Unlike the difference of the sides it is not rounded for boxes that are nearly equal.
        """
        return sides(self.edge_offsets)

    @lazy_property
    def squared_distance(self) -> Tensor:
        """Squared center distance, (...)."""
        return self.offset.square().sum(0)

    @lazy_property
    def squared_diagonal(self) -> Tensor:
        """Squared diagonal of the smallest box that encloses both, (...)."""
        return self.enclose_wh.square().sum(0)

    @lazy_property
    def distance(self) -> Tensor:
        """Squared center distance over the squared diagonal of the enclosing box, in [0, 1), (...)."""
        return self.ratio(self.squared_distance, self.squared_diagonal)

    @lazy_property
    def side_differences(self) -> Tensor:
        """Differences of the widths and of the heights, each over the larger of the two, in [0, 1], (2, ...)."""
        return self.ratio(self.growth.abs(), torch.maximum(self.wh, self.target_wh))

    @lazy_property
    def edge_distance(self) -> Tensor:
        """Mean distance of the four edges from the target's, each over the target's width or height, (...)."""
        return self.ratio(sides(self.edge_offsets.abs()), self.target_wh).sum(0) / 4

    def scaled(self, ratio: float) -> 'BoxPair':
        """The pair with all sides multiplied by `ratio`, the centers unchanged."""
        return self._of_edges(*self._edges(ratio))

    def interpolated(self, share: Tensor) -> 'BoxPair':
        """The pair whose predicted box is moved the share (...) of the way to the target."""
        pred, target = self._edges()
        return self._of_edges(torch.lerp(pred, target, share), target)

    def _edges(self, ratio: float = 1.0) -> tuple[Tensor, Tensor]:
        """Predicted and target boxes, (4, ...) each, with sides times `ratio`; the predicted center is the origin."""
        half, target_half = self.wh * (ratio / 2), self.target_wh * (ratio / 2)
        return torch.cat([-half, half]), torch.cat([self.offset - target_half, self.offset + target_half])

    def _of_edges(self, *edges: Tensor) -> 'BoxPair':
        return BoxPair(*(box.movedim(0, -1) for box in edges), self.eps)

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """`numerator / denominator`, the denominator not below `eps`."""
        return numerator / F.threshold(denominator, self.eps, self.eps)
