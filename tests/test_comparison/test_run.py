"""Runs of a comparison, trained for real on a few shapes."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope

from mmext.cli.common import read_config
from mmext.comparison.plan import Plan, Run, Variant
from mmext.comparison.run import initial_model, run_config, share_initial_weights, train

EXPERIMENT = """
_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'
train_dataloader = dict(batch_size=4, dataset=dict(data_root={root!r}))
val_dataloader = dict(batch_size=4, dataset=dict(data_root={root!r}))
val_evaluator = dict(ann_file={root!r} + '/annotations/val.json')
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [*_base_.custom_hooks, dict(type='Witness')]
model = dict({model})
"""
FOCAL = "bbox_head=dict(loss_obj=dict(_delete_=True, type='mmext.FocalLoss', reduction='sum'))"
NARROW = 'bbox_head=dict(stacked_convs=1)'


@HOOKS.register_module(force=True)
class Witness(Hook):
    """Writes down the images and boxes of each iteration, and stops where it is told."""

    stop_after: int | None = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        boxes = [sample.gt_instances.bboxes.tensor for sample in data_batch['data_samples']]
        seen = [sum(each.double().sum().item() for each in found) for found in (data_batch['inputs'], boxes)]
        with Path(runner.work_dir, 'seen.txt').open('a') as file:
            file.write(f'{runner.iter} {seen[0]} {seen[1]}\n')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == Witness.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def folder(shapes, tmp_path_factory):
    """A comparison of a baseline, focal loss, and a head of fewer layers; nothing is trained."""
    folder = tmp_path_factory.mktemp('comparison')
    for name, model in dict(stock='', focal=FOCAL, narrow=NARROW).items():
        (folder / f'{name}.py').write_text(EXPERIMENT.format(root=str(shapes), model=model))
        (folder / name).mkdir()
        config = read_config(str(folder / f'{name}.py'))
        config.dump(Run(folder, name, 0).config_file)
    init_default_scope('mmdet')
    Plan(
        baseline='stock',
        runs={name: Variant(f'{name}.py', seeds=[0]) for name in ('stock', 'focal', 'narrow')},
        classes=['circle', 'triangle', 'star'],
        annotations=str(shapes / 'annotations' / 'val.json'),
        images=str(shapes / 'val'),
        amp=False,
        data='',
        command='',
    ).save(folder)
    return folder


@pytest.fixture(scope='module')
def results(folder):
    for name in ('stock', 'focal'):
        train(str(folder), name, 0)
    return {name: json.loads(Run(folder, name, 0).result_file.read_text()) for name in ('stock', 'focal')}


def seen(folder, name):
    return (Run(folder, name, 0).work_dir / 'seen.txt').read_text().splitlines()


def test_initial_weights_agree_where_shapes_agree(folder):
    plan, run = Plan.load(folder), Run(folder, 'narrow', 5)
    stock = initial_model(run_config(Run(folder, 'stock', 5)))
    config = run_config(run)
    torch.manual_seed(1)
    narrow = initial_model(Config({**config.to_dict(), 'randomness': {'seed': 7}}))
    share_initial_weights(narrow, run, plan)
    weights = dict(stock.named_parameters())
    shared = [name for name, weight in narrow.named_parameters() if weights[name].shape == weight.shape]
    assert len(shared) == len(dict(narrow.named_parameters())) < len(weights)
    for name, weight in narrow.named_parameters():
        assert torch.equal(weight, weights[name]), name
    other = dict(initial_model(run_config(Run(folder, 'stock', 6))).named_parameters())
    assert not torch.equal(other['neck.out_convs.0.conv.weight'], weights['neck.out_convs.0.conv.weight'])


def test_data_and_augmentation_agree(results, folder):
    assert len(seen(folder, 'stock')) == 4
    assert seen(folder, 'stock') == seen(folder, 'focal')
    # Not the same in both epochs.
    assert {line.split()[1] for line in seen(folder, 'stock')[:2]} != {
        line.split()[1] for line in seen(folder, 'stock')[2:]
    }
    losses = [result['curve']['train'][0]['loss_obj'] for result in results.values()]
    assert losses[0] != losses[1]


def test_the_result_says_all(results, folder):
    result = results['stock']
    assert (result['name'], result['seed'], result['config'], result['resumed']) == ('stock', 0, 'stock.py', False)
    assert [entry['epoch'] for entry in result['curve']['train']] == [0.5, 1, 1.5, 2]
    assert {'loss', 'loss_cls', 'loss_bbox', 'loss_obj'} <= result['curve']['train'][0].keys()
    assert {'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AP circle', 'AP star'} <= result['metrics'].keys()
    assert result['versions']['torch'] == torch.__version__
    assert set(result['hashes']) == {'config', 'data', 'code'}
    assert results['focal']['hashes']['config'] != result['hashes']['config']
    assert results['focal']['hashes']['data'] == result['hashes']['data']
    assert result['epochs'] == 2
    assert result['seconds'] > 0


def test_a_finished_run_is_not_trained_again(results, folder):
    file = Run(folder, 'stock', 0).result_file
    before = file.stat().st_mtime_ns
    train(str(folder), 'stock', 0)
    assert file.stat().st_mtime_ns == before
    assert len(seen(folder, 'stock')) == 4


@pytest.mark.parametrize('iteration', [2, 3])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(iteration, results, folder, monkeypatch):
    """It loses no more than the epoch under way; what it sees again, it sees as before."""
    name = f'again{iteration}'
    (folder / name).mkdir()
    Run(folder, name, 0).config_file.write_text(Run(folder, 'stock', 0).config_file.read_text())
    plan = Plan.load(folder)
    plan.runs[name] = Variant('stock.py', seeds=[0])
    plan.save(folder)
    monkeypatch.setattr(Witness, 'stop_after', iteration)
    with pytest.raises(KeyboardInterrupt):
        train(str(folder), name, 0)
    monkeypatch.undo()
    assert not Run(folder, name, 0).result_file.is_file()
    train(str(folder), name, 0)
    result = json.loads(Run(folder, name, 0).result_file.read_text())
    assert result['resumed']
    assert result['metrics'] == results['stock']['metrics']
    assert result['detections'] == results['stock']['detections']
    assert seen(folder, name)[-2:] == seen(folder, 'stock')[-2:]
    assert len(seen(folder, name)) <= 4 + 2
