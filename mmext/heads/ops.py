"""Tensor operations of the head: flattening, gathering, decoding, and the padding of ground truth."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.autograd.function import once_differentiable


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Concatenate the levels (B, C, H, W) to (B, A, C), stored as (C, B, A), which copies contiguous runs."""
    return torch.cat([level.flatten(2).transpose(0, 1) for level in levels], dim=2).permute(1, 2, 0)


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Gather rows of (B, A, n) at the indices (B, S), as (B, S, n)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def places_in_levels(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Find the priors, which are numbered over all levels, within each level.

    Args:
        sizes: Height and width of each of the L levels.
        device: The device of the result.

    Returns:
        The index of each prior within each level, the level's first or last if it is in another one, (L, A); and
        whether it is in this one, (L, A).
    """
    starts = [0, *accumulate(height * width for height, width in sizes)]
    index = torch.arange(starts[-1], device=device)
    nearest = torch.stack([index.clamp(start, end - 1) for start, end in pairwise(starts)])
    return nearest - nearest[:, :1], nearest == index


class GatherRows(torch.autograd.Function):
    """Gather rows of the levels (B, C, H, W) without flattening them, as (B, S, C).

    The gradient of the levels is written once, in their memory layout, and the levels are not kept for it.

    Args:
        places: Index of each row within each level, (L, B, S); see :func:`places_in_levels`.
        inside: Whether the row is in the level, (L, B, S).
        *levels: The levels.
    """

    @staticmethod
    def forward(ctx, places: Tensor, inside: Tensor, *levels: Tensor) -> Tensor:
        ctx.save_for_backward(places, inside)
        ctx.shapes = [level.shape for level in levels]
        ctx.channels_last = levels[0].stride(1) == 1
        rows = None
        for level, place, here in zip(levels, places.unsqueeze(2), inside.unsqueeze(2)):
            own = level.flatten(2).gather(2, place.expand(-1, level.shape[1], -1))
            rows = own if rows is None else torch.where(here, own, rows)
        return rows.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, inside = ctx.saved_tensors
        zero = gradient.new_zeros(())
        if not places.shape[-1]:
            return None, None, *(zero.expand(shape) for shape in ctx.shapes)
        levels = []
        for shape, place, rows in zip(ctx.shapes, places.unsqueeze(-1), gradient * inside.unsqueeze(-1)):
            images, channels, height, width = shape
            # One zero, expanded: adding to a copy of it is one pass, filling with zeros and adding to them are two.
            if ctx.channels_last:
                level = zero.expand(images, height * width, channels).scatter_add(1, place.expand_as(rows), rows)
                level = level.transpose(1, 2)
            else:
                rows, place = rows.transpose(1, 2), place.transpose(1, 2)
                level = zero.expand(images, channels, height * width).scatter_add(2, place.expand_as(rows), rows)
            levels.append(level.unflatten(2, (height, width)))
        return None, None, *levels


def decode(corners: Tensor, offsets: Tensor) -> Tensor:
    """Decode box regressions as mmdet's YOLOX head does.

    Args:
        corners: Upper left corner and stride of each prior in pixels, (..., 4).
        offsets: Predicted center offset in strides, and the logarithm of width and height in strides, (..., 4).

    Returns:
        Boxes (x1, y1, x2, y2) in pixels, (..., 4). In memory the coordinates are the outer dimension.
    """
    (corner, stride), (shift, log_wh) = (each.split(2, dim=-1) for each in (corners, offsets))
    center, wh = torch.addcmul(corner, shift, stride), log_wh.exp() * stride
    # From the center to the upper left corner and to the lower right one.
    halves = torch.arange(-0.5, 1, dtype=wh.dtype, device=wh.device).view(2, *[1] * wh.dim())
    return torch.addcmul(center, wh, halves).movedim(0, -2).flatten(-2)


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
        # Rows that are not valid have gradient 0 but may predict an infinite side, and 0 * inf is NaN.
        wh = (x2y2 - x1y1).nan_to_num(0, posinf=torch.finfo(boxes.dtype).max ** 0.25)
        of_center = low + high
        # (high - low) / 2, in one operation.
        of_half = torch.sub(high, of_center, alpha=0.5)
        return torch.cat([of_center * corners[..., 2:], of_half * wh], dim=-1), None, None


def check_ground_truth(instances: Sequence[InstanceData], images: int, device: torch.device) -> None:
    """Raise an error that names the remedy, unless the ground truth fits the head's outputs. No value is read.

    Args:
        instances: `bboxes` (n, 4) and `labels` (n,) of each image.
        images: How many images the outputs are of.
        device: The device of the outputs.

    Raises:
        TypeError: For boxes or labels that are no tensors, or labels that are not integers.
        ValueError: For another number of images, other shapes, or another device.
    """
    if len(instances) != images:
        raise ValueError(
            f'YOLOXHead: the outputs are of {images} images, but the ground truth is of {len(instances)}; '
            'give one InstanceData for each image, without boxes if it has none'
        )
    for index, instance in enumerate(instances):
        for name, shape in (('bboxes', (len(instance), 4)), ('labels', (len(instance),))):
            value, place = instance.get(name), f'YOLOXHead: {name} of image {index} in the batch'
            if not isinstance(value, Tensor):
                raise TypeError(
                    f'{place} must be a tensor, but is {type(value).__name__}; for a box type of mmdet set '
                    'boxtype2tensor=True in the data preprocessor'
                )
            if value.shape != shape:
                raise ValueError(f'{place} must have shape {shape}, but has {tuple(value.shape)}')
            if value.device != device:
                raise ValueError(f'{place} is on {value.device}, but the outputs on {device}; use instances.to(device)')
        if instance.labels.is_floating_point():
            raise TypeError(f'{place} must be integers, but is {instance.labels.dtype}; use labels.long()')


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
