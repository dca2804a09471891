"""Checks that YOLOX's hooks are present and that at least one checkpoint always exists."""

from collections.abc import Sequence

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from torch import nn

from .findings import Finding
from .wiring import yolox_head


def check_hooks(model: nn.Module, dataset: object, hooks: Sequence[Hook]) -> list[Finding]:
    """Check the hooks of YOLOX's training: EMAHook, SyncNormHook and YOLOXModeSwitchHook.

    A `custom_hooks` in a config replaces the list of its base, and nothing else reports that the hooks are gone.
    EMAHook is always needed; YOLOXModeSwitchHook if the data set has an augmentation of several images (Mosaic, MixUp)
    to switch off; SyncNormHook if there is more than one process, since it does nothing otherwise.

    Args:
        model: The detector.
        dataset: The training data.
        hooks: All hooks of the runner.

    Returns:
        An error for a YOLOXModeSwitchHook if the data set cannot switch off its augmentation: training would stop at
        the switch, close to its end. A warning for hooks that are missing.
    """
    from mmdet.engine.hooks import SyncNormHook, YOLOXModeSwitchHook

    if yolox_head(model) is None:
        return []
    switches = any(isinstance(hook, YOLOXModeSwitchHook) for hook in hooks)
    can_switch = hasattr(dataset, 'update_skip_type_keys')
    if switches and not can_switch:
        return [
            Finding(
                'error',
                'custom_hooks',
                f'there is a YOLOXModeSwitchHook, but {type(dataset).__name__} has no augmentation to switch off, and '
                'training would stop with an AttributeError in its last epochs',
                'Wrap the training data in a MultiImageMixDataset, or leave the hook out: custom_hooks = [hook for '
                "hook in _base_.custom_hooks if 'YOLOXModeSwitchHook' not in hook['type']]",
            )
        ]
    wanted = {EMAHook: True, SyncNormHook: get_world_size() > 1, YOLOXModeSwitchHook: can_switch}
    lost = [kind for kind, needed in wanted.items() if needed and not any(isinstance(hook, kind) for hook in hooks)]
    if not lost:
        return []
    return [
        Finding(
            'warning',
            'custom_hooks',
            f'this config trains YOLOX without {", ".join(kind.__name__ for kind in lost)}',
            'A config that sets custom_hooks replaces the list of its base: write custom_hooks = '
            "[*_base_.custom_hooks, dict(type='mmext.CheckHook')] to add to it",
        )
    ]


def check_checkpoints(hooks: Sequence[Hook]) -> list[Finding]:
    """Warn if mmengine's CheckpointHook has `max_keep_ckpts=1`: it deletes the old checkpoint first."""
    return [
        Finding(
            'warning',
            'default_hooks.checkpoint.max_keep_ckpts',
            'it is 1: the old checkpoint is deleted before the new one is written, so a run that is killed in between '
            'leaves none',
            "Set type='mmext.CheckpointHook', or max_keep_ckpts=2 or more",
        )
        for hook in hooks
        if type(hook) is CheckpointHook and hook.max_keep_ckpts == 1
    ]
