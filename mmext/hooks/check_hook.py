"""Mistakes that training would not show until it has failed."""

from mmengine.fileio import load
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

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


@HOOKS.register_module()
class CheckHook(Hook):
    """Stop before the first iteration of a training that cannot succeed."""

    def before_train(self, runner: Runner) -> None:
        """Check the losses' reduction and the classes.

        Raises:
            ValueError: See :func:`check_reduction` and :func:`check_classes`.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_reduction(model)
        check_classes(model, runner.train_dataloader.dataset)
