"""Tensor operations of the head: flattening, gathering, decoding, and the padding of ground truth."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.autograd.function import once_differentiable


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Concatenate the levels (B, C, H, W) to (B, A, C), stored as (B, C, A), which copies contiguous runs."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


class GatherRows(torch.autograd.Function):
    """Rows of (B, A, n) at the indices (B, P), as (B, P, n). Unlike `gather` it saves the indices alone for backward.

    The gradient is laid out in memory as :func:`flatten_levels` lays out the rows.
    """

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
        rows = gradient.new_zeros(images, channels, number)
        rows.scatter_add_(2, index.unsqueeze(1).expand(-1, channels, -1), gradient.transpose(1, 2))
        return rows.transpose(1, 2), None


def decode(corners: Tensor, offsets: Tensor) -> Tensor:
    """Decode box regressions as mmdet's YOLOX head does.

    Args:
        corners: Upper left corner and stride of each prior in pixels, (..., 4).
        offsets: Predicted center offset in strides, and the logarithm of width and height in strides, (..., 4).

    Returns:
        Boxes (x1, y1, x2, y2) in pixels, (..., 4).
    """
    corner, stride = corners.split(2, dim=-1)
    shift, log_wh = offsets.split(2, dim=-1)
    center, half = shift * stride + corner, log_wh.exp() * stride / 2
    return torch.cat([center - half, center + half], dim=-1)


class DecodeWithGrad(torch.autograd.Function):
    """:func:`decode` for boxes that are already decoded: returns them, and computes the gradient of the offsets.

    The head decodes once without a gradient, for the assigner; this saves decoding a second time.
    """

    @staticmethod
    def forward(ctx, offsets: Tensor, corners: Tensor, boxes: Tensor) -> Tensor:
        ctx.save_for_backward(corners, boxes)
        return boxes.view_as(boxes)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        corners, boxes = ctx.saved_tensors
        (x1y1, x2y2), (low, high) = boxes.split(2, dim=-1), gradient.split(2, dim=-1)
        # Most priors have gradient 0 but may predict an infinite side, and 0 * inf is NaN: so sides are made finite.
        wh = (x2y2 - x1y1).nan_to_num(0, posinf=torch.finfo(boxes.dtype).max ** 0.25)
        shift, log_wh = (low + high) * corners[..., 2:], (high - low) * (wh / 2)
        return torch.cat([shift, log_wh], dim=-1), None, None


def pad_ground_truth(
    instances: Sequence[InstanceData], like: Tensor, in_buckets: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the ground truth of a batch to G boxes per image, the most that an image has, without host synchronization.

    Args:
        instances: `bboxes` (n, 4) and `labels` (n,) of each image, on the device of `like`.
        like: A tensor whose dtype and device the boxes take.
        in_buckets: Round G up to 8, 16, 32 and so on, so that few shapes occur.

    Returns:
        Boxes (B, G, 4), labels (B, G), and which of them are real (B, G).
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
    # Pinned, since a copy from pageable memory may wait for the device.
    rows = torch.tensor(rows, dtype=torch.long, pin_memory=like.is_cuda).to(like.device, non_blocking=True)
    # The padding holds the last box, and is masked.
    boxes = torch.cat([each.bboxes for each in instances])[rows].to(like.dtype)
    return boxes, torch.cat([each.labels for each in instances])[rows].long(), rows >= 0
