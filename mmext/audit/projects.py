"""What the heads of mmyolo and mmpose give their losses, and the check that these fit.

The heads are known by their class's name and module, since neither project needs to be installed.
"""

from dataclasses import dataclass, field

from torch import nn

from mmext.adapters import YOLOv5BoxLoss, YOLOv5ObjectnessLoss
from mmext.adapters.base import LossAdapter
from mmext.losses.base import BoxLoss, SigmoidLoss

from .findings import Finding


@dataclass(frozen=True)
class ProjectHead:
    """What a head gives its losses.

    Attributes:
        reductions: The reductions that each loss may have. Where the head divides by itself, this is `'sum'`.
        soft: The losses whose targets are scores, such as IoUs.
        in_pixels: Whether the boxes are in pixels. The others are in units of the stride.
        adapters: The adapter that a loss of mmext needs: `loss_bbox` always, `loss_obj` if it has a value per row.
    """

    reductions: dict[str, tuple[str, ...]]
    soft: tuple[str, ...] = ('loss_cls',)
    in_pixels: bool = True
    adapters: dict[str, type[LossAdapter]] = field(default_factory=dict)


_SUM = dict.fromkeys(('loss_cls', 'loss_bbox', 'loss_obj', 'loss_bbox_aux'), ('sum',))
_MEAN = dict.fromkeys(('loss_cls', 'loss_bbox', 'loss_obj'), ('mean',))
_SUM_AND_MEAN = {'loss_cls': ('sum',), 'loss_bbox': ('mean',)}
_YOLOV5 = ProjectHead(
    _MEAN,
    soft=('loss_obj',),
    in_pixels=False,
    adapters={'loss_bbox': YOLOv5BoxLoss, 'loss_obj': YOLOv5ObjectnessLoss},
)
HEADS = {
    'mmpose.RTMOHead': ProjectHead(_SUM),
    'mmpose.YOLOXPoseHead': ProjectHead(_SUM),
    'mmyolo.YOLOXHead': ProjectHead(_SUM),
    'mmyolo.YOLOv5Head': _YOLOV5,
    'mmyolo.YOLOv7Head': _YOLOV5,
    'mmyolo.YOLOv6Head': ProjectHead(_SUM_AND_MEAN, in_pixels=False),
    'mmyolo.YOLOv8Head': ProjectHead({'loss_cls': ('sum', 'none'), 'loss_bbox': ('sum',)}, in_pixels=False),
    'mmyolo.PPYOLOEHead': ProjectHead(_SUM_AND_MEAN, in_pixels=False),
    'mmyolo.RTMDetHead': ProjectHead(_MEAN),
}


def project_head(head: nn.Module) -> ProjectHead | None:
    """What is known of the class of the head, or of the nearest class that it extends; None: nothing."""
    names = (f'{kind.__module__.split(".")[0]}.{kind.__name__}' for kind in type(head).__mro__)
    return next((HEADS[name] for name in names if name in HEADS), None)


def adapted(name: str, loss: nn.Module) -> tuple[str, nn.Module]:
    """The key and the loss that an adapter holds; key and loss unchanged if it is none."""
    return (f'{name}.loss', loss.loss) if isinstance(loss, LossAdapter) else (name, loss)


def check_project_head(path: str, head: nn.Module) -> list[Finding]:
    """Check the losses of a head: the adapters, and if it is known the reductions and the unit of the boxes."""
    known = project_head(head)
    found = [
        finding
        for name, loss in head.named_children()
        if isinstance(loss, (SigmoidLoss, BoxLoss, LossAdapter))
        for finding in _check_adapter(f'{path}.{name}', head, loss, known and known.adapters.get(name))
    ]
    for name, allowed in (known.reductions if known else {}).items():
        found += _check_reduction(*adapted(f'{path}.{name}', getattr(head, name, None)), head, allowed)
    if known and not known.in_pixels:
        found += _check_unit(f'{path}.loss_bbox', head)
    return found


def _check_adapter(name: str, head: nn.Module, loss: nn.Module, needed: type[LossAdapter] | None) -> list[Finding]:
    """Refuse a loss without the adapter that it needs, and an adapter in a head that needs another or none."""
    kind, owner = type(loss).__name__, type(head).__name__
    if isinstance(loss, (YOLOv5BoxLoss, YOLOv5ObjectnessLoss)) and not isinstance(loss, needed or ()):
        message = f"{kind} is for mmyolo's YOLOv5Head and YOLOv7Head, but is in {owner}"
        return [Finding('error', name, message, f'Set {name} to its loss, {type(loss.loss).__name__}')]
    if isinstance(loss, LossAdapter) or needed is None or not loss.per_row:
        return []
    what = {
        YOLOv5BoxLoss: 'gives it boxes (x, y, w, h) and takes the overlaps beside the loss',
        YOLOv5ObjectnessLoss: 'gives it (B, anchors, H, W), of which it would sum over the width',
    }[needed]
    wrapped = f"type='mmext.{needed.__name__}', loss=dict(type='mmext.{kind}', ...)"
    return [Finding('error', name, f'{kind} is without an adapter, but {owner} {what}', f'Set {name}=dict({wrapped})')]


def _check_reduction(name: str, loss: nn.Module | None, head: nn.Module, allowed: tuple[str, ...]) -> list[Finding]:
    """Refuse another reduction than the head expects."""
    reduction = getattr(loss, 'reduction', None)
    if reduction is None or reduction in allowed:
        return []
    owner = type(head).__name__
    if 'sum' in allowed and reduction == 'mean':
        why = f'{owner} divides by itself: the loss is divided twice and becomes negligible'
    else:
        why = f'{owner} expects {" or ".join(map(repr, allowed))}'
    message = f'it is {reduction!r}, but {why}'
    return [Finding('error', f'{name}.reduction', message, f'Set {name}.reduction={allowed[0]!r}')]


def _check_unit(name: str, head: nn.Module) -> list[Finding]:
    """Refuse a box loss with a length as parameter in a head that gives boxes in units of the stride."""
    name, loss = adapted(name, head.loss_bbox)
    if not isinstance(loss, BoxLoss) or loss.scale_invariant:
        return []
    owner = type(head).__name__
    message = (
        f'{type(loss).__name__} has a length as parameter, but {owner} gives it boxes in units of the stride, so that '
        'it means another length at each level'
    )
    return [Finding('error', name, message, "Use mmext.IoULoss with another variant than 'mpdiou'")]
