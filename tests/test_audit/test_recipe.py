"""YOLOX's hooks must be present, and at least one checkpoint must always exist."""

from types import SimpleNamespace

import pytest
from mmdet.engine.hooks import SyncNormHook, YOLOXModeSwitchHook
from mmdet.registry import MODELS
from mmengine.hooks import CheckpointHook, EMAHook
from torch import nn

from mmext.audit import check_checkpoints, check_hooks, recipe
from mmext.hooks import CheckHook
from mmext.hooks import CheckpointHook as SafeCheckpointHook

MOSAIC = SimpleNamespace(update_skip_type_keys=None)
PLAIN = SimpleNamespace()
ALL = [EMAHook, SyncNormHook, YOLOXModeSwitchHook]


def check(dataset, kinds, kind='mmext.YOLOXHead'):
    head = MODELS.build(dict(type=kind, num_classes=3, in_channels=8, feat_channels=8))
    return check_hooks(nn.ModuleDict({'bbox_head': head}), dataset, [CheckHook(), *(each() for each in kinds)])


@pytest.mark.parametrize('kind', ['mmext.YOLOXHead', 'mmdet.YOLOXHead'])
def test_warns_of_a_list_that_replaces_the_hooks_of_the_base(kind):
    (finding,) = check(MOSAIC, [], kind)
    assert (finding.level, finding.key) == ('warning', 'custom_hooks')
    assert finding.message.endswith('without EMAHook, YOLOXModeSwitchHook')
    assert "custom_hooks = [*_base_.custom_hooks, dict(type='mmext.CheckHook')]" in finding.remedy


@pytest.mark.parametrize(
    'dataset, kinds, world_size, lost',
    [
        (MOSAIC, ALL, 2, None),
        (MOSAIC, ALL[:2], 1, 'YOLOXModeSwitchHook'),
        (MOSAIC, ALL[1:], 1, 'EMAHook'),
        # It averages over processes.
        (MOSAIC, [EMAHook, YOLOXModeSwitchHook], 1, None),
        (MOSAIC, [EMAHook, YOLOXModeSwitchHook], 2, 'SyncNormHook'),
        # There is nothing to switch off.
        (PLAIN, ALL[:2], 2, None),
        (PLAIN, [], 1, 'EMAHook'),
        (PLAIN, [], 2, 'EMAHook, SyncNormHook'),
    ],
)
def test_warns_of_each_hook_that_is_lost(dataset, kinds, world_size, lost, monkeypatch):
    monkeypatch.setattr(recipe, 'get_world_size', lambda: world_size)
    messages = [finding.message for finding in check(dataset, kinds)]
    assert [message.endswith(f'without {lost}') for message in messages] == ([True] if lost else [])


def test_refuses_a_switch_without_a_data_set_to_switch():
    """mmdet's hook would raise an AttributeError at the switch, in the last epochs."""
    (finding,) = check(PLAIN, ALL)
    assert finding.level == 'error'
    assert 'SimpleNamespace has no augmentation to switch off' in finding.message
    assert 'MultiImageMixDataset' in finding.remedy


def test_other_heads_have_a_recipe_of_their_own():
    assert not check_hooks(nn.ModuleDict({'bbox_head': nn.Identity()}), PLAIN, [YOLOXModeSwitchHook()])


@pytest.mark.parametrize('number, warns', [(1, True), (2, False), (-1, False)])
def test_warns_of_a_single_checkpoint(number, warns):
    found = check_checkpoints([CheckHook(), CheckpointHook(max_keep_ckpts=number)])
    assert [(each.level, "Set type='mmext.CheckpointHook'" in each.remedy) for each in found] == [
        ('warning', True)
    ] * warns


def test_one_checkpoint_is_enough_for_the_hook_that_deletes_last():
    assert not check_checkpoints([SafeCheckpointHook(max_keep_ckpts=1)])
