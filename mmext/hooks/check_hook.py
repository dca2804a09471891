"""Mistakes that training would not show until it has failed."""

import logging

from mmengine.dist import get_world_size
from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmext.losses import SoftmaxFocalLoss
from mmext.losses.base import BoxLoss, SigmoidLoss
from mmext.registry import HOOKS


def yolox_head(model: nn.Module) -> nn.Module | None:
    """The YOLOX head of a detector, mmdet's or mmext's; None where it has another."""
    from mmdet.models.dense_heads import YOLOXHead

    head = getattr(model, 'bbox_head', None)
    return head if isinstance(head, YOLOXHead) else None


def check_reduction(model: nn.Module) -> None:
    """Refuse a `mean` loss in mmdet's own YOLOXHead, which divides by the number of positives itself.

    Raises:
        ValueError: With it the loss would be divided twice, and its branch would all but stop to learn.
    """
    from mmext.heads import YOLOXHead

    head = yolox_head(model)
    if head is None or isinstance(head, YOLOXHead):
        return
    for name in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'):
        if getattr(head, name).reduction != 'sum':
            raise ValueError(
                f"bbox_head.{name} has reduction={getattr(head, name).reduction!r}, but mmdet's YOLOXHead divides "
                "by the number of positives itself: set reduction='sum', or bbox_head.type='mmext.YOLOXHead'"
            )


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a head and a data set that disagree on the classes.

    Raises:
        ValueError: Where the number of classes differs, or an annotation file knows a class by another name: mmdet
            drops its boxes without a word, and losses of 0 are all that shows.
    """
    head = yolox_head(model)
    classes = getattr(dataset, 'metainfo', {}).get('classes', ())
    if head is None or not classes:
        return
    if head.num_classes != len(classes):
        raise ValueError(
            f'model.bbox_head.num_classes is {head.num_classes}, but the data set has {len(classes)} classes, '
            f'{tuple(classes)}: set model.bbox_head.num_classes={len(classes)}, or the metainfo of the data set'
        )
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    # mmdet's CocoDataset keeps the ids of the classes that it found.
    if len(getattr(dataset, 'cat_ids', classes)) < len(classes):
        known = [category['name'] for category in load(dataset.ann_file)['categories']]
        missing = [name for name in classes if name not in known]
        raise ValueError(
            f'the annotation file {dataset.ann_file} has no class {", ".join(map(repr, missing))}; it has '
            f'{known}: set dataset.metainfo=dict(classes=...) to its names'
        )


def predicts_softmax(head: nn.Module) -> bool:
    """Whether the head has a logit for the background, and predicts with a softmax."""
    # A dense head decides by `use_sigmoid` in the config, others by what the loss says; there the layer's width tells.
    if isinstance(layer := getattr(head, 'fc_cls', None), nn.Linear):
        return layer.out_features > head.num_classes
    return not getattr(head, 'use_sigmoid_cls', True)


def has_soft_targets(head: nn.Module) -> bool:
    """Whether the head, one of mmdet's, teaches scores: IoUs or alignments, and no labels alone."""
    from mmdet.models.dense_heads import GFLHead, RTMDetHead, TOODHead, VFNetHead

    return isinstance(head, (GFLHead, RTMDetHead, TOODHead, VFNetHead))


def check_sigmoid(name: str, head: nn.Module, loss: SigmoidLoss) -> None:
    """Refuse a loss of logits for probabilities, or the other way round, and a sigmoid where a softmax predicts.

    Warn of a loss made for labels in a head that teaches scores, as mmext's YOLOXHead does.

    Raises:
        ValueError: Where `activated` is not what the head gives: TOODHead probabilities, the others logits. And where
            the head predicts with a softmax: training would run, but the last class would count as background.
    """
    from mmdet.models.dense_heads import TOODHead

    kind, owner = type(loss).__name__, type(head).__name__
    probabilities = isinstance(head, TOODHead)
    if loss.activated is not probabilities:
        raise ValueError(
            f'{name} ({kind}) has activated={loss.activated}, but {owner} gives it '
            f'{"probabilities" if probabilities else "logits"}: set {name}.activated={probabilities}'
        )
    if 'loss_cls' in name and predicts_softmax(head):
        by_config = hasattr(head, 'use_sigmoid_cls')
        remedy = f'set {name}.use_sigmoid=True, which the head reads' if by_config else 'use mmext.SoftmaxFocalLoss'
        raise ValueError(f'{name} ({kind}) is a sigmoid, but {owner} predicts with a softmax: {remedy}')
    if name.endswith('.loss_cls') and has_soft_targets(head) and not loss.soft_target:
        print_log(
            f'{name} ({kind}) has its minimum in the wrong place for the soft targets of {owner}: use '
            'mmext.QualityFocalLoss or mmext.VarifocalLoss',
            logger='current',
            level=logging.WARNING,
        )


def check_softmax(name: str, head: nn.Module, loss: SoftmaxFocalLoss) -> None:
    """Refuse a softmax in a head that has no logit for the background, or has it in another place.

    mmext's YOLOXHead alone has a softmax without a background, and checks it itself.

    Raises:
        ValueError: Where the head's targets are soft, where it predicts with a sigmoid, or where a single alpha would
            take a class for the background.
    """
    from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead

    from mmext.heads import YOLOXHead

    kind, owner = type(loss).__name__, type(head).__name__
    if isinstance(head, YOLOXHead):
        return
    if has_soft_targets(head) or not predicts_softmax(head):
        sigmoid = 'use mmext.QualityFocalLoss or mmext.VarifocalLoss, with use_sigmoid=True'
        yolox = "set model.bbox_head.type='mmext.YOLOXHead' and cls_target='label'"
        raise ValueError(
            f'{name} ({kind}) is a softmax, but {owner} has soft targets or predicts with a sigmoid: '
            f'{yolox if isinstance(head, MMDetYOLOXHead) else sigmoid}'
        )
    if isinstance(loss.alpha, (int, float)) and loss.background_index not in (-1, head.num_classes):
        raise ValueError(
            f'{name} ({kind}) has one alpha and background_index={loss.background_index}, but the background of '
            f'{owner} is the last class: set {name}.background_index=-1'
        )


def weighs_all_anchors(head: nn.Module, *methods: str) -> bool:
    """Whether these methods of the head are AnchorHead's, which weighs all anchors, with positives and without."""
    from mmdet.models.dense_heads import AnchorHead

    return all(getattr(type(head), method, None) is getattr(AnchorHead, method) for method in methods)


def check_boxes(name: str, head: nn.Module, loss: BoxLoss) -> None:
    """Refuse offsets where the loss takes boxes, and a focus that waits for ranks that skip the loss.

    Raises:
        ValueError: Where the head gives offsets: they have the shape of boxes, and nothing else would tell. And where
            the training would hang.
    """
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    from mmext.heads import YOLOXHead

    owner, world_size = type(head).__name__, get_world_size()
    by_config = isinstance(head, BBoxHead) or weighs_all_anchors(head, 'loss_by_feat_single')
    if by_config and not head.reg_decoded_bbox:
        raise ValueError(
            f'{name} ({type(loss).__name__}) takes boxes, but {owner} gives it offsets from its anchors or proposals: '
            f'set {name.rpartition(".")[0]}.reg_decoded_bbox=True'
        )
    focus = getattr(loss, 'focus', None)
    # Without a running mean, as in version 1 of Wise-IoU, there is nothing to wait for.
    waits = world_size > 1 and getattr(focus, 'sync', False) and hasattr(focus, 'mean')
    # Other heads give the loss their positives alone, where there are any.
    always = isinstance(head, YOLOXHead) or weighs_all_anchors(head, 'loss_by_feat', 'loss_by_feat_single')
    if waits and not always:
        raise ValueError(
            f'{name}.focus has sync=True and waits for all {world_size} ranks at each call, but {owner} may skip the '
            f'loss where there are no positives: set {name}.focus.sync=False'
        )


def check_losses(model: nn.Module) -> None:
    """Refuse a loss of mmext's in a head that it does not fit, in any head of the model.

    Raises:
        ValueError: See :func:`check_sigmoid`, :func:`check_softmax` and :func:`check_boxes`.
    """
    for path, head in model.named_modules():
        if not (hasattr(head, 'loss_cls') or hasattr(head, 'loss_bbox')):
            continue
        for child, loss in head.named_children():
            name = f'model.{path}.{child}'
            if isinstance(loss, SigmoidLoss):
                check_sigmoid(name, head, loss)
            elif isinstance(loss, SoftmaxFocalLoss):
                check_softmax(name, head, loss)
            elif isinstance(loss, BoxLoss):
                check_boxes(name, head, loss)


@HOOKS.register_module()
class CheckHook(Hook):
    """Stop before the first iteration of a training that cannot succeed."""

    def before_train(self, runner: Runner) -> None:
        """Check the losses' reduction, the losses' heads and the classes.

        Raises:
            ValueError: See :func:`check_reduction`, :func:`check_losses` and :func:`check_classes`.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_reduction(model)
        check_losses(model)
        check_classes(model, runner.train_dataloader.dataset)
