"""Checks that the losses, the assigner and mmcv's operators fit the heads of a model."""

from mmengine.dist import get_world_size
from torch import nn

from mmext.losses import SoftmaxFocalLoss
from mmext.losses.base import BoxLoss, SigmoidLoss

from .findings import Finding
from .projects import adapted, check_project_head, project_head


def check_wiring(model: nn.Module) -> list[Finding]:
    """All checks of this module."""
    return [*check_reduction(model), *check_losses(model), *check_assigner(model), *check_operators(model)]


def yolox_head(model: nn.Module) -> nn.Module | None:
    """The YOLOX head of a detector, mmdet's or mmext's; None if it has another head."""
    from mmdet.models.dense_heads import YOLOXHead

    head = getattr(model, 'bbox_head', None)
    return head if isinstance(head, YOLOXHead) else None


def check_reduction(model: nn.Module) -> list[Finding]:
    """Refuse a `mean` loss in mmdet's own YOLOXHead, which divides by the number of positives itself.

    The loss would be divided twice, and its branch would learn next to nothing.
    """
    from mmext.heads import YOLOXHead

    head = yolox_head(model)
    if head is None or isinstance(head, YOLOXHead):
        return []
    reductions = {name: getattr(head, name).reduction for name in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1')}
    return [
        Finding(
            'error',
            f'model.bbox_head.{name}.reduction',
            f"it is {reduction!r}, but mmdet's YOLOXHead divides by the number of positives itself: the loss is "
            'divided twice and becomes negligible',
            "Set reduction='sum', or model.bbox_head.type='mmext.YOLOXHead'",
        )
        for name, reduction in reductions.items()
        if reduction != 'sum'
    ]


def check_assigner(model: nn.Module) -> list[Finding]:
    """Refuse an assigner that takes logits in a YOLOX head, mmdet's or mmext's."""
    from mmext.heads.yolox_head import refuse_assigner_of_logits

    try:
        refuse_assigner_of_logits(getattr(yolox_head(model), 'assigner', None))
    except ValueError as error:
        return [Finding.of_error('model.train_cfg.assigner', error)]
    return []


def check_operators(model: nn.Module) -> list[Finding]:
    """Refuse a model that needs mmcv's CUDA operators on a GPU if mmcv was built without them.

    Modules of `mmcv.ops` (RoIAlign, deformable convolution) and mmdet's FocalLoss would fail in the first iteration;
    heads whose `test_cfg` asks for NMS, at the first validation. mmext's YOLOXHead has another NMS for that case.
    """
    from mmdet.models.losses import FocalLoss

    from mmext.heads import YOLOXHead
    from mmext.heads.nms import lacks_cuda_ops

    if not (_is_on_cuda(model) and lacks_cuda_ops()):
        return []
    kinds = {type(module) for module in model.modules()}
    needs = sorted(kind.__name__ for kind in kinds if kind.__module__.startswith('mmcv.ops'))
    if FocalLoss in kinds:
        needs.append('sigmoid_focal_loss')
    if _asks_for_nms(getattr(model, 'test_cfg', None)) and not isinstance(getattr(model, 'bbox_head', None), YOLOXHead):
        needs.append('batched_nms')
    if not needs:
        return []
    return [
        Finding(
            'error',
            'model',
            f'{type(model).__name__} is on a GPU and needs {" and ".join(needs)} of mmcv, but this mmcv was built '
            'without CUDA operators',
            "Install the nvcc of torch's CUDA version and build mmcv again (`make ops` in a checkout of mmext), or "
            'hide the GPU with CUDA_VISIBLE_DEVICES=. mmext.YOLOXHead works without them',
        )
    ]


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


def soft_targets(head: nn.Module) -> dict[str, str]:
    """The losses of a head whose targets are scores in [0, 1] (IoUs or alignments), each with the start of a remedy.

    That is the setting of the head, if there is one, that makes the targets hard.
    """
    from mmdet.models.dense_heads import GFLHead, RTMDetHead, TOODHead, VFNetHead
    from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead

    from mmext.heads import YOLOXHead

    if known := project_head(head):
        return dict.fromkeys(known.soft, 'Instead ')
    if isinstance(head, YOLOXHead):
        parts = [part for part in ('cls', 'obj') if getattr(head, f'{part}_target') == 'iou']
        return {f'loss_{part}': f"Set model.bbox_head.{part}_target='hard', or " for part in parts}
    if isinstance(head, MMDetYOLOXHead):
        return {'loss_cls': "Set model.bbox_head.type='mmext.YOLOXHead' and cls_target='hard', or "}
    return {'loss_cls': 'Instead '} if isinstance(head, (GFLHead, RTMDetHead, TOODHead, VFNetHead)) else {}


def is_for_hard_targets(loss: nn.Module) -> bool:
    """Whether a sigmoid loss has its minimum in the wrong place for targets between 0 and 1."""
    from mmdet.models.losses import FocalLoss

    return isinstance(loss, FocalLoss) or (isinstance(loss, SigmoidLoss) and not loss.soft_target)


def check_targets(path: str, head: nn.Module) -> list[Finding]:
    """Warn of a loss for hard targets, such as focal loss, that is given soft ones."""
    return [
        Finding(
            'warning',
            f'{path}.{name}',
            f'{type(loss).__name__} has its minimum in the wrong place for the soft targets, such as '
            f'IoUs, that {type(head).__name__} gives it',
            f'{remedy}use mmext.QualityFocalLoss or mmext.VarifocalLoss',
        )
        for name, remedy in soft_targets(head).items()
        if is_for_hard_targets(loss := adapted(name, getattr(head, name, None))[1])
    ]


def check_sigmoid(name: str, head: nn.Module, loss: SigmoidLoss) -> list[Finding]:
    """Refuse a sigmoid loss of classes or objectness that does not match the head.

    `activated` must say what the head gives (TOODHead probabilities, the others logits); and a head that predicts with
    a softmax would treat the last class as the background.
    """
    from mmdet.models.dense_heads import TOODHead

    kind, owner = type(loss).__name__, type(head).__name__
    probabilities = isinstance(head, TOODHead)
    if loss.activated is not probabilities:
        return [
            Finding(
                'error',
                f'{name}.activated',
                f'it is {loss.activated} ({kind}), but {owner} gives the loss '
                f'{"probabilities" if probabilities else "logits"}',
                f'Set {name}.activated={probabilities}',
            )
        ]
    if 'loss_cls' in name and predicts_softmax(head):
        by_config = hasattr(head, 'use_sigmoid_cls')
        remedy = f'Set {name}.use_sigmoid=True, which the head reads' if by_config else 'Use mmext.SoftmaxFocalLoss'
        return [Finding('error', name, f'{kind} is a sigmoid loss, but {owner} predicts with a softmax', remedy)]
    return []


def check_softmax(name: str, head: nn.Module, loss: SoftmaxFocalLoss) -> list[Finding]:
    """Check that the head has a logit for the background, and that the loss knows where.

    Refused are a head with soft targets, a head that predicts with a sigmoid, and a single alpha that would weight a
    class as the background. mmext's YOLOXHead has a softmax without a background: it checks the loss itself.
    """
    from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead

    from mmext.heads import YOLOXHead

    kind, owner = type(loss).__name__, type(head).__name__
    if isinstance(head, YOLOXHead):
        return []
    if soft_targets(head) or not predicts_softmax(head):
        sigmoid = 'Use mmext.QualityFocalLoss or mmext.VarifocalLoss, with use_sigmoid=True'
        yolox = "Set model.bbox_head.type='mmext.YOLOXHead' and cls_target='label'"
        return [
            Finding(
                'error',
                name,
                f'{kind} is a softmax loss, but {owner} has soft targets or predicts with a sigmoid',
                yolox if isinstance(head, MMDetYOLOXHead) else sigmoid,
            )
        ]
    if isinstance(loss.alpha, (int, float)) and loss.background_index not in (-1, head.num_classes):
        return [
            Finding(
                'error',
                f'{name}.background_index',
                f'it is {loss.background_index} beside a single alpha ({kind}), but the background of {owner} is the '
                'last class',
                f'Set {name}.background_index=-1',
            )
        ]
    return []


def weights_all_anchors(head: nn.Module, *methods: str) -> bool:
    """Whether these methods are AnchorHead's own: it gives the loss all anchors, weighted, even without positives."""
    from mmdet.models.dense_heads import AnchorHead

    return all(getattr(type(head), method, None) is getattr(AnchorHead, method) for method in methods)


def check_boxes(name: str, head: nn.Module, loss: BoxLoss) -> list[Finding]:
    """Check that the head gives a box loss boxes, and that a focus with a running mean cannot hang.

    Refused are a head that gives offsets, which have the shape of boxes; and a focus that is averaged over the ranks
    if the head skips the loss on a rank without positives: the other ranks would wait forever.
    """
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    from mmext.heads import YOLOXHead

    found, owner, world_size = [], type(head).__name__, get_world_size()
    by_config = isinstance(head, BBoxHead) or weights_all_anchors(head, 'loss_by_feat_single')
    if by_config and not head.reg_decoded_bbox:
        setting = f'{name.rpartition(".")[0]}.reg_decoded_bbox'
        message = f'{type(loss).__name__} takes boxes, but {owner} gives it offsets from its anchors or proposals'
        found.append(Finding('error', name, message, f'Set {setting}=True'))
    focus = getattr(loss, 'focus', None)
    # Version 1 of Wise-IoU has no running mean.
    waits = world_size > 1 and getattr(focus, 'sync', False) and hasattr(focus, 'mean')
    # Other heads call the loss with positives alone, and only if there are any.
    always = isinstance(head, YOLOXHead) or weights_all_anchors(head, 'loss_by_feat', 'loss_by_feat_single')
    if waits and not always:
        found.append(
            Finding(
                'error',
                f'{name}.focus.sync',
                f'it is True, and the focus waits for all {world_size} ranks at each call, but {owner} skips the loss '
                'on a rank without positives: training would hang',
                f'Set {name}.focus.sync=False',
            )
        )
    return found


def check_losses(model: nn.Module) -> list[Finding]:
    """Check the losses in any head of the model: mmext's own, and focal losses with soft targets."""
    found = []
    for path, head in model.named_modules():
        if not (hasattr(head, 'loss_cls') or hasattr(head, 'loss_bbox')):
            continue
        found += check_targets(f'model.{path}', head)
        found += check_project_head(f'model.{path}', head)
        for child, loss in head.named_children():
            name, loss = adapted(f'model.{path}.{child}', loss)
            if isinstance(loss, SigmoidLoss):
                found += check_sigmoid(name, head, loss)
            elif isinstance(loss, SoftmaxFocalLoss):
                found += check_softmax(name, head, loss)
            elif isinstance(loss, BoxLoss):
                found += check_boxes(name, head, loss)
    return found
