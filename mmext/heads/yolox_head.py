"""mmdet's YOLOX head, feeding its losses what they need."""

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead
from mmdet.utils import OptInstanceList, reduce_mean
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.assigners import BatchSimOTAAssigner
from mmext.assigners.sim_ota import yolox_scores
from mmext.checks import check_choice
from mmext.losses.base import ElementwiseLoss
from mmext.registry import MODELS

from .batch import Decoded, Pick, decode, flatten, pad
from .nms import lacks_cuda_ops, suppress

OBJ_TARGETS = ('hard', 'iou')
CLS_TARGETS = ('iou', 'hard', 'label')
# A logit whose sigmoid is 0 or 1 in every type.
CERTAIN = 1e4
Neutral = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Priors(NamedTuple):
    """The A places of an input of one size that predict; YOLOX regresses from the corner and assigns by the centre."""

    corners: Tensor
    """Corner and stride of each, (A, 4)."""
    centres: Tensor
    """Centre and stride of each, (A, 4)."""


class Positives(NamedTuple):
    """The P rows of a batch that are taught classes and boxes: its positives, or slots of which some are owned."""

    mask: Tensor
    """Which priors are positive, (B, A)."""
    pick: Callable[[Tensor], Tensor]
    """Takes the rows of a tensor (B, A, n): (P, n)."""
    owned: Tensor | None
    """Which rows are positives, (P,); None: all are."""
    boxes: Tensor
    """The box of each row, (P, 4)."""
    labels: Tensor
    """Its label, (P,)."""
    ious: Tensor
    """The IoU of the predicted box with it, (P,)."""
    all_ious: Tensor | None
    """That IoU for each prior, 0 for those that are not positive, (B, A); None where no target is made of it."""


@MODELS.register_module()
class YOLOXHead(MMDetYOLOXHead):
    """mmdet's `YOLOXHead`, with the choice of targets and any loss of mmdet's contract.

    With the stock losses it returns mmdet's losses, gradients and boxes; the state dict is the same. What differs:

    * a loss with `reduction='mean'` is given an `avg_factor`, the number of positives, averaged over the ranks; one
      with `'sum'` is divided by it, as mmdet does. mmdet divides both: there a `mean` loss all but vanishes;
    * boxes are decoded in float32 or wider: float16 has steps of half a pixel from 512 px on;
    * a prior that no box takes may predict a side beyond the range of its type: mmdet's gradients are NaN then;
    * a softmax loss for the classes (`use_sigmoid=False`) is predicted, and assigned, with a softmax;
    * NMS works on a GPU for which mmcv was built without operators.

    Args:
        *args: mmdet's, with its defaults. Types without a scope are mmdet's.
        obj_target: The target of the objectness of a positive: `'hard'`, 1, YOLOX's own; or `'iou'`, the IoU of the
            predicted box with its target.
        cls_target: The target of the classes: `'iou'`, one-hot times that IoU, YOLOX's own; `'hard'`, one-hot; or
            `'label'`, the integer label, which a softmax needs.
        compile: Compile all that follows the ground truth to one graph, with `BatchSimOTAAssigner`. The number of
            boxes is padded to 8, 16, 32 and so on, so that each size of the input is compiled a few times, at first.
        **kwargs: mmdet's.

    Raises:
        ValueError: For an unknown target, a loss with `reduction='none'`, a softmax without `cls_target='label'`, or a
            softmax for the objectness.
    """

    def __init__(self, *args, obj_target: str = 'hard', cls_target: str = 'iou', compile: bool = False, **kwargs):
        # The arguments are mmdet's, so a type without a scope is mmdet's, whichever config file it was written in.
        with DefaultScope.overwrite_default_scope('mmdet'):
            super().__init__(*args, **kwargs)
        check_choice(self, 'bbox_head.obj_target', obj_target, OBJ_TARGETS)
        check_choice(self, 'bbox_head.cls_target', cls_target, CLS_TARGETS)
        self.obj_target = obj_target
        self.cls_target = cls_target
        self.compiled = compile
        self.softmax = not getattr(self.loss_cls, 'use_sigmoid', True)
        self._known_priors: dict[tuple, Priors] = {}
        self._check_losses()

    def _check_losses(self) -> None:
        for name in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'):
            if getattr(self, name).reduction == 'none':
                raise ValueError(
                    f"bbox_head.{name} has reduction='none', but the head needs one number: use 'mean' or 'sum'"
                )
        if not getattr(self.loss_obj, 'use_sigmoid', True):
            raise ValueError(
                f'bbox_head.loss_obj is a softmax ({type(self.loss_obj).__name__}), but the objectness is one logit: '
                'set use_sigmoid=True, or use mmext.FocalLoss'
            )
        if self.softmax and self.cls_target != 'label':
            raise ValueError(
                f'bbox_head.loss_cls is a softmax ({type(self.loss_cls).__name__}) and needs '
                f"bbox_head.cls_target='label', but that is {self.cls_target!r}"
            )
        for loss, target, remedy in (
            (self.loss_cls, self.cls_target, "cls_target='hard'"),
            (self.loss_obj, self.obj_target, "obj_target='hard'"),
        ):
            if target == 'iou' and not getattr(loss, 'soft_target', True):
                print_log(
                    f'{type(loss).__name__} has its minimum in the wrong place for IoU targets: set bbox_head.'
                    f'{remedy}, or use mmext.QualityFocalLoss or mmext.VarifocalLoss',
                    logger='current',
                    level=logging.WARNING,
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
        """The losses of a batch: `loss_cls`, `loss_bbox`, `loss_obj`, and in the last epochs `loss_l1`.

        Args:
            cls_scores: Class logits of each level, (B, num_classes, H, W).
            bbox_preds: Box regressions of each level, (B, 4, H, W).
            objectnesses: Objectness logits of each level, (B, 1, H, W).
            batch_gt_instances: `bboxes` (x1, y1, x2, y2) in pixels of the input and `labels` of each image.
            batch_img_metas: Not read; mmdet's contract.
            batch_gt_instances_ignore: Boxes to ignore, for the assigner.
        """
        priors = self._priors(bbox_preds)
        outputs = cls_scores, bbox_preds, objectnesses
        if isinstance(self.assigner, BatchSimOTAAssigner):
            losses = _compiled_losses() if self.compiled else YOLOXHead._batch_losses
            return losses(self, priors, *outputs, pad(batch_gt_instances, priors.corners, in_buckets=self.compiled))
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
        """The losses from tensors alone, by the batch's assigner: what is compiled."""
        return self._losses(priors, cls_scores, bbox_preds, objectnesses, partial(self._assign_batch, ground_truth))

    def _losses(
        self,
        priors: Priors,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        assign: Callable[[Tensor, tuple[Tensor, Tensor], Tensor], Positives],
    ) -> dict[str, Tensor]:
        """The losses of a batch whose positives `assign` finds, from the priors' centres, logits and boxes."""
        cls_preds, offsets, objectness = (flatten(levels) for levels in (cls_scores, bbox_preds, objectnesses))
        corners = priors.corners
        offsets = offsets.to(corners.dtype)
        with torch.no_grad():
            boxes = decode(corners, offsets)
            positives = assign(priors.centres, (self._sigmoid_logits(cls_preds, dim=-1), objectness), boxes)
        # Averaged over the ranks, as YOLOX does; mmdet: better on COCO.
        num_positive = reduce_mean(positives.mask.sum(dtype=corners.dtype)).clamp(min=1)
        owned = positives.owned
        corners = corners.expand_as(offsets)

        losses = dict(
            loss_cls=self._loss(
                self.loss_cls,
                positives.pick(cls_preds),
                self._cls_target(positives),
                num_positive,
                owned,
                self._no_class,
            ),
            loss_bbox=self._loss(
                self.loss_bbox,
                positives.pick(Decoded.apply(offsets, corners, boxes)),
                positives.boxes,
                num_positive,
                owned,
                _unit_box,
                **self._box_context(bbox_preds),
            ),
            loss_obj=self._loss(
                self.loss_obj, objectness.reshape(-1, 1), self._obj_target(positives, objectness.dtype), num_positive
            ),
        )
        if self.use_l1:
            own_corners = positives.pick(corners)
            target = self._get_l1_target(torch.zeros_like(positives.boxes), positives.boxes, own_corners)
            losses['loss_l1'] = self._loss(
                self.loss_l1, positives.pick(offsets), target, num_positive, owned, _no_offset
            )
        return losses

    @staticmethod
    def _loss(
        loss: nn.Module,
        pred: Tensor,
        target: Tensor,
        num_positive: Tensor,
        owned: Tensor | None = None,
        neutral: Neutral | None = None,
        **context: object,
    ) -> Tensor:
        """The sum of the loss over the number of positives, by the loss's own reduction.

        mmext's losses are called without positives, too: one with a running mean waits for every rank. They take the
        slots that are owned as a weight. Other losses are given neutral values in the rest, and what they return for
        it is dropped.

        Args:
            loss: The loss.
            pred: What it is fed, (P, n).
            target: The target of each row.
            num_positive: What the sum is divided by.
            owned: Which rows count, (P,); None: all.
            neutral: Makes predictions and targets without loss of targets.
            **context: What the loss asks for beside them.
        """
        if isinstance(loss, ElementwiseLoss):
            return loss(pred, target, owned, reduction_override='sum', **context) / num_positive
        if not len(pred):
            # Keeps the branch in the graph, which DDP asks of every parameter.
            return pred.sum() * 0
        if owned is not None:
            rows = owned.unsqueeze(-1)
            empty_pred, empty_target = neutral(pred, target)
            target = torch.where(rows if target.dim() > 1 else owned, target, empty_target)
            values = loss(torch.where(rows, pred, empty_pred), target, reduction_override='none', **context)
            return torch.where(rows if values.dim() > 1 else owned, values, 0).sum() / num_positive
        if loss.reduction == 'sum':
            return loss(pred, target, **context) / num_positive
        return loss(pred, target, avg_factor=num_positive, **context)

    def _no_class(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits that are certain of their target: that of no class, or the label."""
        if self.cls_target != 'label':
            return torch.full_like(pred, -CERTAIN), torch.zeros_like(target)
        label = torch.arange(pred.shape[-1], device=pred.device) == target.unsqueeze(-1)
        return torch.where(label, CERTAIN, -CERTAIN).to(pred.dtype), target

    def _box_context(self, levels: Sequence[Tensor]) -> dict[str, object]:
        """What the box loss asks for beside the boxes: the size of the network's input, which multi-scale changes."""
        if not getattr(self.loss_bbox, 'needs_image_size', False):
            return {}
        return dict(image_size=[side * self.prior_generator.strides[0][0] for side in levels[0].shape[2:]])

    def _assign_batch(
        self, ground_truth: tuple[Tensor, Tensor, Tensor], centres: Tensor, logits: tuple[Tensor, Tensor], boxes: Tensor
    ) -> Positives:
        """The positives by mmext's assigner: tensors of a fixed shape for as many boxes, and no host sync.

        Args:
            ground_truth: Boxes, labels and mask; see :func:`pad`.
            centres: Centre and stride of each prior, (A, 4).
            logits: Of the classes, (B, A, C), and of the objectness, (B, A, 1).
            boxes: Decoded boxes, (B, A, 4).
        """
        gt_boxes, gt_labels, gt_mask = ground_truth
        result = self.assigner.assign_batch(boxes, logits, centres, gt_boxes, gt_labels, gt_mask)

        return Positives(
            mask=result.positive,
            pick=lambda rows: Pick.apply(rows, result.slots).flatten(0, 1),
            owned=result.owned.flatten(),
            boxes=gt_boxes.gather(1, result.gt_inds.unsqueeze(-1).expand(-1, -1, 4)).flatten(0, 1),
            labels=gt_labels.gather(1, result.gt_inds).flatten(),
            ious=result.ious.flatten(),
            all_ious=result.of_priors(result.ious, 0) if self.obj_target == 'iou' else None,
        )

    def _assign_each(
        self,
        instances: Sequence[InstanceData],
        ignored: Sequence[InstanceData | None],
        centres: Tensor,
        logits: tuple[Tensor, Tensor],
        boxes: Tensor,
    ) -> Positives:
        """The positives by the assigner of `train_cfg`, image by image.

        Args:
            instances: The ground truth of each image.
            ignored: Its boxes to ignore.
            centres: Centre and stride of each prior, (A, 4).
            logits: Of the classes, (B, A, C), and of the objectness, (B, A, 1).
            boxes: Decoded boxes, (B, A, 4).
        """
        results = [
            self.assigner.assign(
                pred_instances=InstanceData(bboxes=box.float(), scores=score, priors=centres.float()),
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
            pick=lambda rows: rows[mask],
            owned=None,
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
        target = positives.all_ious if self.obj_target == 'iou' else positives.mask
        return target.reshape(-1, 1).to(dtype)

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        *args,
        **kwargs,
    ) -> list[InstanceData]:
        """mmdet's, decoded in float32, which mmcv's NMS takes, and with a softmax where the loss is one."""
        cls_scores = [self._sigmoid_logits(score.float(), dim=1) for score in cls_scores]
        return super().predict_by_feat(
            cls_scores,
            [pred.float() for pred in bbox_preds],
            [objectness.float() for objectness in objectnesses],
            *args,
            **kwargs,
        )

    def _sigmoid_logits(self, logits: Tensor, dim: int) -> Tensor:
        """Logits whose sigmoid is the predicted probability: mmdet's code takes the sigmoid."""
        return logits.float().softmax(dim).logit() if self.softmax else logits

    def _priors(self, levels: Sequence[Tensor]) -> Priors:
        """The priors in float32 or wider, made once for each size of the input."""
        dtype = torch.promote_types(levels[0].dtype, torch.float32)
        sizes = tuple(level.shape[2:] for level in levels)
        key = sizes, dtype, levels[0].device
        if key not in self._known_priors:
            corners = torch.cat(
                self.prior_generator.grid_priors(sizes, dtype=dtype, device=levels[0].device, with_stride=True)
            )
            corner, stride = corners.split(2, dim=-1)
            # In memory (4, A), as the assigner reads them.
            centres = torch.cat([corner + stride * 0.5, stride], dim=-1).t().contiguous().t()
            self._known_priors[key] = Priors(corners, centres)
        return self._known_priors[key]

    def _bbox_post_process(
        self, results: InstanceData, cfg, rescale: bool = False, with_nms: bool = True, img_meta: dict | None = None
    ) -> InstanceData:
        fallback = with_nms and results.bboxes.is_cuda and lacks_cuda_ops()
        results = super()._bbox_post_process(results, cfg, rescale, with_nms and not fallback, img_meta)
        return suppress(results, cfg.nms) if fallback and len(results) else results


@cache
def _compiled_losses() -> Callable[..., dict[str, Tensor]]:
    """`_batch_losses` as one graph for each size of the input and bucket of boxes, of which there are many."""
    compiled = torch.compile(YOLOXHead._batch_losses, fullgraph=True, dynamic=False)
    return torch._dynamo.config.patch(recompile_limit=256)(compiled)


def _unit_box(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same box twice; with a side of 1 mmdet's CIoU is not NaN."""
    box = (torch.arange(4, device=target.device) // 2).to(target.dtype)
    return box, box


def _no_offset(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets that are what they should be."""
    zeros = torch.zeros_like(target)
    return zeros, zeros
