"""Planted faults: each is found, with its level, its key and the words of its remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmext.audit import report as report_module
from mmext.audit.report import audit
from mmext.cli.audit import main
from mmext.cli.common import read_config
from mmext.errors import UserError

SMALL = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
    bbox_head=dict(in_channels=16, feat_channels=16),
)
STOCK, RECOMMENDED = 'yolox_nano_1xb8-9e_shapes', 'yolox_nano_recommended_1xb8-9e_shapes'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(report_module, 'BATCHES', 1)
    monkeypatch.setattr(report_module, 'IMAGES', 8)


@pytest.fixture(scope='session')
def small(shapes, tmp_path_factory):
    """The stock and the recommended config for shapes, small and resolved, so that they are read fast."""
    folder = tmp_path_factory.mktemp('configs')
    for name in (STOCK, RECOMMENDED):
        config = read_config(f'mmext::yolox/{name}.py')
        config.merge_from_dict({'model': SMALL, 'train_dataloader.batch_size': 4})
        config.dump(folder / f'{name}.py')
    return folder


@pytest.fixture
def config(shapes, small, tmp_path):
    """Write a config that inherits a small one, for a copy of the shapes, with these lines; returns its path."""

    def write(lines='', base=STOCK):
        root = tmp_path / 'shapes'
        if not root.exists():
            shutil.copytree(shapes, root)
        text = (small / f'{base}.py').read_text().replace('data/shapes/', f'{root}/')
        (tmp_path / 'base.py').write_text(text)
        (tmp_path / 'mine.py').write_text(f"_base_ = './base.py'\n{lines}\n")
        return tmp_path / 'mine.py'

    return write


def head(lines):
    return f'model = dict(bbox_head=dict({lines}))'


def loader(lines):
    return f'train_dataloader = dict({lines})'


def edit_annotations(path, change):
    """Change each annotation of the training data; None leaves it out."""
    file = path.parent / 'shapes' / 'annotations' / 'train.json'
    content = json.loads(file.read_text())
    content['annotations'] = [new for each in content['annotations'] if (new := change(each)) is not None]
    file.write_text(json.dumps(content))


FOCAL = "loss_cls=dict(_delete_=True, type='{}', use_sigmoid=True, gamma=2.0, reduction='sum')"
# Fault, level, key, words of the message and the remedy.
FAULTS = {
    'mean in the head of mmdet': (
        head("type='mmdet.YOLOXHead', loss_cls=dict(reduction='mean')"),
        'error',
        'model.bbox_head.loss_cls.reduction',
        "divided twice|reduction='sum'",
    ),
    'reduction none': (
        head("loss_obj=dict(reduction='none')"),
        'error',
        'model',
        "reduction='none'|Use 'mean' or 'sum'",
    ),
    'focal loss for IoUs': (
        head(FOCAL.format('mmext.FocalLoss')),
        'warning',
        'model.bbox_head.loss_cls',
        "minimum in the wrong place|cls_target='hard'",
    ),
    "mmdet's focal loss for IoUs": (
        head(FOCAL.format('mmdet.FocalLoss')),
        'warning',
        'model.bbox_head.loss_cls',
        "minimum in the wrong place|cls_target='hard'",
    ),
    'focal loss for IoUs as objectness': (
        head("obj_target='iou', cls_target='hard', loss_obj=dict(_delete_=True, type='mmext.FocalLoss')"),
        'warning',
        'model.bbox_head.loss_obj',
        "minimum in the wrong place|obj_target='hard'",
    ),
    'a forgotten scope': (
        head("cls_target='hard', " + FOCAL.format('FocalLoss')),
        'warning',
        'model.bbox_head.loss_cls.type',
        "mmdet's class|Write 'mmext.FocalLoss'",
    ),
    'a tiny weight': (
        head('loss_obj=dict(loss_weight=1e-4)'),
        'warning',
        'model.bbox_head.loss_obj',
        'of the total loss|loss_weight',
    ),
    'a weight of 0': (
        head('loss_bbox=dict(loss_weight=0.0)'),
        'warning',
        'model.bbox_head.loss_bbox.loss_weight',
        'not trained|above 0',
    ),
    'a weight that is NaN': (
        head("loss_obj=dict(loss_weight=float('nan'))"),
        'error',
        'model.bbox_head.loss_obj',
        'value is nan|learning rate',
    ),
    'an infinite weight': (
        head("loss_bbox=dict(loss_weight=float('inf'))"),
        'error',
        'model.bbox_head.loss_bbox',
        'value is inf|learning rate',
    ),
    'a softmax without labels': (
        head("loss_cls=dict(_delete_=True, type='mmext.SoftmaxFocalLoss')"),
        'error',
        'model',
        "needs bbox_head.cls_target='label'",
    ),
    'one alpha for a softmax': (
        head("cls_target='label', loss_cls=dict(_delete_=True, type='mmext.SoftmaxFocalLoss', alpha=0.25)"),
        'error',
        'model',
        'alpha is 0.25|Give one weight per class',
    ),
    'probabilities for logits': (
        head("loss_obj=dict(_delete_=True, type='mmext.QualityFocalLoss', activated=True)"),
        'error',
        'model.bbox_head.loss_obj.activated',
        'it is True|activated=False',
    ),
    'an assigner of logits': (
        "model = dict(train_cfg=dict(assigner=dict(_delete_=True, type='mmdet.DynamicSoftLabelAssigner')))",
        'error',
        'model',
        'takes class logits|mmext.BatchSimOTAAssigner',
    ),
    'the wrong number of classes': (
        head('num_classes=5'),
        'error',
        'model.bbox_head.num_classes',
        'num_classes is 5|num_classes=3',
    ),
    'a misspelt type': (
        head("loss_bbox=dict(_delete_=True, type='mmext.IouLoss')"),
        'error',
        'model.bbox_head.loss_bbox',
        'mmext has no|Did you mean mmext.IoULoss',
    ),
    'an argument of another loss': (
        head("loss_bbox=dict(type='mmext.IoULoss')"),
        'error',
        'model',
        "takes no argument 'mode'|_delete_=True",
    ),
    'a misspelt key': (
        'train_dataloadr = dict(batch_size=2)',
        'warning',
        'train_dataloadr',
        'nothing reads this key in mine.py|Did you mean train_dataloader',
    ),
    'a key that nobody reads': ('warm = 3', 'warning', 'warm', 'nothing reads this key in mine.py|Remove it'),
    'a variable of the base': (
        'max_epochs = 3',
        'warning',
        'max_epochs',
        'changes nothing in mine.py|train_cfg.max_epochs',
    ),
    'an infinite learning rate': (
        "optim_wrapper = dict(optimizer=dict(lr=float('inf')))",
        'error',
        'optim_wrapper.optimizer.lr',
        'it is inf|such as 0.01',
    ),
    'a learning rate that is NaN': (
        "optim_wrapper = dict(optimizer=dict(lr=float('nan')))",
        'error',
        'optim_wrapper.optimizer.lr',
        'it is nan|such as 0.01',
    ),
    'a learning rate that is a string': (
        "optim_wrapper = dict(optimizer=dict(lr='1e-2'))",
        'error',
        'optim_wrapper.optimizer.lr',
        "it is '1e-2'|such as 0.01",
    ),
    'a learning rate of 10': (
        'optim_wrapper = dict(optimizer=dict(lr=10.0))',
        'error',
        'optim_wrapper.optimizer.lr',
        '2000 times the usual 0.005 for SGD and a batch of 4|Lower it',
    ),
    'a hook that is lost': ('custom_hooks = []', 'warning', 'custom_hooks', 'without EMAHook|_base_.custom_hooks'),
    'a mode switch without Mosaic': (
        "custom_hooks = [*_base_.custom_hooks, dict(type='mmdet.YOLOXModeSwitchHook')]",
        'error',
        'custom_hooks',
        'no augmentation to switch off|MultiImageMixDataset',
    ),
    'one checkpoint': (
        'default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))',
        'warning',
        'default_hooks.checkpoint.max_keep_ckpts',
        'leaves none|mmext.CheckpointHook',
    ),
    'a hook that does not exist': (
        "custom_hooks = [*_base_.custom_hooks, dict(type='mmdet.NoHook')]",
        'error',
        'custom_hooks',
        'NoHook',
    ),
    'fewer images than a batch': (
        loader('batch_size=64, drop_last=True, batch_sampler=None'),
        'error',
        'train_dataloader',
        'gives no batch|drop_last=False',
    ),
    'no annotation file': (
        loader("dataset=dict(ann_file='annotations/none.json')"),
        'error',
        'train_dataloader',
        'none.json',
    ),
    'a folder without images': (
        loader("dataset=dict(data_prefix=dict(img='none/'))"),
        'error',
        'train_dataloader',
        'none/',
    ),
    'a pipeline without boxes': (
        loader('dataset=dict(pipeline=[_base_.load, _base_.resize, _base_.pack])'),
        'error',
        'train_dataloader.dataset',
        'batches have no box|LoadAnnotations',
    ),
    'pretrained weights that cannot be loaded': (
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='none.pth')))",
        'warning',
        'model.backbone.init_cfg',
        'cannot be loaded|path',
    ),
    'load_from without a file': ("load_from = 'none.pth'", 'error', 'load_from', 'none.pth'),
}


def run(path, *arguments):
    """The exit status and the JSON of a run."""
    file = path.parent / 'audit.json'
    status = main([str(path), '--json', str(file), *map(str, arguments)])
    return status, json.loads(file.read_text())


def wrong(found):
    """The findings that are more than notes."""
    return [each for each in found['findings'] if each['level'] != 'note']


def check(found, status, level, key, words):
    """One finding has this level, key and words, and an error ends in status 1."""
    own = [each for each in found['findings'] if (each['level'], each['key']) == (level, key)]
    text = ' '.join(f'{each["message"]}. {each["remedy"]}' for each in own)
    assert own, found['findings']
    assert all(word in text for word in words.split('|')), text
    assert status == (1 if any(each['level'] == 'error' for each in found['findings']) else 0)


@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_is_found(fault, config):
    lines, level, key, words = FAULTS[fault]
    status, found = run(config(lines))
    check(found, status, level, key, words)
    # What is planted is all there is, but for what follows from it.
    assert level == 'error' or status == 0, found['findings']


def test_the_configs_without_a_fault_pass(config):
    for base in (STOCK, RECOMMENDED):
        status, found = run(config(base=base))
        assert (status, wrong(found)) == (0, [])


def weights(config, path, change=None, **meta):
    """A checkpoint of the model of a config, changed."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    state = MODELS.build(read_config(str(config)).model).state_dict()
    torch.save({'state_dict': change(state) if change else state, 'meta': meta}, path)
    return path


def other_classes(state):
    return {key: value[:2] if 'multi_level_conv_cls' in key else value for key, value in state.items()}


def of_another_model(state):
    return {f'other.{key}': value for key, value in state.items()}


def cut(state):
    return {key: value for key, value in state.items() if not key.startswith('bbox_head')}


@pytest.mark.parametrize(
    'change, level, words',
    [
        (
            other_classes,
            'warning',
            '6 have another shape|multi_level_conv_cls.0.weight (2, 16, 1, 1) for (3, 16, 1, 1)',
        ),
        (of_another_model, 'error', 'another model: 0 of'),
        (cut, 'warning', 'bbox_head'),
    ],
)
def test_load_from_of_another_model_is_found(change, level, words, config, tmp_path):
    file = weights(config(), tmp_path / 'other.pth', change)
    status, found = run(config(f'load_from = {str(file)!r}'))
    check(found, status, level, 'load_from', words)


def test_load_from_of_the_same_model_is_silent(config, tmp_path):
    file = weights(config(), tmp_path / 'same.pth')
    assert wrong(run(config(f'load_from = {str(file)!r}'))[1]) == []


@pytest.mark.parametrize(
    'change, meta, words',
    [
        (other_classes, {}, '6 have another shape|Give a checkpoint of this config'),
        (of_another_model, {}, 'another model: 0 of'),
        (cut, {}, 'bbox_head'),
        (None, {'dataset_meta': {'classes': ('star', 'circle', 'triangle')}}, "in another order, ('star', "),
    ],
)
def test_a_checkpoint_of_another_model_is_found(change, meta, words, config, tmp_path):
    file = weights(config(), tmp_path / 'other.pth', change, **meta)
    status, found = run(config(), '--checkpoint', file)
    check(found, status, 'error', '--checkpoint', words)


def test_measures_at_a_checkpoint_and_after_iterations(config, tmp_path):
    def without_objectness(state):
        return {key: value - 4 if 'conv_obj.' in key and 'bias' in key else value for key, value in state.items()}

    file = weights(config(), tmp_path / 'same.pth', without_objectness)
    status, found = run(config(), '--checkpoint', file, '--iters', 2)
    tables = found['tables']
    assert status == 0
    assert list(tables) == ['at the initial weights', 'at the weights of the checkpoint', 'after 2 iterations']
    first, second, third = ({row['name']: row['value'] for row in rows} for rows in tables.values())
    assert len({row['loss_obj'] for row in (first, second, third)}) == 3
    assert first['loss_obj'] > 0


def test_a_training_that_diverges_is_found(config):
    status, found = run(config('optim_wrapper = dict(optimizer=dict(lr=1e6), clip_grad=None)'), '--iters', 3)
    values = [row['value'] for row in found['tables']['after 3 iterations']]
    assert None in values or max(values) > 1e3
    assert status == 1


def test_boxes_in_few_batches_are_found(config):
    path = config(loader('batch_size=1'))
    edit_annotations(path, lambda each: each if each['image_id'] in (0, 1) else {**each, 'iscrowd': 1})
    # mmdet leaves images without boxes out unless it is told not to.
    path.write_text(path.read_text() + loader('batch_size=1, dataset=dict(filter_cfg=dict(filter_empty_gt=False))'))
    status, found = run(path)
    check(found, status, 'warning', 'train_dataloader.dataset', 'have no box')


def test_the_data_alone(config, capsys):
    status, found = run(config(head('num_classes=5')), '--data')
    assert (status, found['tables'], found['advice']) == (0, {}, None)
    assert found['boxes']['images'] == 8
    assert 'Boxes: side' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--cfg-options', 'max_epochs=3'], r'max_epochs=3 changes nothing that is trained.*train_cfg\.max_epochs'),
        (['--cfg-options', 'modle.x=3'], "no 'modle'.*did you mean model"),
        (['--checkpoint', 'none.pth'], r'--checkpoint: .*none\.pth'),
    ],
)
def test_a_mistake_in_the_command_is_refused(arguments, words, config):
    with pytest.raises(UserError, match=words):
        main([str(config()), *arguments])


def test_an_option_of_the_runner_is_none(config):
    path = config()
    assert 'experiment_name' not in Config.fromfile(path)
    status, _ = run(path, '--cfg-options', 'randomness.seed=3', 'experiment_name=mine')
    assert status == 0


def test_a_damaged_checkpoint_is_refused(config, tmp_path):
    (tmp_path / 'damaged.pth').write_bytes(b'nothing')
    with pytest.raises(UserError, match=r'--checkpoint: .*damaged\.pth was not loaded'):
        main([str(config()), '--checkpoint', str(tmp_path / 'damaged.pth')])


def test_data_and_weights_exclude_each_other(config):
    with pytest.raises(SystemExit) as error:
        main([str(config()), '--data', '--iters', '3'])
    assert error.value.code == 2


def test_the_model_is_built_once_and_the_config_kept(config):
    given = read_config(str(config()))
    before = Config(given.to_dict())
    audit(given, 'mine.py')
    assert given.to_dict() == before.to_dict()


def test_the_shipped_configs_have_no_error():
    root = Path(report_module.__file__).parents[2]
    for name in ('yolox_nano_recommended_1xb8-60e_bccd', 'yolox_nano_1xb8-9e_shapes'):
        given = read_config(f'mmext::yolox/{name}.py')
        if not (root / given.data_root).is_dir():
            pytest.skip(f'needs the data in {given.data_root}')
        found = audit(given, name).findings
        assert [each for each in found if each.level != 'note'] == []
