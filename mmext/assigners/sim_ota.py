"""SimOTA for a whole batch at once, without host synchronization."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.models.task_modules import AssignResult, BaseAssigner
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.checks import check_at_least, check_positive
from mmext.compat import is_compiling
from mmext.registry import TASK_UTILS

# mmdet's constants: the cost added outside a box or its center region, what is added to an IoU before its logarithm,
# the smallest union, and the smallest logarithm of a probability.
INF, EPS_IOU, EPS_UNION, LOWEST_LOG = 100000.0, 1e-7, 1e-6, -100.0
# In float32: the number nearest to exp(LOWEST_LOG), the largest one below 1, and the smallest normal one.
SMALLEST, BELOW_1, TINY = 27 * 2**-149, 1 - 2**-24, torch.finfo(torch.float32).tiny
# A coordinate in pixels that is far from every image.
FAR = 1e9
# Memory budget of a group of images: small groups suit a CPU's caches, a GPU needs large ones to be busy.
MAX_BYTES = {'cpu': 2**23, 'cuda': 2**28}
# The highest number of float32 tensors (G, A) alive at once, for an image with G boxes and A priors.
LIVE_TENSORS = 7


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


def sigmoid_of_levels(levels: Sequence[Tensor]) -> Tensor:
    """The sigmoid of the levels (B, C, ...), concatenated to (B, C, A), in float32."""
    levels = [level.flatten(2) for level in levels]
    if is_compiling():
        return torch.cat(levels, 2).float().sigmoid()
    sizes = [level.shape[2] for level in levels]
    result = levels[0].new_empty(*levels[0].shape[:2], sum(sizes), dtype=torch.float32)
    if not all(level.dtype == torch.float32 and level.is_contiguous() for level in levels):
        # The sigmoid itself would be rounded in half precision, and slow in another memory layout.
        return torch.cat(levels, 2, out=result).sigmoid_()
    # Written into place level by level: concatenating the logits first would read and write all of them once more.
    for level, part in zip(levels, result.split(sizes, 2)):
        torch.sigmoid(level, out=part)
    return result


def score_factors(levels: Sequence[Tensor], objectness: Tensor | None) -> tuple[Tensor, Tensor]:
    """The scores as a product of two factors, (B, C, A) and (B, 1, A), in float32.

    Args:
        levels: Class logits, (B, C, ...) each; without objectness one level of scores.
        objectness: Objectness logits, (B, A, 1).

    Returns:
        The roots of the probabilities of the classes and of the objectness; their product is below 1. Without
        objectness the scores and 1.
    """
    if objectness is None:
        (scores,) = levels
        return scores.to(torch.float32, copy=True), scores.new_ones(1, 1, 1, dtype=torch.float32)
    root = objectness.float().sigmoid().sqrt_().clamp_(max=BELOW_1)
    return sigmoid_of_levels(levels).sqrt_(), root.transpose(1, 2)


def corners(boxes: Tensor) -> Tensor:
    """The corners of boxes (..., 4), the upper left one first, x before y, (2, 2, ...)."""
    return boxes.movedim(-1, 0).unflatten(0, (2, 2))


def pairwise_iou(boxes: Tensor, gt_boxes: Tensor, excluded: Tensor) -> Tensor:
    """The IoU of every box with every ground-truth box, as mmdet computes it.

    Args:
        boxes: Corners of the boxes, (2, 2, B, 1, A).
        gt_boxes: Corners of the ground-truth boxes, (2, 2, B, G, 1).
        excluded: Which boxes have an IoU of 0 whatever they overlap, (B, 1, A).

    Returns:
        The IoUs, (B, G, A).
    """
    (low, high), (gt_low, gt_high) = boxes, gt_boxes
    width, height = torch.minimum(high, gt_high).sub_(torch.maximum(low, gt_low)).clamp_(min=0)
    overlap = width.mul_(height)
    area, gt_area = ((upper - lower).prod(0) for lower, upper in (boxes, gt_boxes))
    area.masked_fill_(excluded, float('inf'))
    # mmdet clamps the union, which is as large as the ground-truth box or larger.
    union = (area + gt_area.clamp_(min=EPS_UNION)).sub_(overlap)
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
        k_g = \max\Bigl(1, \Bigl\lfloor \sum_{\text{top } candidate\_topk} \mathrm{IoU}_{ga} \Bigr\rfloor\Bigr)

    A prior that several boxes take is assigned to the box for which its cost is lowest.

    The assignment equals mmdet's prior for prior, up to rounding. It is computed in float32, whatever the inputs' type.
    The exceptions:

    * Where costs tie at the k-th place, others of the same cost may be taken.
    * On a GPU the sum of IoUs may be rounded differently from mmdet's, so that k may differ by one where the sum is
      within rounding of an integer.
    * From logits, a score that rounds to 1 is the largest float32 below it. Where it is the score of a wrong class it
      costs 16.6, and not 100 as in mmdet: the logits of both the class and the objectness are above 16 there.

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
        scores: Tensor | tuple[Tensor | Sequence[Tensor], Tensor],
        priors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        gt_mask: Tensor,
    ) -> BatchAssignment:
        """Assign a batch whose ground truth is padded to G boxes per image.

        Args:
            boxes: Decoded boxes (x1, y1, x2, y2) in pixels, (B, A, 4).
            scores: Class scores in [0, 1], (B, A, C). Or a pair of logits, from which YOLOX's scores are computed group
                by group, in less memory: of the classes, (B, A, C) or level by level (B, C, H, W), and of the
                objectness, (B, A, 1).
            priors: Center and stride of each prior in pixels, (A, 4).
            gt_boxes: Ground-truth boxes (x1, y1, x2, y2) in pixels, (B, G, 4).
            gt_labels: Their labels, (B, G), in 0..C-1 for the padding, too.
            gt_mask: Which of them are real, not padding, (B, G).

        Returns:
            The assignment, on the inputs' device.

        Raises:
            TypeError: For labels that are not integers, or a mask that is not bool.
            ValueError: For inputs whose shapes or devices do not fit.
        """
        self._check_inputs(boxes, scores, priors, gt_boxes, gt_labels, gt_mask)
        (num_images, num_priors, _), num_gts = boxes.shape, gt_boxes.shape[1]
        if not num_gts:
            positive = boxes.new_zeros(num_images, num_priors, dtype=torch.bool)
            candidates, valid, ious = (
                boxes.new_empty(num_images, 0, dtype=dtype) for dtype in (torch.long, torch.bool, torch.float)
            )
            return BatchAssignment(positive, candidates, valid, candidates, ious)
        scores, *objectness = [scores] if isinstance(scores, Tensor) else scores
        levels = [scores.transpose(1, 2)] if isinstance(scores, Tensor) else scores
        # In memory (4, B, A), as the head decodes them: then this copies nothing.
        boxes = boxes.float().movedim(-1, 0).contiguous().movedim(0, -1)
        inputs = (boxes, gt_boxes.float(), gt_labels.long(), gt_mask, *objectness)
        group = self._group_size(num_priors, num_gts, levels[0].shape[1], boxes.device.type)
        parts = []
        for start in range(0, num_images, group):
            images = slice(start, start + group)
            levels_of_group = [level[images] for level in levels]
            parts.append(self._assign(priors.float(), levels_of_group, *(tensor[images] for tensor in inputs)))
        return parts[0] if len(parts) == 1 else BatchAssignment(*(torch.cat(part) for part in zip(*parts)))

    @staticmethod
    def _check_inputs(
        boxes: Tensor,
        scores: Tensor | tuple[Tensor | Sequence[Tensor], Tensor],
        priors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        gt_mask: Tensor,
    ) -> None:
        """Raise the errors that :meth:`assign_batch` documents; no value is read."""
        (images, num_priors), gts = boxes.shape[:2], gt_boxes.shape[1]
        class_scores = scores if isinstance(scores, Tensor) else scores[0]
        levels = [class_scores.transpose(1, 2)] if isinstance(class_scores, Tensor) else class_scores
        for name, tensor, shape in (
            ('boxes', boxes, (images, num_priors, 4)),
            ('priors', priors, (num_priors, 4)),
            ('gt_boxes', gt_boxes, (images, gts, 4)),
            ('gt_labels', gt_labels, (images, gts)),
            ('gt_mask', gt_mask, (images, gts)),
        ):
            if tensor.shape != shape:
                raise ValueError(
                    f'BatchSimOTAAssigner: {name} must have shape {shape}, for {images} images with {num_priors} '
                    f'priors and {gts} boxes each, but has {tuple(tensor.shape)}'
                )
            if tensor.device != boxes.device:
                raise ValueError(f'BatchSimOTAAssigner: {name} is on {tensor.device}, but boxes on {boxes.device}')
        scored = sum(math.prod(level.shape[2:]) for level in levels)
        if scored != num_priors or len(levels[0]) != images:
            raise ValueError(
                f'BatchSimOTAAssigner: the scores are of {len(levels[0])} images with {scored} priors, but the boxes '
                f'of {images} with {num_priors}'
            )
        if gt_labels.is_floating_point() or gt_mask.dtype != torch.bool:
            raise TypeError(
                'BatchSimOTAAssigner: gt_labels must be integers and gt_mask bools, but they are '
                f'{gt_labels.dtype} and {gt_mask.dtype}'
            )

    def _group_size(self, num_priors: int, num_gts: int, num_classes: int, device: str) -> int:
        """How many images are assigned at once."""
        max_bytes = self.max_bytes or MAX_BYTES.get(device, MAX_BYTES['cuda'])
        return max(1, int(max_bytes // (4 * num_priors * (LIVE_TENSORS * num_gts + num_classes))))

    def _assign(
        self,
        priors: Tensor,
        levels: Sequence[Tensor],
        boxes: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        gt_mask: Tensor,
        objectness: Tensor | None = None,
    ) -> BatchAssignment:
        # Padding becomes a point that is far from every prior.
        real = gt_mask.unsqueeze(2)
        gt_corners = corners(gt_boxes.masked_fill(~real, FAR).unsqueeze(2))
        outside_box, outside_center = self.outside(priors, gt_corners)
        not_in_both = outside_box | outside_center
        excluded = outside_box.logical_and_(outside_center).all(1, keepdim=True)
        ious = pairwise_iou(corners(boxes.unsqueeze(1)), gt_corners, excluded)
        log_likelihood = self._log_likelihood(gt_labels, excluded, levels, objectness)
        # Rounded after each step, as mmdet's: `alpha=` would fuse a product into the sum. The cost of padding is inf.
        cost = torch.add(ious, real, alpha=EPS_IOU).log_().mul_(-(self.iou_weight or TINY))
        cost.sub_(log_likelihood).add_(not_in_both, alpha=INF)

        topk = min(self.candidate_topk, ious.shape[-1])
        highest = ious.topk(topk).values
        # Summed along the first dimension, in mmdet's order: the sum is truncated to an integer.
        dynamic_k = highest.flatten(0, 1).t().contiguous().sum(0).clamp_(min=1).view_as(real)
        lowest, candidates = cost.topk(topk, largest=False)
        ids = torch.arange(cost.shape[1] * topk + 1, dtype=torch.int32, device=cost.device)
        # In this form NaN counts as taken: the losses become NaN, instead of a batch without positives.
        not_taken = (ids[1 : topk + 1] > dynamic_k) | (lowest == float('inf'))
        return self._resolve(cost, ious, candidates, not_taken, ids)

    def outside(self, priors: Tensor, gt_corners: Tensor) -> tuple[Tensor, Tensor]:
        """Which prior centers are outside of each box, and which outside of its center region, (B, G, A) each."""
        point, stride = priors.t().contiguous().view(2, 2, 1, 1, -1)
        (low, high), center = gt_corners, gt_corners.mean(0)
        # The radius is added to the priors and not to the centers, which would give tensors (B, G, A).
        left, right = (torch.add(point, stride, alpha=sign * self.center_radius) for sign in (-1, 1))
        x_of_box, y_of_box = (point <= low).logical_or_(point >= high)
        x_of_center, y_of_center = (right <= center).logical_or_(left >= center)
        return x_of_box.logical_or_(y_of_box), x_of_center.logical_or_(y_of_center)

    def _log_likelihood(
        self, gt_labels: Tensor, excluded: Tensor, levels: Sequence[Tensor], objectness: Tensor | None
    ) -> Tensor:
        """Minus the class cost of each prior for each box, (B, G, A); -inf for the excluded priors, (B, 1, A).

        It is the log-odds of the labeled class, plus log(1 - score) summed over all classes: A * (C + G) logarithms
        instead of A * C * G.
        """
        root, objectness_root = score_factors(levels, objectness)
        label = gt_labels.unsqueeze(2).expand(-1, -1, root.shape[2])
        log_odds = root.gather(1, label).mul_(objectness_root).logit_(eps=SMALLEST)
        log_not_p = root.mul_(-objectness_root).log1p_()
        if objectness is None:
            # A score may be 1.
            log_odds.clamp_(max=-LOWEST_LOG)
            log_not_p.clamp_(min=LOWEST_LOG)
        rest = log_not_p.sum(1, keepdim=True)
        if self.cls_weight != 1:
            log_odds.mul_(self.cls_weight)
            rest.mul_(self.cls_weight)
        return log_odds.add_(rest.masked_fill_(excluded, -float('inf')))

    @staticmethod
    def _resolve(cost: Tensor, ious: Tensor, candidates: Tensor, not_taken: Tensor, ids: Tensor) -> BatchAssignment:
        """Assign each prior that was taken to one box, and mark one of its candidates as valid.

        Args:
            cost: Cost of each prior for each box, (B, G, A).
            ious: Their IoU, (B, G, A).
            candidates: The prior of each candidate, (B, G, k).
            not_taken: Which candidates their box does not take, (B, G, k).
            ids: 0, and then a number for each candidate, (1 + G * k,).
        """
        num_images, num_gts, num_priors = cost.shape
        index, taken_ids = candidates.flatten(1), ids[1:].masked_fill(not_taken.flatten(1), 0)
        nothing = ids[0].expand(num_images, num_priors)
        last_id = nothing.scatter_reduce(1, index, taken_ids, 'amax')
        own_last_id = last_id.gather(1, index)
        # The sum of the numbers is the last one unless a prior is taken more than once. Then it goes to the cheapest of
        # all boxes, even to one that did not take it.
        contested = nothing.scatter_add(1, index, taken_ids).gather(1, index) != own_last_id
        for_all_boxes = index.unsqueeze(1).expand(-1, num_gts, -1)
        cheapest = cost.gather(2, for_all_boxes).argmin(1)
        own = ids[:num_gts].unsqueeze(1)
        gt_inds = torch.where(contested.view_as(candidates), cheapest.view_as(candidates), own).flatten(1)
        return BatchAssignment(
            positive=last_id > 0,
            candidates=index,
            valid=own_last_id == ids[1:],
            gt_inds=gt_inds,
            ious=ious.gather(2, for_all_boxes).gather(1, gt_inds.unsqueeze(1)).squeeze(1),
        )
