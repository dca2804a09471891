"""SimOTA for a whole batch at once, without host synchronization."""

from typing import NamedTuple

import torch
from mmdet.models.task_modules import AssignResult, BaseAssigner
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.checks import check_at_least, check_positive
from mmext.registry import TASK_UTILS

# mmdet's constants: the cost added outside a box or its center region, what is added to an IoU before its logarithm,
# the smallest union, and the smallest logarithm of a probability.
INF, EPS_IOU, EPS_UNION, LOWEST_LOG = 100000.0, 1e-7, 1e-6, -100.0
# Memory budget of a group of images: small groups suit a CPU's caches, a GPU needs large ones to be busy.
MAX_BYTES = {'cpu': 2**23, 'cuda': 2**28}
# The highest number of float32 tensors (G, A) alive at once, for an image with G boxes and A priors.
LIVE_TENSORS = 7
Corners = tuple[Tensor, Tensor]


class BatchAssignment(NamedTuple):
    """The assignment of a batch of B images with A priors and G boxes each, in S = G * candidate_topk candidates.

    A candidate is one of the `candidate_topk` priors of lowest cost of a box. Every positive prior is one of them, so
    the positives are described by tensors whose shape depends on no value: the candidates, and a mask.
    """

    positive: Tensor
    """Whether each prior is positive, (B, A)."""
    candidates: Tensor
    """Prior index of each candidate, (B, S)."""
    valid: Tensor
    """Whether each candidate counts, (B, S). Exactly one does for each positive prior."""
    gt_inds: Tensor
    """Index of the box that the candidate's prior is assigned to, (B, S); meaningless where not valid."""
    ious: Tensor
    """IoU of the candidate's prediction with that box, (B, S); meaningless where not valid."""

    def scatter_to_priors(self, values: Tensor, default: float) -> Tensor:
        """Scatter the values of valid candidates to their priors.

        Args:
            values: One value per candidate, (B, S).
            default: The value of the priors that are not positive.

        Returns:
            One value per prior, (B, A).
        """
        num_priors = self.positive.shape[1]
        if not self.candidates.shape[1]:
            return values.new_full(self.positive.shape, default)
        # The other candidates write to an extra column, which is cut off.
        index = torch.where(self.valid, self.candidates, num_priors)
        return values.new_full((len(values), num_priors + 1), default).scatter_(1, index, values)[:, :-1]


def yolox_scores(cls_logits: Tensor, objectness: Tensor) -> Tensor:
    """The scores that YOLOX assigns by: sqrt(sigmoid(cls) * sigmoid(obj)), in float32.

    Args:
        cls_logits: Class logits, (B, A, C).
        objectness: Objectness logits, (B, A, 1).

    Returns:
        Scores in [0, 1], (B, A, C).
    """
    return cls_logits.float().sigmoid().mul_(objectness.float().sigmoid()).sqrt_()


def corners(boxes: Tensor) -> Corners:
    """Split boxes (..., 4) into their upper left and lower right corners, (2, ...) each, x before y."""
    return boxes.movedim(-1, 0).contiguous().split(2)


def pairwise_iou(box_corners: Corners, gt_corners: Corners) -> Tensor:
    """The IoU of every box with every ground-truth box, as mmdet computes it, (B, G, A)."""
    (low, high), (gt_low, gt_high) = box_corners, gt_corners
    width, height = (torch.minimum(high, gt_high) - torch.maximum(low, gt_low)).clamp_(min=0)
    overlap = width.mul_(height)
    area, gt_area = ((upper - lower).prod(0) for lower, upper in ((low, high), (gt_low, gt_high)))
    union = (area + gt_area).sub_(overlap).clamp_(min=EPS_UNION)
    return overlap.div_(union)


@TASK_UTILS.register_module()
class BatchSimOTAAssigner(BaseAssigner):
    r"""mmdet's `SimOTAAssigner` for a whole batch, without host synchronization.

    The number of operations depends on no value. The cost of prior a for box g is

    .. math::
        c_{ga} = w_{cls} \sum_{\text{classes}} \mathrm{BCE}(s_a, y_g) - w_{iou} \log(\mathrm{IoU}_{ga} + 10^{-7})
        + 10^5\, [a \notin R_g]

    with the scores :math:`s_a`, the one-hot label :math:`y_g`, the IoU of the predicted box with the box, and
    :math:`R_g`, the priors whose center lies both in the box and less than `center_radius` strides from the box's
    center, along x and along y. A prior whose center lies in no box and near the center of none is never assigned. Box
    g takes its :math:`k_g` priors of lowest cost, where

    .. math::
        k_g = \max\Big(1, \Big\lfloor \sum_{\text{top } candidate\_topk} \mathrm{IoU}_{ga} \Big\rfloor\Big)

    A prior that several boxes take is assigned to the box for which its cost is lowest.

    The assignment equals mmdet's prior for prior, except where costs tie at the k-th place; then the assigned priors
    have the same costs. It is computed in float32, whatever the inputs' type. On a GPU the sum of IoUs may be rounded
    differently from mmdet's, so that k may differ by one where the sum is within rounding of an integer.

    mmext's YOLOXHead calls :meth:`assign_batch`. Other heads may call :meth:`assign`, mmdet's method for one image.

    Args:
        center_radius: Radius of the center region in strides, above 0.
        candidate_topk: How many IoUs are summed, and the most priors that a box takes; an integer of at least 1.
        iou_weight: Weight of the IoU cost, at least 0.
        cls_weight: Weight of the classification cost, at least 0.
        iou_calculator: Only mmdet's `BboxOverlaps2D`, whose formula is used.
        max_bytes: Approximate memory limit of the assignment. Above it the batch is processed in groups of images,
            each with as many operations. None: 8 MiB on a CPU, 256 MiB on other devices.

    Raises:
        ValueError: If an argument is out of range, or for another calculator.

    Example:
        >>> import torch
        >>> from mmext.assigners import BatchSimOTAAssigner
        >>> boxes = torch.tensor([[[0.0, 0, 16, 16], [8, 0, 24, 16], [40, 40, 60, 60]]])
        >>> scores = torch.tensor([[[0.9, 0.1], [0.8, 0.1], [0.2, 0.2]]])
        >>> priors = torch.tensor([[8.0, 8, 16, 16], [24, 8, 16, 16], [50, 50, 16, 16]])
        >>> gt_boxes, gt_labels = torch.tensor([[[0.0, 0, 16, 16]]]), torch.tensor([[0]])
        >>> result = BatchSimOTAAssigner().assign_batch(
        ...     boxes, scores, priors, gt_boxes, gt_labels, gt_mask=torch.tensor([[True]])
        ... )
        >>> result.positive
        tensor([[ True, False, False]])
        >>> result.scatter_to_priors(result.gt_inds, -1)
        tensor([[ 0, -1, -1]])

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
                'another calculator use mmdet.SimOTAAssigner'
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
            pred_instances: `bboxes` (A, 4) in pixels, `scores` (A, C) in [0, 1], and `priors` (A, 4): center and
                stride of each prior in pixels.
            gt_instances: `bboxes` (G, 4) in pixels and `labels` (G,).
            gt_instances_ignore: Not used, as in mmdet's.
            **kwargs: Not used, as in mmdet's.

        Returns:
            The index of each prior's box plus 1, or 0 for none; the IoU with that box, and its label.
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
        (gt_inds,) = result.scatter_to_priors(result.gt_inds, -1)
        (ious,) = result.scatter_to_priors(result.ious, -INF if len(boxes) else 0)
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
        """Assign a batch whose ground truth is padded to G boxes per image.

        Args:
            boxes: Decoded boxes (x1, y1, x2, y2) in pixels, (B, A, 4).
            scores: Class scores in [0, 1], (B, A, C). Or a pair of logits, of the classes (B, A, C) and of the
                objectness (B, A, 1), from which :func:`yolox_scores` is computed group by group, in less memory.
            priors: Center and stride of each prior in pixels, (A, 4).
            gt_boxes: Ground-truth boxes (x1, y1, x2, y2) in pixels, (B, G, 4).
            gt_labels: Their labels, (B, G), in 0..C-1 for the padding, too.
            gt_mask: Which of them are real, not padding, (B, G).

        Returns:
            The assignment, on the inputs' device.
        """
        (num_images, num_priors, _), num_gts = boxes.shape, gt_boxes.shape[1]
        if not num_gts:
            positive = boxes.new_zeros(num_images, num_priors, dtype=torch.bool)
            candidates, valid, ious = (
                boxes.new_empty(num_images, 0, dtype=dtype) for dtype in (torch.long, torch.bool, torch.float)
            )
            return BatchAssignment(positive, candidates, valid, candidates, ious)
        scores = (scores,) if isinstance(scores, Tensor) else scores
        inputs = (boxes.float(), gt_boxes.float(), gt_labels.long(), gt_mask, *scores)
        group = self._group_size(num_priors, num_gts, scores[0])
        parts = [
            self._assign(priors.float(), *(tensor[start : start + group] for tensor in inputs))
            for start in range(0, num_images, group)
        ]
        return parts[0] if len(parts) == 1 else BatchAssignment(*(torch.cat(part) for part in zip(*parts)))

    def _group_size(self, num_priors: int, num_gts: int, scores: Tensor) -> int:
        """How many images are assigned at once."""
        max_bytes = self.max_bytes or MAX_BYTES.get(scores.device.type, MAX_BYTES['cuda'])
        return max(1, int(max_bytes // (4 * num_priors * (LIVE_TENSORS * num_gts + scores.shape[-1]))))

    def _assign(
        self, priors: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, gt_mask: Tensor, *scores: Tensor
    ) -> BatchAssignment:
        real = gt_mask.unsqueeze(2)
        cost = self._class_cost(gt_labels, *scores)
        if self.cls_weight != 1:
            cost.mul_(self.cls_weight)
        gt_corners = corners(gt_boxes.unsqueeze(2))
        ious = pairwise_iou(corners(boxes.unsqueeze(1)), gt_corners)
        in_either, in_both = self._regions(priors, gt_corners)
        eligible = in_either.logical_and_(real).any(1, keepdim=True) & real
        # Rounded after each step, as mmdet's: `alpha=` would fuse the product into the sum.
        cost.add_((ious + EPS_IOU).log_().mul_(-self.iou_weight)).add_(in_both.logical_not_(), alpha=INF)
        cost = torch.where(eligible, cost, float('inf'))

        topk = min(self.candidate_topk, ious.shape[-1])
        highest = (ious * eligible).topk(topk).values
        # Summed along the first dimension, in mmdet's order: the sum is truncated to an integer.
        dynamic_k = highest.flatten(0, 1).t().contiguous().sum(0).clamp_(min=1).view_as(real)
        lowest, candidates = cost.topk(topk, largest=False)
        candidate_ids = torch.arange(1, cost.shape[1] * topk + 1, device=cost.device)
        taken = (candidate_ids[:topk] <= dynamic_k) & (lowest < float('inf'))
        return self._resolve(cost, ious, candidates, taken, candidate_ids)

    def _regions(self, priors: Tensor, gt_corners: Corners) -> tuple[Tensor, Tensor]:
        """Which prior centers lie in a box or its center region, and which in both, (B, G, A) each."""
        point, stride = priors.t().contiguous().view(2, 2, 1, 1, -1)
        low, high = gt_corners
        radius, center = self.center_radius * stride, (low + high) / 2
        in_box = (point > low).logical_and_(point < high)
        in_center = (point > center - radius).logical_and_(point < center + radius)
        (x_in_box, y_in_box), (x_in_center, y_in_center) = in_box, in_center
        in_box, in_center = x_in_box.logical_and_(y_in_box), x_in_center.logical_and_(y_in_center)
        return in_box | in_center, in_box & in_center

    @staticmethod
    def _class_cost(gt_labels: Tensor, scores: Tensor, objectness: Tensor | None = None) -> Tensor:
        """Binary cross entropy of the scores with each box's one-hot label, summed over the classes, (B, G, A).

        It is the cost of an all-zero label plus a correction for the labeled class: A * (C + G) logarithms instead of
        A * C * G.
        """
        scores = scores.to(torch.float32, copy=True) if objectness is None else yolox_scores(scores, objectness)
        label = gt_labels.unsqueeze(2).expand(-1, -1, scores.shape[1])
        log_p = scores.transpose(1, 2).gather(1, label).log_().clamp_(min=LOWEST_LOG)
        log_not_p = scores.neg_().log1p_().clamp_(min=LOWEST_LOG)
        return log_not_p.transpose(1, 2).gather(1, label).sub_(log_p).sub_(log_not_p.sum(-1).unsqueeze(1))

    @staticmethod
    def _resolve(
        cost: Tensor, ious: Tensor, candidates: Tensor, taken: Tensor, candidate_ids: Tensor
    ) -> BatchAssignment:
        """Assign each prior that was taken to one box, and mark the first of its candidates as valid.

        Args:
            cost: Cost of each prior for each box, (B, G, A).
            ious: Their IoU, (B, G, A).
            candidates: The prior of each candidate, (B, G, k).
            taken: Which candidates their box takes, (B, G, k).
            candidate_ids: A number for each candidate, from 1 on, (G * k,).
        """
        (images, num_gts, num_priors), last = cost.shape, len(candidate_ids)
        index, flat_taken = candidates.flatten(1), taken.flatten(1)
        none = index.new_full((images, num_priors), last + 1)
        first = none.scatter_reduce(1, index, torch.where(flat_taken, candidate_ids, none[:, :1]), 'amin')
        times_taken = torch.zeros_like(first).scatter_add_(1, index, flat_taken.long()).gather(1, index)
        # A prior taken more than once goes to the cheapest of all boxes, even one that did not take it.
        for_all_boxes = index.unsqueeze(1).expand(-1, num_gts, -1)
        cheapest = cost.gather(2, for_all_boxes).argmin(1).view_as(candidates)
        own = torch.arange(num_gts, device=cost.device).unsqueeze(1)
        gt_inds = torch.where(times_taken.view_as(candidates) > 1, cheapest, own).flatten(1)
        return BatchAssignment(
            positive=first <= last,
            candidates=index,
            valid=first.gather(1, index) == candidate_ids,
            gt_inds=gt_inds,
            ious=ious.gather(2, for_all_boxes).gather(1, gt_inds.unsqueeze(1)).squeeze(1),
        )
