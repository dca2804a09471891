"""The conditions of a comparison, which are checked before anything trains."""

import json

import pytest
from mmengine.config import Config

from mmext.comparison.conditions import (
    apply_options,
    check_equal_conditions,
    check_name,
    check_unchanged,
    coco_leaf,
    config_hash,
)

BASE = {
    'model': {'loss': {'type': 'IoULoss', 'mode': 'square'}, 'depth': 1},
    'train_dataloader': {'batch_size': 4, 'dataset': {'type': 'CocoDataset', 'ann_file': 'a.json'}},
    'val_dataloader': {'dataset': {'type': 'CocoDataset', 'ann_file': 'b.json'}},
    'train_cfg': {'max_epochs': 2},
    'param_scheduler': [{'type': 'LR', 'end': 2}],
}


def config(**changes):
    made = Config(json.loads(json.dumps(BASE)))
    made.merge_from_dict(changes)
    return made


@pytest.mark.parametrize(
    'options, message',
    [
        ({'modle.depth': 2}, "no 'modle'.*did you mean model"),
        ({'xyz.depth': 2}, "no 'xyz'.*it has model, train_dataloader"),
        ({'model.depth': 1}, 'model.depth=1 changes nothing'),
        ({'model.depth': 2, 'model.loss.mode': 'square'}, 'model.loss.mode=square changes nothing'),
    ],
)
def test_refuses_an_option_that_does_nothing(options, message):
    with pytest.raises(ValueError, match=f'--variant mine: .*{message}'):
        apply_options(config(), options, '--variant mine')


def test_refuses_a_variable_of_the_file_but_not_what_is_only_logged():
    made = config(max_epochs=2, default_hooks={'logger': {'interval': 50}})
    with pytest.raises(ValueError, match=r'max_epochs=3 changes nothing that is trained.*train_cfg\.max_epochs'):
        apply_options(made, {'max_epochs': 3}, '--cfg-options', ('default_hooks',))
    apply_options(made, {'default_hooks.logger.interval': 5}, '--cfg-options', ('default_hooks',))
    assert made.default_hooks.logger.interval == 5


def test_options_replace_a_dict_as_a_whole():
    made = config()
    apply_options(made, {'model.loss._delete_': True, 'model.loss.type': 'mmext.IoULoss'}, '--variant mine')
    assert made.model.loss == {'type': 'mmext.IoULoss'}


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'train_dataloader.batch_size': 8}, 'train_dataloader.batch_size is 8, not 4'),
        ({'val_dataloader.dataset.ann_file': 'c.json'}, "val_dataloader.dataset.ann_file is 'c.json', not 'b.json'"),
        ({'train_cfg.max_epochs': 3}, 'train_cfg.max_epochs is 3, not 2'),
        ({'param_scheduler.0.end': 3}, r'param_scheduler\[0\].end is 3, not 2'),
    ],
)
def test_refuses_other_conditions(changes, message):
    with pytest.raises(ValueError, match=message):
        check_equal_conditions({'base': config(), 'other': config(**{'model.depth': 2}, **changes)}, 'base')


def test_refuses_a_variant_equal_to_the_baseline():
    check_equal_conditions({'base': config(), 'other': config(**{'model.depth': 2})}, 'base')
    with pytest.raises(ValueError, match='same is equal to the baseline base'):
        check_equal_conditions({'base': config(), 'same': config(work_dir='elsewhere')}, 'base')


def test_the_hash_is_of_what_is_trained(tmp_path):
    config().dump(tmp_path / 'config.py')
    assert config_hash(Config.fromfile(tmp_path / 'config.py')) == config_hash(config())
    assert config_hash(config(work_dir='x', randomness={'seed': 3}, helper=1)) == config_hash(config())
    assert config_hash(config(**{'model.depth': 2})) != config_hash(config())


def test_refuses_to_mix_runs_of_a_config_that_has_changed(tmp_path):
    file = tmp_path / 'config.py'
    check_unchanged(file, config(), 'mine')
    config().dump(file)
    check_unchanged(file, config(), 'mine')
    with pytest.raises(ValueError, match=r'mine has changed .* config\.model.depth is 2, not 1.* delete'):
        check_unchanged(file, config(**{'model.depth': 2}), 'mine')


@pytest.mark.parametrize('name', ['', '../up', 'a/b', '.hidden', 'a b'])
def test_refuses_names_that_are_no_folders(name):
    assert check_name('alpha-ciou_3.0+focal') == 'alpha-ciou_3.0+focal'
    with pytest.raises(ValueError, match='cannot be named'):
        check_name(name)


def test_needs_one_data_set_with_coco_annotations():
    two = config(**{'val_dataloader.dataset': {'datasets': [{'ann_file': 'a.json'}, {'ann_file': 'b.json'}]}})
    with pytest.raises(ValueError, match='needs one validation data set'):
        coco_leaf(two)
    with pytest.raises(ValueError, match='voc_to_coco'):
        coco_leaf(config(**{'val_dataloader.dataset.ann_file': 'val.txt'}))
