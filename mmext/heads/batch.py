"""A batch as tensors of fixed shapes: flattened levels, decoded boxes, picked rows, padded ground truth."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.autograd.function import once_differentiable


def flatten(levels: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W) of each level -> (B, A, C), in memory (B, C, A): so the copy has long rows."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


class Pick(torch.autograd.Function):
    """The rows of (B, A, n) at (B, P): (B, P, n). `gather` would keep the whole tensor for the backward."""

    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (index,), (images, number, channels) = ctx.saved_tensors, ctx.shape
        if not index.shape[1]:
            return gradient.new_zeros(()).expand(ctx.shape), None
        # In memory (B, n, A), as flatten has it.
        rows = gradient.new_zeros(images, channels, number)
        rows.scatter_add_(2, index.unsqueeze(1).expand(-1, channels, -1), gradient.transpose(1, 2))
        return rows.transpose(1, 2), None


def decode(corners: Tensor, offsets: Tensor) -> Tensor:
    """Boxes (x1, y1, x2, y2) from corner and stride of the priors and offsets (..., 4), as mmdet decodes them."""
    corner, stride = corners.split(2, dim=-1)
    shift, log_side = offsets.split(2, dim=-1)
    centre, half = shift * stride + corner, log_side.exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)


class Decoded(torch.autograd.Function):
    """Boxes that :func:`decode` has made of offsets without a gradient, with the gradient: not decoded twice."""

    @staticmethod
    def forward(ctx, offsets: Tensor, corners: Tensor, boxes: Tensor) -> Tensor:
        ctx.save_for_backward(corners, boxes)
        return boxes.view_as(boxes)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        corners, boxes = ctx.saved_tensors
        (x1y1, x2y2), (low, high) = boxes.split(2, dim=-1), gradient.split(2, dim=-1)
        # Finite, since most priors have a gradient of 0, whatever they predict, and 0 * inf is not 0.
        side = (x2y2 - x1y1).nan_to_num(0, posinf=torch.finfo(boxes.dtype).max ** 0.25)
        shift, log_side = (low + high) * corners[..., 2:], (high - low) * (side / 2)
        return torch.cat([shift, log_side], dim=-1), None, None


def pad(instances: Sequence[InstanceData], like: Tensor, in_buckets: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The ground truth of a batch, padded to G, the highest number of boxes of an image, without a host sync.

    Args:
        instances: `bboxes` (n, 4) and `labels` (n,) of each image.
        like: A tensor of the type and device that the boxes are to have.
        in_buckets: Raise G to 8, 16, 32 and so on, so that few shapes occur.

    Returns:
        The boxes (B, G, 4), the labels (B, G), and which of them are real (B, G).
    """
    numbers = [len(each) for each in instances]
    width = max(numbers)
    if not width:
        shape = (len(instances), 0)
        return (
            like.new_empty(*shape, 4),
            like.new_empty(shape, dtype=torch.long),
            like.new_empty(shape, dtype=torch.bool),
        )
    if in_buckets:
        width = max(8, 2 ** math.ceil(math.log2(width)))
    rows = [
        [first + index if index < number else -1 for index in range(width)]
        for first, number in zip(accumulate(numbers, initial=0), numbers)
    ]
    rows = torch.tensor(rows, dtype=torch.long).to(like.device, non_blocking=True)
    # The padding holds the last box, and is masked.
    boxes = torch.cat([each.bboxes for each in instances])[rows].to(like.dtype)
    return boxes, torch.cat([each.labels for each in instances])[rows].long(), rows >= 0
