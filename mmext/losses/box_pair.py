"""The geometry that the box losses share."""

from collections.abc import Callable

import torch
from torch import Tensor

from .base import wide


class _Edges(torch.autograd.Function):
    """(x1, y1, x2, y2) -> (-x1, -y1, x2, y2), in float32 or wider: of two boxes the minimum is the intersection, the
    maximum the enclosing box, and the sum of the halves has the sides.

    Coordinates saturate, so that no product of four overflows, and x2 and y2 are not below x1 and y1. The gradient
    passes as it is; that of float16 saturates at float16's range instead of overflowing.
    """

    @staticmethod
    def forward(ctx, boxes: Tensor) -> Tensor:
        ctx.dtype = boxes.dtype
        (boxes,) = wide(boxes)
        limit = torch.finfo(boxes.dtype).max ** 0.25 / 4
        edges = boxes.clamp(-limit, limit)
        near, far = edges.split(2, dim=-1)
        far.clamp_(min=near)
        near.neg_()
        return edges

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        if ctx.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max
            gradient = gradient.clamp(-limit, limit)
        near, far = gradient.to(ctx.dtype).split(2, dim=-1)
        return torch.cat([near.neg(), far], -1)


class Lazy:
    """`functools.cached_property` without the lock that Python 3.11 still takes, and `torch.compile` cannot enter."""

    def __init__(self, compute: Callable[['BoxPair'], Tensor]):
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, pair: 'BoxPair', owner: type) -> Tensor:
        value = self.compute(pair)
        setattr(pair, self.compute.__name__, value)
        return value


def area(wh: Tensor) -> Tensor:
    """Width times height, (..., 2) -> (...); the gradient of `prod` would ask the host for zeros."""
    width, height = wh.unbind(-1)
    return width * height


def sides(edges: Tensor) -> Tensor:
    """Width and height, (..., 4) -> (..., 2)."""
    near, far = edges.split(2, dim=-1)
    return near + far


class BoxPair:
    """Aligned pairs of boxes and the lengths and areas that IoU losses share, computed when asked for.

    A denominator is clamped, never padded: identical boxes have an IoU of exactly 1, and a pair whose
    union is below `eps` has IoU 0. A box with x2 < x1 or y2 < y1 counts as the empty box at its
    (x1, y1). Coordinates beyond a quarter of the fourth root of the type's maximum (1e9 in float32)
    saturate, so that no product overflows.

    Stop a gradient by detaching a value: a property first asked for under `torch.no_grad()` stays without
    a gradient for everyone after it.

    Args:
        pred: Predicted boxes (x1, y1, x2, y2), of shape (..., 4), in any unit.
        target: Their targets, of the same shape and unit.
        eps: The smallest denominator, an area or a length in that unit.

    Raises:
        ValueError: Where the shapes differ or do not end in 4.
    """

    def __init__(self, pred: Tensor, target: Tensor, eps: float = 1e-7):
        if pred.shape != target.shape or pred.shape[-1:] != (4,):
            raise ValueError(
                'pred and target must be aligned boxes (x1, y1, x2, y2) of one shape (n, 4), but are '
                f'of shapes {tuple(pred.shape)} and {tuple(target.shape)}'
            )
        self.eps = eps
        self.edges, self.target_edges = wide(_Edges.apply(pred), _Edges.apply(target))

    @Lazy
    def wh(self) -> Tensor:
        """Width and height of the predicted boxes, (..., 2)."""
        return sides(self.edges)

    @Lazy
    def target_wh(self) -> Tensor:
        """Width and height of the target boxes, (..., 2)."""
        return sides(self.target_edges)

    @Lazy
    def intersection(self) -> Tensor:
        """Area of the intersection, (...)."""
        wh = sides(torch.minimum(self.edges, self.target_edges))
        # As `clamp` it passes the gradient at 0, or a box without width would never grow; its gradient takes one step.
        return area(wh.masked_fill(wh < 0, 0))

    @Lazy
    def union(self) -> Tensor:
        """Area of the union, (...)."""
        return area(self.wh) + area(self.target_wh) - self.intersection

    @Lazy
    def iou(self) -> Tensor:
        """Intersection over union in [0, 1], (...)."""
        return self.intersection / self.union.masked_fill(self.union < self.eps, float('inf'))

    @Lazy
    def enclose_wh(self) -> Tensor:
        """Width and height of the smallest box that encloses both, (..., 2)."""
        return sides(torch.maximum(self.edges, self.target_edges))

    @Lazy
    def enclose_area(self) -> Tensor:
        """Area of the smallest box that encloses both, (...)."""
        return area(self.enclose_wh)

    @Lazy
    def edge_offsets(self) -> Tensor:
        """How far each edge of the prediction must move outwards to the target's, (..., 4)."""
        return self.target_edges - self.edges

    @Lazy
    def offset(self) -> Tensor:
        """From the predicted centre to the target's, (..., 2)."""
        near, far = self.edge_offsets.split(2, dim=-1)
        return (far - near) / 2

    @Lazy
    def squared_distance(self) -> Tensor:
        """Squared distance of the centres, (...)."""
        return self.offset.square().sum(-1)

    @Lazy
    def squared_diagonal(self) -> Tensor:
        """Squared diagonal of the smallest box that encloses both, (...)."""
        return self.enclose_wh.square().sum(-1)

    @Lazy
    def distance(self) -> Tensor:
        """Squared distance of the centres over the squared diagonal of the enclosing box, in [0, 1), (...)."""
        return self.ratio(self.squared_distance, self.squared_diagonal)

    @Lazy
    def side_differences(self) -> Tensor:
        """Differences of the widths and of the heights, each over the larger of the two, in [0, 1], (..., 2)."""
        return self.ratio((self.wh - self.target_wh).abs(), torch.maximum(self.wh, self.target_wh))

    @Lazy
    def edge_distance(self) -> Tensor:
        """Mean distance of the four edges from the target's, over the target's side across them, (...)."""
        return self.ratio(sides(self.edge_offsets.abs()), self.target_wh).sum(-1) / 4

    def scaled(self, ratio: float) -> 'BoxPair':
        """The pair with all sides multiplied by `ratio` about the centres."""
        boxes = []
        for edges, wh in ((self.edges, self.wh), (self.target_edges, self.target_wh)):
            (near, far), shrink = edges.split(2, dim=-1), wh * ((1 - ratio) / 2)
            boxes.append(torch.cat([shrink - near, far - shrink], -1))
        return BoxPair(*boxes, self.eps)

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """`numerator / denominator`, the denominator not below `eps`."""
        return numerator / denominator.masked_fill(denominator < self.eps, self.eps)
