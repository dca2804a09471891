"""Whether the losses, the assigner and mmcv's operators fit the heads of a model."""

from mmengine.dist import get_world_size
from torch import nn

from mmext.errors import UserError
from mmext.losses import SoftmaxFocalLoss
from mmext.losses.base import BoxLoss, SigmoidLoss


def yolox_head(model: nn.Module) -> nn.Module | None:
    """The YOLOX head of a detector, mmdet's or mmext's; None if it has another head."""
    from mmdet.models.dense_heads import YOLOXHead

    head = getattr(model, 'bbox_head', None)
    return head if isinstance(head, YOLOXHead) else None


def check_reduction(model: nn.Module) -> None:
    """Refuse a `mean` loss in mmdet's own YOLOXHead, which divides by the number of positives itself.

    Raises:
        UserError: If a loss has a reduction other than `sum`: it would be divided twice, and its branch would learn
            next to nothing.
    """
    from mmext.heads import YOLOXHead

    head = yolox_head(model)
    if head is None or isinstance(head, YOLOXHead):
        return
    for name in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'):
        if getattr(head, name).reduction != 'sum':
            raise UserError(
                f"bbox_head.{name} has reduction={getattr(head, name).reduction!r}, but mmdet's YOLOXHead divides "
                "by the number of positives itself: set reduction='sum', or bbox_head.type='mmext.YOLOXHead'"
            )


def check_assigner(model: nn.Module) -> None:
    """Refuse an assigner that takes logits in a YOLOX head, mmdet's or mmext's.

    Raises:
        UserError: See :func:`mmext.heads.yolox_head.refuse_assigner_of_logits`.
    """
    from mmext.heads.yolox_head import refuse_assigner_of_logits

    refuse_assigner_of_logits(getattr(yolox_head(model), 'assigner', None))


def check_operators(model: nn.Module) -> None:
    """Refuse a model that needs mmcv's CUDA operators on a GPU if mmcv was built without them.

    Modules of `mmcv.ops` (RoIAlign, deformable convolution) and mmdet's FocalLoss would fail in the first iteration;
    heads whose `test_cfg` asks for NMS, at the first validation. mmext's YOLOXHead has another NMS for that case.

    Raises:
        UserError: If the model needs operators that are not there.
    """
    from mmdet.models.losses import FocalLoss

    from mmext.heads import YOLOXHead
    from mmext.heads.nms import lacks_cuda_ops

    if not (_is_on_cuda(model) and lacks_cuda_ops()):
        return
    kinds = {type(module) for module in model.modules()}
    needs = sorted(kind.__name__ for kind in kinds if kind.__module__.startswith('mmcv.ops'))
    if FocalLoss in kinds:
        needs.append('sigmoid_focal_loss')
    if _asks_for_nms(getattr(model, 'test_cfg', None)) and not isinstance(getattr(model, 'bbox_head', None), YOLOXHead):
        needs.append('batched_nms')
    if needs:
        raise UserError(
            f'{type(model).__name__} is on a GPU and needs {" and ".join(needs)} of mmcv, but this mmcv was built '
            "without CUDA operators. Install the nvcc of torch's CUDA version and build mmcv again (`make ops` in a "
            'checkout of mmext), or hide the GPU with CUDA_VISIBLE_DEVICES=. mmext.YOLOXHead works without them'
        )


def _is_on_cuda(model: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in model.parameters())


def _asks_for_nms(test_cfg: object) -> bool:
    """Whether a test_cfg, or a part of it such as `rcnn`, has an NMS."""
    if not isinstance(test_cfg, dict):
        return False
    return bool(test_cfg.get('nms')) or any(map(_asks_for_nms, test_cfg.values()))


def predicts_softmax(head: nn.Module) -> bool:
    """Whether the head has a logit for the background, and predicts with a softmax."""
    # mmdet's dense heads read `use_sigmoid` from the config. A box head asks the loss, so the width of its layer is
    # checked.
    if isinstance(layer := getattr(head, 'fc_cls', None), nn.Linear):
        return layer.out_features > head.num_classes
    return not getattr(head, 'use_sigmoid_cls', True)


def has_soft_targets(head: nn.Module) -> bool:
    """Whether the class targets of one of mmdet's heads are scores in [0, 1] (IoUs or alignments), not labels."""
    from mmdet.models.dense_heads import GFLHead, RTMDetHead, TOODHead, VFNetHead

    return isinstance(head, (GFLHead, RTMDetHead, TOODHead, VFNetHead))


def check_sigmoid(name: str, head: nn.Module, loss: SigmoidLoss) -> None:
    """Check a sigmoid loss of classes or objectness.

    Warn of a loss for hard labels in one of mmdet's heads with soft targets; mmext's YOLOXHead warns by itself.

    Raises:
        UserError: If `activated` does not match the head (TOODHead gives probabilities, the others logits), or if the
            head predicts with a softmax, so that the last class would be treated as the background.
    """
    from mmdet.models.dense_heads import TOODHead

    from mmext.heads.yolox_head import warn_if_made_for_hard_targets

    kind, owner = type(loss).__name__, type(head).__name__
    probabilities = isinstance(head, TOODHead)
    if loss.activated is not probabilities:
        raise UserError(
            f'{name} ({kind}) has activated={loss.activated}, but {owner} gives it '
            f'{"probabilities" if probabilities else "logits"}: set {name}.activated={probabilities}'
        )
    if 'loss_cls' in name and predicts_softmax(head):
        by_config = hasattr(head, 'use_sigmoid_cls')
        remedy = f'set {name}.use_sigmoid=True, which the head reads' if by_config else 'use mmext.SoftmaxFocalLoss'
        raise UserError(f'{name} ({kind}) is a sigmoid loss, but {owner} predicts with a softmax: {remedy}')
    if name.endswith('.loss_cls') and has_soft_targets(head):
        warn_if_made_for_hard_targets(name, loss)


def check_softmax(name: str, head: nn.Module, loss: SoftmaxFocalLoss) -> None:
    """Check that the head has a logit for the background, and that the loss knows where.

    mmext's YOLOXHead has a softmax without a background: it checks the loss itself, and refuses a single alpha.

    Raises:
        UserError: If the targets of the head are soft, if it predicts with a sigmoid, or if a single alpha would
            weight a class as the background.
    """
    from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead

    from mmext.heads import YOLOXHead

    kind, owner = type(loss).__name__, type(head).__name__
    if isinstance(head, YOLOXHead):
        return
    if has_soft_targets(head) or not predicts_softmax(head):
        sigmoid = 'use mmext.QualityFocalLoss or mmext.VarifocalLoss, with use_sigmoid=True'
        yolox = "set model.bbox_head.type='mmext.YOLOXHead' and cls_target='label'"
        raise UserError(
            f'{name} ({kind}) is a softmax loss, but {owner} has soft targets or predicts with a sigmoid: '
            f'{yolox if isinstance(head, MMDetYOLOXHead) else sigmoid}'
        )
    if isinstance(loss.alpha, (int, float)) and loss.background_index not in (-1, head.num_classes):
        raise UserError(
            f'{name} ({kind}) has one alpha and background_index={loss.background_index}, but the background of '
            f'{owner} is the last class: set {name}.background_index=-1'
        )


def weights_all_anchors(head: nn.Module, *methods: str) -> bool:
    """Whether these methods are AnchorHead's own: it gives the loss all anchors, weighted, even without positives."""
    from mmdet.models.dense_heads import AnchorHead

    return all(getattr(type(head), method, None) is getattr(AnchorHead, method) for method in methods)


def check_boxes(name: str, head: nn.Module, loss: BoxLoss) -> None:
    """Check that the head gives a box loss boxes, and that a focus with a running mean cannot hang.

    Raises:
        UserError: If the head gives offsets, which have the shape of boxes. And if the focus is averaged over ranks,
            but the head skips the loss on a rank without positives: the other ranks would wait forever.
    """
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    from mmext.heads import YOLOXHead

    owner, world_size = type(head).__name__, get_world_size()
    by_config = isinstance(head, BBoxHead) or weights_all_anchors(head, 'loss_by_feat_single')
    if by_config and not head.reg_decoded_bbox:
        raise UserError(
            f'{name} ({type(loss).__name__}) takes boxes, but {owner} gives it offsets from its anchors or proposals: '
            f'set {name.rpartition(".")[0]}.reg_decoded_bbox=True'
        )
    focus = getattr(loss, 'focus', None)
    # Version 1 of Wise-IoU has no running mean.
    waits = world_size > 1 and getattr(focus, 'sync', False) and hasattr(focus, 'mean')
    # Other heads call the loss with positives alone, and only if there are any.
    always = isinstance(head, YOLOXHead) or weights_all_anchors(head, 'loss_by_feat', 'loss_by_feat_single')
    if waits and not always:
        raise UserError(
            f'{name}.focus has sync=True and waits for all {world_size} ranks at each call, but {owner} skips the '
            f'loss on a rank without positives, and training would hang: set {name}.focus.sync=False'
        )


def check_losses(model: nn.Module) -> None:
    """Check each loss of mmext's in any head of the model.

    Raises:
        UserError: See :func:`check_sigmoid`, :func:`check_softmax` and :func:`check_boxes`.
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
