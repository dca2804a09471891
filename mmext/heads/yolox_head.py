"""mmdet's YOLOX head, feeding its losses what they need."""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead
from mmdet.models.utils import multi_apply
from mmdet.utils import OptInstanceList, reduce_mean
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.losses.base import ElementwiseLoss, check_choice
from mmext.registry import MODELS

from .nms import lacks_cuda_ops, suppress

OBJ_TARGETS = ('hard', 'iou')
CLS_TARGETS = ('iou', 'hard', 'label')


@MODELS.register_module()
class YOLOXHead(MMDetYOLOXHead):
    """mmdet's `YOLOXHead`, with the choice of targets and any loss of mmdet's contract.

    With the stock losses it returns mmdet's losses, gradients and boxes; the state dict is the same. What differs:

    * a loss with `reduction='mean'` is given an `avg_factor`, the number of positives, averaged over the ranks; one
      with `'sum'` is divided by it, as mmdet does. mmdet divides both: there a `mean` loss all but vanishes;
    * boxes are decoded in float32 or wider: float16 has steps of half a pixel from 512 px on;
    * a softmax loss for the classes (`use_sigmoid=False`) is predicted, and assigned, with a softmax;
    * NMS works on a GPU for which mmcv was built without operators.

    Args:
        *args: mmdet's, with its defaults. Types without a scope are mmdet's.
        obj_target: The target of the objectness of a positive: `'hard'`, 1, YOLOX's own; or `'iou'`, the IoU of the
            predicted box with its target.
        cls_target: The target of the classes: `'iou'`, one-hot times that IoU, YOLOX's own; `'hard'`, one-hot; or
            `'label'`, the integer label, which a softmax needs.
        **kwargs: mmdet's.

    Raises:
        ValueError: For an unknown target, a loss with `reduction='none'`, a softmax without `cls_target='label'`, or a
            softmax for the objectness.
    """

    def __init__(self, *args, obj_target: str = 'hard', cls_target: str = 'iou', **kwargs):
        # The arguments are mmdet's, so a type without a scope is mmdet's, whichever config file it was written in.
        with DefaultScope.overwrite_default_scope('mmdet'):
            super().__init__(*args, **kwargs)
        check_choice(self, 'bbox_head.obj_target', obj_target, OBJ_TARGETS)
        check_choice(self, 'bbox_head.cls_target', cls_target, CLS_TARGETS)
        self.obj_target = obj_target
        self.cls_target = cls_target
        self.softmax = not getattr(self.loss_cls, 'use_sigmoid', True)
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
        cls_preds = _flatten(cls_scores)
        offsets = _flatten(bbox_preds).to(priors.dtype)
        objectness = _flatten(objectnesses)
        boxes = self._bbox_decode(priors, offsets)

        ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        positive, gt_boxes, labels, ious = (
            torch.cat(parts)
            for parts in multi_apply(
                self._assign,
                [priors] * len(ignored),
                self._sigmoid_logits(cls_preds.detach(), dim=-1),
                boxes.detach(),
                objectness.detach(),
                batch_gt_instances,
                ignored,
            )
        )
        # Averaged over the ranks, as YOLOX does; mmdet: better on COCO.
        num_positive = reduce_mean(positive.sum(dtype=priors.dtype)).clamp(min=1)

        losses = dict(
            loss_cls=self._loss(
                self.loss_cls, cls_preds.flatten(0, 1)[positive], self._cls_target(labels, ious), num_positive
            ),
            loss_bbox=self._loss(
                self.loss_bbox, boxes.flatten(0, 1)[positive], gt_boxes, num_positive, **self._box_context(bbox_preds)
            ),
            loss_obj=self._loss(
                self.loss_obj, objectness.reshape(-1, 1), self._obj_target(positive, ious, objectness), num_positive
            ),
        )
        if self.use_l1:
            positive_priors = priors.repeat(len(ignored), 1)[positive]
            target = self._get_l1_target(torch.zeros_like(gt_boxes), gt_boxes, positive_priors)
            losses['loss_l1'] = self._loss(self.loss_l1, offsets.flatten(0, 1)[positive], target, num_positive)
        return losses

    @staticmethod
    def _loss(loss: nn.Module, pred: Tensor, target: Tensor, num_positive: Tensor, **context: object) -> Tensor:
        """The sum of the loss over the number of positives, by the loss's own reduction.

        mmext's losses are called without positives, too: one with a running mean waits for every rank.
        """
        if not len(pred) and not isinstance(loss, ElementwiseLoss):
            # Keeps the branch in the graph, which DDP asks of every parameter.
            return pred.sum() * 0
        if loss.reduction == 'sum':
            return loss(pred, target, **context) / num_positive
        return loss(pred, target, avg_factor=num_positive, **context)

    def _box_context(self, levels: Sequence[Tensor]) -> dict[str, object]:
        """What the box loss asks for beside the boxes: the size of the network's input, which multi-scale changes."""
        if not getattr(self.loss_bbox, 'needs_image_size', False):
            return {}
        return dict(image_size=[side * self.prior_generator.strides[0][0] for side in levels[0].shape[2:]])

    @torch.no_grad()
    def _assign(
        self,
        priors: Tensor,
        cls_preds: Tensor,
        boxes: Tensor,
        objectness: Tensor,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The positives of one image, by the assigner of `train_cfg`.

        Args:
            priors: Corner and stride of each prior, (A, 4).
            cls_preds: Class logits, (A, num_classes).
            boxes: Decoded boxes, (A, 4).
            objectness: Objectness logits, (A, 1).
            gt_instances: The ground truth of the image.
            gt_instances_ignore: Its boxes to ignore.

        Returns:
            Which priors are positive, (A,); and of the positives the box, (P, 4), the label, (P,), and the IoU with
            that box, (P,).
        """
        # YOLOX assigns by the centre of a prior and regresses from its corner. mmdet's assigner knows float32 alone.
        centres = torch.cat([priors[:, :2] + priors[:, 2:] * 0.5, priors[:, 2:]], dim=-1)
        scores = (cls_preds.float().sigmoid() * objectness.float().sigmoid()).sqrt_()
        gt_boxes, gt_labels = gt_instances.bboxes, gt_instances.labels
        result = self.assigner.assign(
            pred_instances=InstanceData(bboxes=boxes.float(), scores=scores, priors=centres.float()),
            gt_instances=InstanceData(bboxes=gt_boxes.float(), labels=gt_labels),
            gt_instances_ignore=gt_instances_ignore,
        )
        positive = result.gt_inds > 0
        gt_inds = result.gt_inds[positive] - 1
        return positive, gt_boxes[gt_inds], gt_labels[gt_inds].long(), result.max_overlaps[positive]

    def _cls_target(self, labels: Tensor, ious: Tensor) -> Tensor:
        if self.cls_target == 'label':
            return labels
        one_hot = F.one_hot(labels, self.num_classes)
        return one_hot * ious.unsqueeze(-1) if self.cls_target == 'iou' else one_hot.to(ious.dtype)

    def _obj_target(self, positive: Tensor, ious: Tensor, objectness: Tensor) -> Tensor:
        target = positive.to(objectness.dtype)
        if self.obj_target == 'iou':
            target[positive] = ious.to(target.dtype)
        return target.unsqueeze(-1)

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
        return logits.softmax(dim).logit() if self.softmax else logits

    def _priors(self, levels: Sequence[Tensor]) -> Tensor:
        """Corner and stride of each prior, (A, 4), in float32 or wider."""
        dtype = torch.promote_types(levels[0].dtype, torch.float32)
        sizes = [level.shape[2:] for level in levels]
        return torch.cat(
            self.prior_generator.grid_priors(sizes, dtype=dtype, device=levels[0].device, with_stride=True)
        )

    def _bbox_post_process(
        self, results: InstanceData, cfg, rescale: bool = False, with_nms: bool = True, img_meta: dict | None = None
    ) -> InstanceData:
        fallback = with_nms and results.bboxes.is_cuda and lacks_cuda_ops()
        results = super()._bbox_post_process(results, cfg, rescale, with_nms and not fallback, img_meta)
        return suppress(results, cfg.nms) if fallback and len(results) else results


def _flatten(levels: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W) of each level -> (B, A, C)."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
