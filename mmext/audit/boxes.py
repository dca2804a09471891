"""The objects that a detector is trained on: how many of each class, and their boxes at the input size."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor, nn

from mmext.assigners import BatchSimOTAAssigner
from mmext.audit import leaves

# From this IoU with another box of the image on, a box counts as crowded.
CROWDED = 0.3


@dataclass(frozen=True)
class Boxes:
    """The training data of a config.

    Attributes:
        counts: The number of objects of each class, crowds left out.
        images: The number of images.
        sampled: The number of images behind the numbers below, as the pipeline gives them.
        boxes: The number of boxes in these.
        per_image: The median number of boxes of an image.
        sides: The 10th, 50th and 90th percentile of the side sqrt(width * height), in pixels of the input.
        stride: The smallest stride of the head in pixels; None for heads other than YOLOX's.
        priors: The number of priors of an image; None for heads other than YOLOX's.
        aspect: The median of the longer over the shorter side.
        crowded: The share of the boxes with an IoU of at least :data:`CROWDED` with another one.
        unmatched: The share of the boxes that have no prior within both the box and its center region, so that SimOTA
            gives them one at a penalty; None for heads without SimOTA.
    """

    counts: dict[str, int]
    images: int
    sampled: int
    boxes: int
    per_image: float
    sides: tuple[float, float, float]
    stride: int | None
    priors: int | None
    aspect: float
    crowded: float
    unmatched: float | None

    @property
    def imbalance(self) -> float:
        """How many times as many objects the most frequent class has as the rarest that has any."""
        numbers = [number for number in self.counts.values() if number]
        return max(numbers) / min(numbers) if numbers else 1.0


def class_counts(dataset: object) -> tuple[dict[str, int], int]:
    """The number of objects of each class in a data set, each image once, and the number of images."""
    counts: Counter[str] = Counter()
    images = 0
    for leaf in leaves(dataset).values():
        classes = leaf.metainfo.get('classes') or ()
        counts.update(dict.fromkeys(classes, 0))
        images += len(leaf)
        for index in range(len(leaf)):
            for instance in leaf.get_data_info(index).get('instances', ()):
                if not instance.get('ignore_flag') and instance['bbox_label'] < len(classes):
                    counts[classes[instance['bbox_label']]] += 1
    return dict(counts), images


def boxes_of(batch: Mapping) -> list[Tensor]:
    """The boxes (n, 4) of each image of a batch of the data loader; none where the pipeline does not load them."""
    found = [sample.gt_instances.get('bboxes', torch.zeros(0, 4)) for sample in batch['data_samples']]
    return [get_box_tensor(boxes) for boxes in found]


def summarize(dataset: object, batches: Sequence[Mapping], head: nn.Module | None = None) -> Boxes | None:
    """Describe the training data; None if the batches have no box.

    Args:
        dataset: The training data, for the counts.
        batches: Some batches, for the boxes.
        head: The YOLOX head that is trained, if it is one.
    """
    images = [boxes for batch in batches for boxes in boxes_of(batch)]
    if not sum(map(len, images)):
        return None
    width, height = (torch.cat(images)[:, 2:] - torch.cat(images)[:, :2]).clamp(min=1e-3).unbind(1)
    sides = (width * height).sqrt().quantile(torch.tensor([0.1, 0.5, 0.9]))
    counts, number = class_counts(dataset)
    priors = None if head is None else _priors(head, batches[0]['inputs'][0].shape[-2:])
    return Boxes(
        counts=counts,
        images=number,
        sampled=len(images),
        boxes=len(width),
        per_image=float(torch.tensor([float(len(boxes)) for boxes in images]).median()),
        sides=tuple(sides.tolist()),
        stride=None if priors is None else int(priors[:, 2].min()),
        priors=None if priors is None else len(priors),
        aspect=float(torch.maximum(width / height, height / width).median()),
        crowded=torch.cat([_is_crowded(boxes) for boxes in images]).float().mean().item(),
        unmatched=_unmatched(batches, head),
    )


def _is_crowded(boxes: Tensor) -> Tensor:
    """Which boxes overlap another one, (n,)."""
    ious = bbox_overlaps(boxes, boxes).fill_diagonal_(0)
    return ious.amax(1) >= CROWDED if len(boxes) else boxes.new_zeros(0)


def _unmatched(batches: Sequence[Mapping], head: nn.Module | None) -> float | None:
    """The share of the boxes without a prior in both the box and its center region."""
    radius = getattr(getattr(head, 'assigner', None), 'center_radius', None)
    if radius is None:
        return None
    assigner = BatchSimOTAAssigner(center_radius=radius)
    found = []
    for batch in batches:
        for image, boxes in zip(batch['inputs'], boxes_of(batch)):
            gt_corners = boxes.t().view(2, 2, 1, len(boxes), 1)
            outside_box, outside_center = assigner.outside(_priors(head, image.shape[-2:]), gt_corners)
            found.append((outside_box | outside_center).all(-1).flatten())
    return torch.cat(found).float().mean().item()


def _priors(head: nn.Module, size: Sequence[int]) -> Tensor:
    """Center and stride of each prior for an image of this height and width, padded to whole strides, (A, 4)."""
    strides = [stride[0] for stride in head.prior_generator.strides]
    padded = [-(-side // max(strides)) * max(strides) for side in size]
    sizes = [tuple(side // stride for side in padded) for stride in strides]
    corner, stride = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu', with_stride=True)).split(2, dim=-1)
    return torch.cat([corner + stride / 2, stride], dim=-1)
