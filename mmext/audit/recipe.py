"""Checks that YOLOX's hooks are present and that at least one checkpoint always exists."""

import logging
from collections.abc import Sequence

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from torch import nn

from mmext.errors import UserError

from .wiring import yolox_head


def check_hooks(model: nn.Module, dataset: object, hooks: Sequence[Hook]) -> None:
    """Check the hooks of YOLOX's training: EMAHook, SyncNormHook and YOLOXModeSwitchHook.

    A `custom_hooks` in a config replaces the list of its base, and nothing else reports that the hooks are gone. The
    check warns about a missing EMAHook; about a missing YOLOXModeSwitchHook if the data set has an augmentation of
    several images (Mosaic, MixUp) to switch off; and about a missing SyncNormHook if there is more than one process,
    since it does nothing otherwise.

    Args:
        model: The detector.
        dataset: The training data.
        hooks: All hooks of the runner.

    Raises:
        UserError: If there is a YOLOXModeSwitchHook, but the data set cannot switch off its augmentation: training
            would stop at the switch, close to its end.
    """
    from mmdet.engine.hooks import SyncNormHook, YOLOXModeSwitchHook

    if yolox_head(model) is None:
        return
    switches = any(isinstance(hook, YOLOXModeSwitchHook) for hook in hooks)
    can_switch = hasattr(dataset, 'update_skip_type_keys')
    if switches and not can_switch:
        raise UserError(
            f'custom_hooks has a YOLOXModeSwitchHook, but {type(dataset).__name__} has no augmentation to switch off, '
            'and training would stop with an AttributeError in its last epochs: wrap the training data in a '
            'MultiImageMixDataset, or leave the hook out, custom_hooks = [hook for hook in _base_.custom_hooks if '
            "'YOLOXModeSwitchHook' not in hook['type']]"
        )
    wanted = {EMAHook: True, SyncNormHook: get_world_size() > 1, YOLOXModeSwitchHook: can_switch}
    lost = [kind for kind, needed in wanted.items() if needed and not any(isinstance(hook, kind) for hook in hooks)]
    if lost:
        names = ', '.join(kind.__name__ for kind in lost)
        print_log(
            f'This config trains YOLOX without {names}. A config that sets custom_hooks replaces the list of its base: '
            "write custom_hooks = [*_base_.custom_hooks, dict(type='mmext.CheckHook')] to add to it",
            logger='current',
            level=logging.WARNING,
        )


def check_checkpoints(hooks: Sequence[Hook]) -> None:
    """Warn if mmengine's CheckpointHook has `max_keep_ckpts=1`: it deletes the old checkpoint first."""
    for hook in hooks:
        if type(hook) is CheckpointHook and hook.max_keep_ckpts == 1:
            print_log(
                'default_hooks.checkpoint has max_keep_ckpts=1: the old checkpoint is deleted before the new one is '
                "written, so a run that is killed in between leaves none. Set type='mmext.CheckpointHook', or "
                'max_keep_ckpts=2 or more',
                logger='current',
                level=logging.WARNING,
            )
