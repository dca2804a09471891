"""SimOTA for a whole batch at once, without a question to the host."""

from typing import NamedTuple

import torch
from mmdet.models.task_modules import AssignResult, BaseAssigner
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.checks import check_at_least, check_positive
from mmext.registry import TASK_UTILS

# mmdet's constants: added to the cost of a prior outside of a box or of its centre region; the smallest IoU that has a
# logarithm; the smallest union; the smallest logarithm of a probability.
OUTSIDE, EPS_IOU, EPS_UNION, LOWEST_LOG = 100000.0, 1e-7, 1e-6, -100.0
# How much memory a group of images may take: on a CPU little is fast, on a GPU many small operations are slow.
MAX_BYTES = {'cpu': 2**23, 'cuda': 2**28}
# How many float32 tensors (G, A) are alive at the most, of an image with G boxes and A priors.
ALIVE = 7
Corners = tuple[Tensor, Tensor]


class BatchAssignment(NamedTuple):
    """What is assigned in a batch of B images with A priors, G boxes and S = G * candidate_topk slots each.

    A slot is a candidate of a box. Of the slots that hold the same prior one owns it; there are as many owners as
    positives, in tensors whose shape depends on no value.
    """

    positive: Tensor
    """Which priors are positive, (B, A)."""
    slots: Tensor
    """The index of the prior in each slot, (B, S)."""
    owned: Tensor
    """Which slots own their prior, (B, S)."""
    gt_inds: Tensor
    """The index of the box that the prior of each owner is assigned to, (B, S); of other slots, any."""
    ious: Tensor
    """The IoU of each slot's prior with that box, (B, S)."""

    def of_priors(self, values: Tensor, default: float) -> Tensor:
        """Of each prior the value that its owner has, (B, S) -> (B, A); the default where it has none."""
        number = self.positive.shape[1]
        if not self.slots.shape[1]:
            return values.new_full(self.positive.shape, default)
        # The other slots write to a place beyond the last prior.
        places = torch.where(self.owned, self.slots, number)
        return values.new_full((len(values), number + 1), default).scatter_(1, places, values)[:, :-1]


def yolox_scores(cls_logits: Tensor, objectness: Tensor) -> Tensor:
    """What YOLOX assigns by: the root of the probabilities' product, (B, A, C) and (B, A, 1) -> (B, A, C), float32."""
    return cls_logits.float().sigmoid().mul_(objectness.float().sigmoid()).sqrt_()


def corners(boxes: Tensor) -> Corners:
    """(..., 4) -> the upper left and the lower right corners, (2, ...) each: operations on x and y go as one."""
    return boxes.movedim(-1, 0).contiguous().split(2)


def pairwise_iou(box_corners: Corners, gt_corners: Corners) -> Tensor:
    """The IoU of every box with every box of the ground truth, as mmdet computes it; (B, G, A)."""
    (low, high), (gt_low, gt_high) = box_corners, gt_corners
    width, height = (torch.minimum(high, gt_high) - torch.maximum(low, gt_low)).clamp_(min=0)
    overlap = width.mul_(height)
    area, gt_area = ((upper - lower).prod(0) for lower, upper in ((low, high), (gt_low, gt_high)))
    union = (area + gt_area).sub_(overlap).clamp_(min=EPS_UNION)
    return overlap.div_(union)


@TASK_UTILS.register_module()
class BatchSimOTAAssigner(BaseAssigner):
    """mmdet's `SimOTAAssigner` for a whole batch: the same assignment, in operations whose number depends on no value,
    without a host sync.

    The assignment equals mmdet's prior for prior, unless two costs tie at the last place that a box gives; then the
    costs of those assigned are the same. It is computed in float32, whatever the inputs' type.

    The cost of a prior for a box is the binary cross entropy of its scores with the box's one-hot label, plus
    `iou_weight` times -log IoU, plus a constant where its centre is not both in the box and within `center_radius`
    strides of the box's centre. A box takes the k priors of the lowest cost, k being the sum of its `candidate_topk`
    highest IoUs; a prior taken more than once goes to the box of its lowest cost. For one image it has mmdet's method
    `assign`, too.

    Args:
        center_radius: The radius of the centre region, in strides, above 0.
        candidate_topk: How many IoUs are summed, and the most priors that a box takes; at least 1.
        iou_weight: The weight of the IoU's cost, at least 0.
        cls_weight: The weight of the classes' cost, at least 0.
        iou_calculator: mmdet's `BboxOverlaps2D`, whose formula is used.
        max_bytes: About how much memory the assignment of a batch may take; beyond it the images go in groups, and
            each group takes as many operations. None: 8 MiB on a CPU, else 256 MiB.

    Raises:
        ValueError: For a number outside its range, or another calculator.

    Source: Ge et al., `YOLOX <https://arxiv.org/abs/2107.08430>`_, section 2.1, as mmdet implements it.
    """

    def __init__(
        self,
        center_radius: float = 2.5,
        candidate_topk: int = 10,
        iou_weight: float = 3.0,
        cls_weight: float = 1.0,
        iou_calculator: ConfigType | None = None,
        max_bytes: int | None = None,
    ):
        check_positive(self, center_radius=center_radius, **({} if max_bytes is None else {'max_bytes': max_bytes}))
        check_at_least(self, 1, candidate_topk=candidate_topk)
        if not isinstance(candidate_topk, int):
            raise ValueError(f'BatchSimOTAAssigner: candidate_topk must be an integer, but is {candidate_topk!r}')
        check_at_least(self, 0, iou_weight=iou_weight, cls_weight=cls_weight)
        if iou_calculator is not None and iou_calculator.get('type', '').split('.')[-1] != 'BboxOverlaps2D':
            raise ValueError(
                f'BatchSimOTAAssigner: iou_calculator must be BboxOverlaps2D, but is {dict(iou_calculator)}; for '
                'another use mmdet.SimOTAAssigner'
            )
        self.center_radius = center_radius
        self.candidate_topk = candidate_topk
        self.iou_weight = iou_weight
        self.cls_weight = cls_weight
        self.max_bytes = max_bytes

    @torch.no_grad()
    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **kwargs: object,
    ) -> AssignResult:
        """Assign one image, with mmdet's arguments and result.

        Args:
            pred_instances: `bboxes` (A, 4), `scores` (A, C), and `priors` (A, 4), centre and stride of each.
            gt_instances: `bboxes` (G, 4) and `labels` (G,).
            gt_instances_ignore: Not read, as in mmdet's.
            **kwargs: Not read, as in mmdet's.
        """
        boxes, labels = gt_instances.bboxes, gt_instances.labels
        result = self.assign_batch(
            pred_instances.bboxes.unsqueeze(0),
            pred_instances.scores.unsqueeze(0),
            pred_instances.priors,
            boxes.unsqueeze(0),
            labels.unsqueeze(0),
            torch.ones_like(labels, dtype=torch.bool).unsqueeze(0),
        )
        (gt_inds,) = result.of_priors(result.gt_inds, -1)
        (ious,) = result.of_priors(result.ious, -OUTSIDE if len(boxes) else 0)
        box_labels = torch.cat([labels.long(), labels.new_full((1,), -1).long()])
        return AssignResult(len(boxes), gt_inds + 1, ious, labels=box_labels[gt_inds])

    @torch.no_grad()
    def assign_batch(
        self,
        boxes: Tensor,
        scores: Tensor | tuple[Tensor, Tensor],
        priors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        gt_mask: Tensor,
    ) -> BatchAssignment:
        """Assign a batch whose ground truth is padded to G boxes an image.

        Args:
            boxes: Decoded boxes (x1, y1, x2, y2), (B, A, 4).
            scores: The score of each class, (B, A, C), in [0, 1]; or the logits of the classes, (B, A, C), and of the
                objectness, (B, A, 1), for :func:`yolox_scores`: this takes less memory.
            priors: Centre and stride of each prior, (A, 4).
            gt_boxes: The ground truth, (B, G, 4), in the unit of the boxes.
            gt_labels: Its labels in 0..C-1, (B, G), those of the padding, too.
            gt_mask: Which of them are real, (B, G).
        """
        (num_images, num_priors, _), num_gts = boxes.shape, gt_boxes.shape[1]
        if not num_gts:
            positive = boxes.new_zeros(num_images, num_priors, dtype=torch.bool)
            slots, owned, ious = (
                boxes.new_empty(num_images, 0, dtype=kind) for kind in (torch.long, torch.bool, torch.float)
            )
            return BatchAssignment(positive, slots, owned, slots, ious)
        scores = (scores,) if isinstance(scores, Tensor) else scores
        inputs = (boxes.float(), gt_boxes.float(), gt_labels.long(), gt_mask, *scores)
        group = self._group_size(num_priors, num_gts, scores[0])
        parts = [
            self._assign(priors.float(), *(tensor[start : start + group] for tensor in inputs))
            for start in range(0, num_images, group)
        ]
        return parts[0] if len(parts) == 1 else BatchAssignment(*(torch.cat(part) for part in zip(*parts)))

    def _group_size(self, num_priors: int, num_gts: int, scores: Tensor) -> int:
        """How many images go at once."""
        max_bytes = self.max_bytes or MAX_BYTES.get(scores.device.type, MAX_BYTES['cuda'])
        return max(1, int(max_bytes // (4 * num_priors * (ALIVE * num_gts + scores.shape[-1]))))

    def _assign(
        self, priors: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, gt_mask: Tensor, *scores: Tensor
    ) -> BatchAssignment:
        real = gt_mask.unsqueeze(2)
        cost = self._class_cost(gt_labels, *scores)
        if self.cls_weight != 1:
            cost.mul_(self.cls_weight)
        gt_corners = corners(gt_boxes.unsqueeze(2))
        ious = pairwise_iou(corners(boxes.unsqueeze(1)), gt_corners)
        either, both = self._regions(priors, gt_corners)
        valid = either.logical_and_(real).any(1, keepdim=True) & real
        # Rounded after each step, as mmdet's: an `alpha` here would be fused.
        cost.add_((ious + EPS_IOU).log_().mul_(-self.iou_weight)).add_(both.logical_not_(), alpha=OUTSIDE)
        cost = torch.where(valid, cost, float('inf'))

        topk = min(self.candidate_topk, ious.shape[-1])
        highest = (ious * valid).topk(topk).values
        # Summed over the first dimension, in mmdet's order, which cuts the sum to an integer.
        number = highest.flatten(0, 1).t().contiguous().sum(0).clamp_(min=1).view_as(real)
        lowest, candidates = cost.topk(topk, largest=False)
        places = torch.arange(1, cost.shape[1] * topk + 1, device=cost.device)
        taken = (places[:topk] <= number) & (lowest < float('inf'))
        return self._resolve(cost, ious, candidates, taken, places)

    def _regions(self, priors: Tensor, gt_corners: Corners) -> tuple[Tensor, Tensor]:
        """Which priors lie in which box or its centre region, and which in both, (B, G, A)."""
        place, stride = priors.t().contiguous().view(2, 2, 1, 1, -1)
        low, high = gt_corners
        reach, centre = self.center_radius * stride, (low + high) / 2
        in_box = (place > low).logical_and_(place < high)
        in_center = (place > centre - reach).logical_and_(place < centre + reach)
        (x_in_box, y_in_box), (x_in_center, y_in_center) = in_box, in_center
        in_box, in_center = x_in_box.logical_and_(y_in_box), x_in_center.logical_and_(y_in_center)
        return in_box | in_center, in_box & in_center

    @staticmethod
    def _class_cost(gt_labels: Tensor, scores: Tensor, objectness: Tensor | None = None) -> Tensor:
        """The binary cross entropy of the scores with the one-hot label of each box, summed over classes, (B, G, A).

        Of all classes being absent, plus the difference that the label makes: A * (C + G) logarithms, not A * C * G.
        """
        scores = scores.to(torch.float32, copy=True) if objectness is None else yolox_scores(scores, objectness)
        label = gt_labels.unsqueeze(2).expand(-1, -1, scores.shape[1])
        present = scores.transpose(1, 2).gather(1, label).log_().clamp_(min=LOWEST_LOG)
        absent = scores.neg_().log1p_().clamp_(min=LOWEST_LOG)
        return absent.transpose(1, 2).gather(1, label).sub_(present).sub_(absent.sum(-1).unsqueeze(1))

    @staticmethod
    def _resolve(cost: Tensor, ious: Tensor, candidates: Tensor, taken: Tensor, places: Tensor) -> BatchAssignment:
        """Give each prior that was taken to one box, and to the first of the slots that hold it.

        Args:
            cost: Of each prior for each box, (B, G, A).
            ious: Their IoU, (B, G, A).
            candidates: The prior in each slot, (B, G, k).
            taken: Which of them their box takes, (B, G, k).
            places: The number of each slot, from 1, (G * k,).
        """
        (images, num_gts, num_priors), number, slots = cost.shape, len(places), candidates.flatten(1)
        nobody = slots.new_full((images, num_priors), number + 1)
        owner = nobody.scatter_reduce(1, slots, torch.where(taken.flatten(1), places, nobody[:, :1]), 'amin')
        times = torch.zeros_like(owner).scatter_add_(1, slots, taken.flatten(1).long()).gather(1, slots)
        # A prior taken more than once goes to the cheapest of all boxes, be it one that did not take it.
        of_all_boxes = slots.unsqueeze(1).expand(-1, num_gts, -1)
        cheapest = cost.gather(2, of_all_boxes).argmin(1).view_as(candidates)
        its_own = torch.arange(num_gts, device=cost.device).unsqueeze(1)
        gt_inds = torch.where(times.view_as(candidates) > 1, cheapest, its_own).flatten(1)
        return BatchAssignment(
            positive=owner <= number,
            slots=slots,
            owned=owner.gather(1, slots) == places,
            gt_inds=gt_inds,
            ious=ious.gather(2, of_all_boxes).gather(1, gt_inds.unsqueeze(1)).squeeze(1),
        )
