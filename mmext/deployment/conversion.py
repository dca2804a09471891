"""The config and the weights of a detector for mmdet alone."""

from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmext import registry
from mmext.errors import UserError
from mmext.heads import YOLOXHead, yolox_softmax_head
from mmext.heads.yolox_head import SATURATED_LOGIT
from mmext.heads.yolox_softmax_head import SOFTMAX_KEY
from mmext.losses import SoftmaxFocalLoss
from mmext.losses.base import BoxLoss, ElementwiseLoss

from .weights import is_loss_state

# What inference and `tools/test.py` of mmdet read; everything else is for training, or a variable of the config file.
KEPT = (
    'custom_imports',
    'default_hooks',
    'default_scope',
    'env_cfg',
    'log_level',
    'log_processor',
    'model',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'tta_model',
    'tta_pipeline',
    'visualizer',
)
# mmdet's or mmengine's type of the same use, and arguments that only mmext's takes.
REPLACEMENTS = {
    'mmext.BatchSimOTAAssigner': ('SimOTAAssigner', ('max_bytes',)),
    'mmext.CheckpointHook': ('CheckpointHook', ()),
    'mmext.DetTTAModel': ('DetTTAModel', ()),
}
# The module of the head with a softmax, which is published beside the config.
SOFTMAX_MODULE = Path(yolox_softmax_head.__file__)
# Its losses are left to mmdet's defaults: mmdet's head needs other reductions than mmext's.
OF_MMEXT_HEAD = ('obj_target', 'cls_target', 'compile', 'loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1')


def needs_softmax(model: nn.Module) -> bool:
    r"""Whether the detector has mmext's YOLOXHead with a softmax that no sigmoids equal: over three classes or more.

    A softmax over two is :math:`\sigma(z_0 - z_1)` and :math:`\sigma(z_1 - z_0)`, and over one it is 1.
    """
    return has_softmax(model) and model.bbox_head.num_classes > 2


def has_softmax(model: nn.Module) -> bool:
    """Whether the detector has mmext's YOLOXHead with a softmax."""
    head = getattr(model, 'bbox_head', None)
    return isinstance(head, YOLOXHead) and head.softmax


def convert_config(config: Config, model: nn.Module, metainfo: Mapping[str, object]) -> Config:
    """The config for inference with mmdet alone, without bases.

    mmext's losses, heads, assigner and hooks are replaced by mmdet's, or dropped. A head with a softmax that sigmoids
    cannot express becomes a `YOLOXSoftmaxHead`, whose module must be published beside the config.

    Args:
        config: The config of the training.
        model: Its detector.
        metainfo: The `classes` and perhaps the `palette` of the data.

    Raises:
        UserError: If the config names a type of mmext's that has no replacement.
    """
    head = 'YOLOXHead'
    kept = {key: config[key] for key in KEPT if config.get(key) is not None}
    if needs_softmax(model):
        head = 'YOLOXSoftmaxHead'
        custom = kept.get('custom_imports', dict(imports=[]))
        kept['custom_imports'] = {**custom, 'imports': [*custom['imports'], SOFTMAX_MODULE.stem]}
    kept['default_hooks'] = {
        name: hook for name, hook in kept.get('default_hooks', {}).items() if hook and not _is_only_mmexts(hook)
    }
    result = Config({key: _convert(value, key, None, head) for key, value in kept.items()})
    result.default_scope = 'mmdet'
    for dataset in _leaves(result.test_dataloader.dataset):
        dataset.metainfo = dict(metainfo)
    return result


def _is_only_mmexts(hook: dict) -> bool:
    """Whether a hook is one of mmext's that nothing replaces: they serve training."""
    return str(hook['type']).startswith('mmext.') and hook['type'] not in REPLACEMENTS


def _leaves(dataset: dict) -> list[dict]:
    children = [*dataset.get('datasets', ()), *([dataset.dataset] if 'dataset' in dataset else ())]
    return [leaf for child in children for leaf in _leaves(child)] or [dataset]


def _convert(node: object, place: str, scope: str | None, head: str) -> object:
    """A part of the config with mmdet's types.

    Args:
        node: The part.
        place: Where it is.
        scope: The scope of types without a prefix, which a dict gives to all below it; None: the default, mmdet.
        head: The type that replaces mmext's YOLOXHead.
    """
    if isinstance(node, (list, tuple)):
        children = (_convert(child, f'{place}[{index}]', scope, head) for index, child in enumerate(node))
        return type(node)(children)
    if not isinstance(node, dict):
        return node
    scope = node.get('_scope_', scope)
    node = {key: value for key, value in node.items() if key != '_scope_'}
    if isinstance(node.get('type'), str):
        node = _replace({**node, 'type': _full_name(node['type'], scope)}, place, head)
    return {key: _convert(value, f'{place}.{key}', scope, head) for key, value in node.items()}


def _full_name(kind: str, scope: str | None) -> str:
    """The type with the scope that it has by the dicts around it, unless that is mmdet or mmengine."""
    if '.' in kind or scope in (None, 'mmdet'):
        return kind
    if scope == 'mmext':
        return f'mmext.{kind}' if any(kind in each.module_dict for each in _registries()) else kind
    return f'{scope}.{kind}'


def _registries() -> list[registry.Registry]:
    found = [each for each in vars(registry).values() if isinstance(each, registry.Registry)]
    for each in found:
        each.import_from_location()
    return found


def _replace(node: dict, place: str, head: str) -> dict:
    """A dict with a type, with mmdet's type for mmext's."""
    kind = node['type']
    if not kind.startswith('mmext.'):
        return node
    if kind == 'mmext.YOLOXHead':
        return {**{key: value for key, value in node.items() if key not in OF_MMEXT_HEAD}, 'type': head}
    if kind in REPLACEMENTS:
        name, dropped = REPLACEMENTS[kind]
        return {**{key: value for key, value in node.items() if key not in dropped}, 'type': name}
    loss = registry.MODELS.module_dict.get(kind.removeprefix('mmext.'), type(None))
    if issubclass(loss, BoxLoss):
        return dict(type='GIoULoss', loss_weight=node.get('loss_weight', 1.0))
    if issubclass(loss, ElementwiseLoss):
        # mmdet's heads read from the config whether to predict with a softmax.
        sigmoid = node.get('use_sigmoid', not issubclass(loss, SoftmaxFocalLoss))
        return dict(type='CrossEntropyLoss', use_sigmoid=sigmoid, loss_weight=node.get('loss_weight', 1.0))
    raise UserError(
        f'{place}.type is {kind}, for which publish knows no type of mmdet with the same predictions: it replaces '
        "mmext's YOLOXHead, assigner, losses, hooks and test-time augmentation"
    )


def convert_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights for the converted config, as contiguous tensors.

    The state of losses is left out. A softmax over one or two classes becomes part of the layers before it; batch norms
    stay as they are, since the keys would no longer be those of mmdet's layers.

    Args:
        weights: The weights of the model.
        model: The detector of the training.
    """
    kept = {key: value.detach().contiguous() for key, value in weights.items() if not is_loss_state(key)}
    mark = f'bbox_head.{SOFTMAX_KEY}'
    if needs_softmax(model):
        # Checkpoints of before the key lack it.
        return {**kept, mark: model.state_dict()[mark]}
    kept.pop(mark, None)
    if has_softmax(model):
        for key, value in kept.items():
            if key.startswith('bbox_head.multi_level_conv_cls.'):
                kept[key] = _sigmoid_layer(value, key)
    return kept


def _sigmoid_layer(value: Tensor, key: str) -> Tensor:
    """The weight or bias of a layer whose sigmoid is the softmax of the given layer, with one or two classes."""
    if len(value) == 2:
        return value - value.flip(0)
    return torch.full_like(value, SATURATED_LOGIT if key.endswith('bias') else 0)
