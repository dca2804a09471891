"""mmdet's YOLOX head with a choice of targets and of losses."""

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead
from mmdet.models.task_modules.assigners import DynamicSoftLabelAssigner
from mmdet.utils import OptInstanceList, reduce_mean
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.assigners import BatchSimOTAAssigner
from mmext.assigners.sim_ota import yolox_scores
from mmext.checks import check_choice
from mmext.compat import check_torch_can, recompile_limit
from mmext.errors import UserError
from mmext.losses import SoftmaxFocalLoss
from mmext.losses.base import ElementwiseLoss
from mmext.registry import MODELS

from .nms import batched_nms, lacks_ops
from .ops import (
    DecodeWithGrad,
    GatherRows,
    check_ground_truth,
    decode,
    flatten_levels,
    gather_rows,
    pad_ground_truth,
    places_in_levels,
)
from .yolox_softmax_head import SOFTMAX_KEY, mark_softmax, sigmoid_logits

OBJ_TARGETS = ('hard', 'iou')
CLS_TARGETS = ('iou', 'hard', 'label')
# A logit whose sigmoid is 0 or 1 in every floating type.
SATURATED_LOGIT = 1e4
# How many input sizes have their priors kept; multi-scale training has eleven.
MAX_KNOWN_SIZES = 64
Neutral = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Priors(NamedTuple):
    """The A priors of one input size. YOLOX regresses boxes relative to their corners, and assigns by their centers."""

    corners: Tensor
    """Upper left corner and stride of each prior in pixels, (A, 4)."""
    centers: Tensor
    """Center and stride of each prior in pixels, (A, 4)."""
    places: Tensor
    """Index of each prior within each of the L levels; the level's first or last if it is in another one, (L, A)."""
    inside: Tensor
    """Whether each prior is in the level, (L, A)."""


class Positives(NamedTuple):
    """P rows of a batch that have class and box targets: its positives, or candidates of which some are valid."""

    mask: Tensor
    """Whether each prior is positive, (B, A)."""
    gather: Callable[[Tensor], Tensor]
    """Gathers the rows from a tensor of all priors, (B, A, n) -> (P, n)."""
    gather_levels: Callable[[Sequence[Tensor]], Tensor]
    """Gathers the rows from the levels of an output, (B, C, H, W) each, -> (P, C)."""
    valid: Tensor | None
    """Which rows are positives, (P,); None: all."""
    boxes: Tensor
    """Target box (x1, y1, x2, y2) of each row in pixels, (P, 4)."""
    labels: Tensor
    """Target label of each row, (P,)."""
    ious: Tensor
    """IoU of the predicted box with the target box, (P,)."""
    all_ious: Tensor | None
    """That IoU for each prior, 0 where it is not positive, (B, A); None where no target needs it."""


@MODELS.register_module()
class YOLOXHead(MMDetYOLOXHead):
    """mmdet's `YOLOXHead` with a choice of targets, for any loss that follows mmdet's contract.

    With the stock losses it returns mmdet's losses, gradients and boxes, and has mmdet's state dict. The differences:

    * The sum of each loss is divided once by the number of positives, averaged over the ranks, whether its reduction
      is `'sum'` or `'mean'`. mmdet divides a `'mean'` a second time, so that it all but vanishes.
    * With several ranks the batches of all ranks together have at least one positive for the division. In mmdet it is
      at least one on each rank, so that losses depend on the number of ranks if there are fewer positives than ranks.
    * Boxes are decoded in float32 or wider. In float16 coordinates above 512 px have steps of half a pixel.
    * Gradients stay finite where a prior that is not positive predicts an infinite side. In mmdet they become NaN.
    * With a softmax loss for the classes (`use_sigmoid=False`) assignment and prediction use a softmax. The state dict
      then has the extra key `predicts_with_softmax`, so that mmdet's head, which would predict with a sigmoid, does not
      load it without a word. Checkpoints without the key load as well.
    * NMS works on a GPU for which mmcv was built without operators.

    Args:
        *args: mmdet's, with its defaults. Types without a scope are mmdet's.
        obj_target: Objectness target of a positive: `'hard'`, 1, as in YOLOX; or `'iou'`, the IoU of the predicted box
            with its target.
        cls_target: Class target of a positive: `'iou'`, one-hot times that IoU, as in YOLOX; `'hard'`, one-hot; or
            `'label'`, the integer label, which a softmax needs.
        compile: Compile the losses, from the padded ground truth on, to one graph; needs `BatchSimOTAAssigner`. The
            number of boxes is padded to 8, 16, 32 and so on: each input size is compiled once for each of these. It
            needs a newer torch than the head itself, see `mmext.compat.OLDEST_TORCH`.
        **kwargs: mmdet's.

    Raises:
        UserError: For `compile` with a torch that is too old for it.
        ValueError: For an unknown target; a loss with `reduction='none'`; a softmax loss for the objectness, or for
            the classes without `cls_target='label'`; a `SoftmaxFocalLoss` with a single alpha; or mmdet's
            `DynamicSoftLabelAssigner`.

    Example:
        >>> import torch
        >>> from mmengine.structures import InstanceData
        >>> from mmext.heads import YOLOXHead
        >>> head = YOLOXHead(
        ...     num_classes=3,
        ...     in_channels=8,
        ...     feat_channels=8,
        ...     loss_obj=dict(type='mmext.FocalLoss'),
        ...     loss_bbox=dict(type='mmext.IoULoss', variant='ciou', loss_weight=5.0),
        ...     train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')),
        ... )
        >>> features = [torch.rand(2, 8, 64 // stride, 64 // stride) for stride in head.strides]
        >>> boxes, labels = torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.tensor([1])
        >>> ground_truth = [InstanceData(bboxes=boxes, labels=labels) for _ in range(2)]
        >>> losses = head.loss_by_feat(*head(features), ground_truth, [{}, {}])
        >>> sorted(losses)
        ['loss_bbox', 'loss_cls', 'loss_obj']
        >>> sum(losses.values()).backward()
    """

    def __init__(self, *args, obj_target: str = 'hard', cls_target: str = 'iou', compile: bool = False, **kwargs):
        # Types without a scope are mmdet's, whatever the scope of the config file.
        with DefaultScope.overwrite_default_scope('mmdet'):
            super().__init__(*args, **kwargs)
        check_choice(self, 'bbox_head.obj_target', obj_target, OBJ_TARGETS)
        check_choice(self, 'bbox_head.cls_target', cls_target, CLS_TARGETS)
        if compile:
            check_torch_can('compile', 'bbox_head.compile=True')
        self.obj_target = obj_target
        self.cls_target = cls_target
        self.compiled = compile
        self.softmax = not getattr(self.loss_cls, 'use_sigmoid', True)
        self._known_priors: dict[tuple, Priors] = {}
        if self.softmax:
            mark_softmax(self)
        self._check_losses()
        if self.train_cfg:
            refuse_assigner_of_logits(self.assigner)

    def _check_losses(self) -> None:
        for name in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'):
            if getattr(self, name).reduction == 'none':
                raise ValueError(
                    f"bbox_head.{name} has reduction='none', but the head needs one number: use 'mean' or 'sum'"
                )
        if not getattr(self.loss_obj, 'use_sigmoid', True):
            raise ValueError(
                f'bbox_head.loss_obj is a softmax loss ({type(self.loss_obj).__name__}), but the objectness is one '
                'logit: set use_sigmoid=True, or use mmext.FocalLoss'
            )
        if self.softmax:
            self._check_softmax()
        for name, target in (('cls', self.cls_target), ('obj', self.obj_target)):
            if target == 'iou':
                warn_if_made_for_hard_targets(
                    f'bbox_head.loss_{name}', getattr(self, f'loss_{name}'), f"set bbox_head.{name}_target='hard'"
                )

    def _check_softmax(self) -> None:
        if self.cls_target != 'label':
            raise ValueError(
                f'bbox_head.loss_cls is a softmax loss ({type(self.loss_cls).__name__}) and needs '
                f"bbox_head.cls_target='label', but that is {self.cls_target!r}"
            )
        alpha = getattr(self.loss_cls, 'alpha', None)
        if isinstance(self.loss_cls, SoftmaxFocalLoss) and isinstance(alpha, (int, float)):
            raise ValueError(
                f"bbox_head.loss_cls.alpha is {alpha!r}, a single number: the background's weight. But YOLOX's classes "
                f'have no background, so class {self.loss_cls.background_index} would be taken for it: give one weight '
                'per class, or alpha=None'
            )

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch from the head's outputs.

        Args:
            cls_scores: Class logits of each level, (B, num_classes, H, W).
            bbox_preds: Box regressions of each level, (B, 4, H, W); see `mmext.heads.ops.decode`.
            objectnesses: Objectness logits of each level, (B, 1, H, W).
            batch_gt_instances: `bboxes` (n, 4), as (x1, y1, x2, y2) in pixels of the input, and `labels` (n,) of each
                image.
            batch_img_metas: Not used; in mmdet's signature.
            batch_gt_instances_ignore: Boxes to ignore of each image. They are passed to the assigner; both SimOTA
                assigners, mmdet's and mmext's, do not use them.

        Returns:
            The scalars `loss_cls`, `loss_bbox` and `loss_obj`, and with `use_l1`, which YOLOX's mode switch sets for
            the last epochs, `loss_l1`. Each is the weighted sum over the batch, divided by the number of positives
            (at least 1). With R ranks it is the sum over the rank's batch, divided by 1/R of the number of positives of
            all ranks (at least 1): its mean over the ranks is the loss of one process with the batches of all ranks.

        Raises:
            TypeError: For boxes or labels that are no tensors, or labels that are not integers.
            ValueError: For ground truth of another number of images, of other shapes or on another device.
        """
        check_ground_truth(batch_gt_instances, len(bbox_preds[0]), bbox_preds[0].device)
        priors = self._priors(bbox_preds)
        outputs = cls_scores, bbox_preds, objectnesses
        if isinstance(self.assigner, BatchSimOTAAssigner):
            losses = _compiled_losses() if self.compiled else YOLOXHead._batch_losses
            ground_truth = pad_ground_truth(batch_gt_instances, priors.corners, in_buckets=self.compiled)
            return losses(self, priors, *outputs, ground_truth)
        ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        return self._losses(priors, *outputs, partial(self._assign_each, batch_gt_instances, ignored))

    def _batch_losses(
        self,
        priors: Priors,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        ground_truth: tuple[Tensor, Tensor, Tensor],
    ) -> dict[str, Tensor]:
        """The losses with the batch assigner, from tensors alone: this is what `compile` compiles."""
        return self._losses(priors, cls_scores, bbox_preds, objectnesses, partial(self._assign_batch, ground_truth))

    def _losses(
        self,
        priors: Priors,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        assign: Callable[[Priors, tuple[Sequence[Tensor], Tensor], Tensor], Positives],
    ) -> dict[str, Tensor]:
        """The losses of a batch; `assign` finds its positives from the priors, the logits and the decoded boxes.

        The class logits, by far the largest output, stay in their levels: each pass over all of them costs more memory
        traffic than everything that is done for the positives.
        """
        offsets, objectness = (flatten_levels(levels) for levels in (bbox_preds, objectnesses))
        offsets, corners = offsets.to(priors.corners.dtype), priors.corners.expand_as(offsets)
        with torch.no_grad():
            boxes = decode(corners, offsets)
            positives = assign(priors, (cls_scores, objectness), boxes)
        # The number over all ranks, at least 1, divided by the number of ranks: DDP averages the gradients.
        num_positive = reduce_mean(positives.mask.sum(dtype=corners.dtype)).clamp(min=1 / get_world_size())
        valid = positives.valid
        offsets, corners, boxes = (positives.gather(each) for each in (offsets, corners, boxes))

        sums = dict(
            loss_cls=self._sum(
                self.loss_cls,
                positives.gather_levels(cls_scores),
                self._cls_target(positives),
                valid,
                self._neutral_classes,
            ),
            loss_bbox=self._sum(
                self.loss_bbox,
                DecodeWithGrad.apply(offsets, corners, boxes),
                positives.boxes,
                valid,
                _neutral_boxes,
                **self._box_context(bbox_preds),
            ),
            loss_obj=self._sum(self.loss_obj, objectness.reshape(-1, 1), self._obj_target(positives, objectness.dtype)),
        )
        if self.use_l1:
            target = self._get_l1_target(torch.zeros_like(positives.boxes), positives.boxes, corners)
            sums['loss_l1'] = self._sum(self.loss_l1, offsets, target, valid, _neutral_offsets)
        # Divided together, which launches one kernel instead of one for each loss.
        return dict(zip(sums, torch.stack(list(sums.values())).div(num_positive).unbind()))

    @staticmethod
    def _sum(
        loss: nn.Module,
        pred: Tensor,
        target: Tensor,
        valid: Tensor | None = None,
        neutral: Neutral | None = None,
        **context: object,
    ) -> Tensor:
        """The summed loss, whatever the loss's own reduction.

        mmext's losses take `valid` as a weight. They are called even without positives: WiseFocus all-reduces its
        running mean on every rank. Other losses are given neutral values in the rows that are not valid, and their
        loss there is dropped.

        Args:
            loss: The loss module.
            pred: Predictions, (P, n).
            target: Target of each row.
            valid: Which rows count, (P,); None: all.
            neutral: Maps predictions and targets to ones without loss.
            **context: Further arguments of the loss.
        """
        if isinstance(loss, ElementwiseLoss):
            return loss(pred, target, valid, reduction_override='sum', **context)
        if not len(pred):
            # Keeps the branch in the graph: DDP expects a gradient for every parameter.
            return pred.sum() * 0
        if valid is not None:
            rows = valid.unsqueeze(-1)
            neutral_pred, neutral_target = neutral(pred, target)
            target = torch.where(rows if target.dim() > 1 else valid, target, neutral_target)
            values = loss(torch.where(rows, pred, neutral_pred), target, reduction_override='none', **context)
            return torch.where(rows if values.dim() > 1 else valid, values, 0).sum()
        if loss.reduction == 'sum':
            return loss(pred, target, **context)
        return loss(pred, target, avg_factor=1.0, **context)

    def _neutral_classes(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Saturated logits with zero loss: of an all-zero target, or of the label."""
        if self.cls_target != 'label':
            return pred.new_full((), -SATURATED_LOGIT), target.new_zeros(())
        label = torch.arange(pred.shape[-1], device=pred.device) == target.unsqueeze(-1)
        return torch.where(label, SATURATED_LOGIT, -SATURATED_LOGIT).to(pred.dtype), target

    def _box_context(self, levels: Sequence[Tensor]) -> dict[str, object]:
        """Further arguments of the box loss: MPDIoU's (height, width) of the input, which multi-scale changes."""
        if not getattr(self.loss_bbox, 'needs_image_size', False):
            return {}
        return dict(image_size=[side * self.prior_generator.strides[0][0] for side in levels[0].shape[2:]])

    def _assign_batch(
        self,
        ground_truth: tuple[Tensor, Tensor, Tensor],
        priors: Priors,
        logits: tuple[Sequence[Tensor], Tensor],
        boxes: Tensor,
    ) -> Positives:
        """Assign with mmext's assigner: shapes depend on the number of boxes alone, and there is no host sync.

        Args:
            ground_truth: Boxes, labels and mask; see :func:`mmext.heads.ops.pad_ground_truth`.
            priors: The priors.
            logits: Of the classes, level by level, (B, C, H, W), and of the objectness, (B, A, 1).
            boxes: Decoded boxes, (B, A, 4).
        """
        gt_boxes, gt_labels, gt_mask = ground_truth
        cls_scores, objectness = logits
        if self.softmax:
            cls_scores = self._sigmoid_logits(flatten_levels(cls_scores), dim=-1)
        scores = cls_scores, objectness
        result = self.assigner.assign_batch(boxes, scores, priors.centers, gt_boxes, gt_labels, gt_mask)
        candidates = result.candidates

        return Positives(
            mask=result.positive,
            gather=lambda rows: gather_rows(rows, candidates).flatten(0, 1),
            gather_levels=lambda levels: GatherRows.apply(
                priors.places[:, candidates], priors.inside[:, candidates], *levels
            ).flatten(0, 1),
            valid=result.valid.flatten(),
            boxes=gather_rows(gt_boxes, result.gt_inds).flatten(0, 1),
            labels=gt_labels.gather(1, result.gt_inds).flatten(),
            ious=result.ious.flatten(),
            all_ious=result.scatter_to_priors(result.ious, 0) if self.obj_target == 'iou' else None,
        )

    def _assign_each(
        self,
        instances: Sequence[InstanceData],
        ignored: Sequence[InstanceData | None],
        priors: Priors,
        logits: tuple[Sequence[Tensor], Tensor],
        boxes: Tensor,
    ) -> Positives:
        """Assign image by image, with any other assigner.

        Args:
            instances: Ground truth of each image.
            ignored: Boxes to ignore of each image.
            priors: The priors.
            logits: Of the classes, level by level, (B, C, H, W), and of the objectness, (B, A, 1).
            boxes: Decoded boxes, (B, A, 4).
        """
        cls_scores, objectness = logits
        logits = self._sigmoid_logits(flatten_levels(cls_scores), dim=-1), objectness
        results = [
            self.assigner.assign(
                pred_instances=InstanceData(bboxes=box.float(), scores=score, priors=priors.centers.float()),
                gt_instances=InstanceData(bboxes=gt.bboxes.float(), labels=gt.labels),
                gt_instances_ignore=ignore,
            )
            for score, box, gt, ignore in zip(yolox_scores(*logits), boxes, instances, ignored)
        ]
        mask = torch.stack([result.gt_inds > 0 for result in results])
        ious = torch.stack([result.max_overlaps for result in results])
        gt_inds = [result.gt_inds[result.gt_inds > 0] - 1 for result in results]
        return Positives(
            mask=mask,
            gather=lambda rows: rows[mask],
            gather_levels=lambda levels: flatten_levels(levels)[mask],
            valid=None,
            boxes=torch.cat([gt.bboxes[index] for gt, index in zip(instances, gt_inds)]),
            labels=torch.cat([gt.labels[index] for gt, index in zip(instances, gt_inds)]).long(),
            ious=ious[mask],
            all_ious=torch.where(mask, ious, 0),
        )

    def _cls_target(self, positives: Positives) -> Tensor:
        if self.cls_target == 'label':
            return positives.labels
        score = positives.ious if self.cls_target == 'iou' else torch.ones_like(positives.ious)
        target = score.new_zeros(len(score), self.num_classes)
        return target.scatter_(1, positives.labels.unsqueeze(-1), score.unsqueeze(-1))

    def _obj_target(self, positives: Positives, dtype: torch.dtype) -> Tensor:
        """The target of all priors, (B * A, 1), in float32 or wider: half precision would round an IoU."""
        target = positives.all_ious if self.obj_target == 'iou' else positives.mask
        return target.reshape(-1, 1).to(torch.promote_types(dtype, torch.float32))

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        *args,
        **kwargs,
    ) -> list[InstanceData]:
        """mmdet's prediction in float32, as mmcv's NMS requires, with a softmax if `loss_cls` is a softmax loss."""
        cls_scores = [self._sigmoid_logits(score.float(), dim=1) for score in cls_scores]
        return super().predict_by_feat(
            cls_scores,
            [pred.float() for pred in bbox_preds],
            [objectness.float() for objectness in objectnesses],
            *args,
            **kwargs,
        )

    def _sigmoid_logits(self, logits: Tensor, dim: int) -> Tensor:
        """Logits whose sigmoid is the class probability, since mmdet's code takes the sigmoid."""
        return sigmoid_logits(logits, dim) if self.softmax else logits

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, strict: bool, missing_keys: list[str], *args: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *args)
        # mmdet's checkpoints, and those of mmext before this key, have the same weights without it.
        if prefix + SOFTMAX_KEY in missing_keys:
            missing_keys.remove(prefix + SOFTMAX_KEY)

    def _priors(self, levels: Sequence[Tensor]) -> Priors:
        """The priors in float32 or wider, made once for each of the last input sizes."""
        dtype = torch.promote_types(levels[0].dtype, torch.float32)
        sizes = tuple(level.shape[2:] for level in levels)
        key = sizes, dtype, levels[0].device
        if key not in self._known_priors:
            if len(self._known_priors) == MAX_KNOWN_SIZES:
                del self._known_priors[next(iter(self._known_priors))]
            corners = torch.cat(
                self.prior_generator.grid_priors(sizes, dtype=dtype, device=levels[0].device, with_stride=True)
            )
            corner, stride = corners.split(2, dim=-1)
            centers = torch.cat([corner + stride * 0.5, stride], dim=-1)
            # In memory (4, A), as decoding and the assigner read them.
            corners, centers = (each.t().contiguous().t() for each in (corners, centers))
            self._known_priors[key] = Priors(corners, centers, *places_in_levels(sizes, corners.device))
        return self._known_priors[key]

    def _bbox_post_process(
        self, results: InstanceData, cfg, rescale: bool = False, with_nms: bool = True, img_meta: dict | None = None
    ) -> InstanceData:
        fallback = with_nms and lacks_ops(results.bboxes)
        results = super()._bbox_post_process(results, cfg, rescale, with_nms and not fallback, img_meta)
        return batched_nms(results, cfg.nms) if fallback and len(results) else results


def refuse_assigner_of_logits(assigner: object) -> None:
    """Refuse an assigner that takes logits.

    Raises:
        UserError: For mmdet's `DynamicSoftLabelAssigner`, RTMDet's: it takes the sigmoid of what it is given, and
            YOLOX heads, mmdet's and mmext's, give it probabilities. Training would run with a wrong cost.
    """
    if isinstance(assigner, DynamicSoftLabelAssigner):
        raise UserError(
            f'model.train_cfg.assigner is a {type(assigner).__name__}, which takes class logits, but a YOLOX head '
            'gives it probabilities: use mmext.BatchSimOTAAssigner or mmdet.SimOTAAssigner'
        )


def warn_if_made_for_hard_targets(name: str, loss: nn.Module, remedy: str | None = None) -> None:
    """Warn if a loss made for hard targets, 0 and 1, is given soft ones.

    Args:
        name: Where the loss is in the config.
        loss: The loss; mmext's say so by `soft_target`.
        remedy: What to do besides using another loss.
    """
    if getattr(loss, 'soft_target', True):
        return
    print_log(
        f'{name} ({type(loss).__name__}) has its minimum in the wrong place for soft targets, such as IoUs: '
        f'{remedy + ", or " if remedy else ""}use mmext.QualityFocalLoss or mmext.VarifocalLoss',
        logger='current',
        level=logging.WARNING,
    )


@cache
def _compiled_losses() -> Callable[..., dict[str, Tensor]]:
    """`_batch_losses`, compiled to one graph for each input size and bucket of boxes."""
    # The default limit of recompilations is too low.
    compiled = torch.compile(YOLOXHead._batch_losses, fullgraph=True, dynamic=False)
    return torch._dynamo.config.patch(recompile_limit(256))(compiled)


def _neutral_boxes(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same box twice; with sides of 1, for which mmdet's CIoU is not NaN."""
    box = (torch.arange(4, device=target.device) // 2).to(target.dtype)
    return box, box


def _neutral_offsets(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets equal to their targets."""
    zeros = torch.zeros_like(target)
    return zeros, zeros
