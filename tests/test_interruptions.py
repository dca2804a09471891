"""Trainings that are killed, stopped, or find the disk full: nothing is lost, and the result is the same."""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import load_tool
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from toy_training import VARYING, call_at, differences, in_a_process, signal_at, status_of

from mmext.checkpoints import load_checkpoint
from mmext.cli import train as cli_train
from mmext.visualization.scalars import read_scalars

EXPERIMENT = """
_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'
root = {root!r}
# Random sizes: drawn by the model, not by the data. A focus with a state.
model = dict(
    test_cfg=dict(score_thr=0.0),
    backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=32),
    data_preprocessor=dict(batch_augments=[dict(
        type='mmdet.BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32, interval=3)]),
    bbox_head=dict(in_channels=32, feat_channels=32, loss_bbox=dict(
        _delete_=True, type='mmext.IoULoss', variant='ciou', focus=dict(type='mmext.WiseFocus'), loss_weight=5.0)))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True,
    type='mmdet.MultiImageMixDataset',
    dataset=dict(
        type='mmdet.CocoDataset', data_root=root, metainfo=dict(classes=('circle', 'triangle', 'star')),
        data_prefix=dict(img='train/'), ann_file='annotations/train.json',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]),
    pipeline=[
        dict(type='mmdet.Mosaic', img_scale=(64, 64), pad_val=114.0),
        dict(type='mmdet.RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-32, -32)),
        dict(type='mmdet.YOLOXHSVRandomAug'),
        dict(type='mmdet.RandomFlip', prob=0.5),
        dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True),
        dict(type='mmdet.Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
        dict(type='mmdet.PackDetInputs')]))
val_dataloader = dict(batch_size=4, dataset=dict(data_root=root))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmdet.CocoMetric', ann_file=root + '/annotations/val.json', metric='bbox'), dict(type='BoxSum')]
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=4, val_interval=1)
param_scheduler = [
    dict(type='mmdet.QuadraticWarmupLR', begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=2e-4, begin=1, end=4, T_max=3, convert_to_iter_based=True)]
optim_wrapper = dict(optimizer=dict(lr=0.002))
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1), logger=dict(interval=1))
custom_hooks = [
    # Mosaic for two epochs of four.
    dict(type='mmdet.YOLOXModeSwitchHook', num_last_epochs=2, priority=48,
         skip_type_keys=('mmdet.Mosaic', 'mmdet.RandomAffine')),
    dict(type='mmdet.SyncNormHook', priority=48),
    dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.001, update_buffers=True, priority=49)]
"""
WORKERS = ('train_dataloader.num_workers=2',)
PERSISTENT = (*WORKERS, 'train_dataloader.persistent_workers=True')
BY_ITERATION = ('default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=3')


@METRICS.register_module()
class BoxSum(BaseMetric):
    """The sum of all coordinates: unlike the AP of so short a training it is not zero, and shows each bit."""

    default_prefix = 'sum'

    def process(self, data_batch, data_samples):
        self.results += [sample['pred_instances']['bboxes'].double().sum().item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(boxes=sum(results))


@pytest.fixture(scope='module')
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('interruptions')
    load_tool('make_shapes').main(['--out', str(folder / 'shapes'), '--train', '16', '--val', '4', '--size', '64'])
    file = folder / 'experiment.py'
    file.write_text(EXPERIMENT.format(root=str(folder / 'shapes')))
    return file


def start(experiment, work_dir, *options, resume=False, prepare=None):
    """Start `mmext train`."""
    arguments = [str(experiment), '--work-dir', str(work_dir), *(['--resume'] if resume else [])]
    arguments += ['--cfg-options', *options] if options else []

    def function():
        os.environ.pop('LOCAL_RANK', None)
        cli_train.main(arguments)

    return in_a_process(function, work_dir.with_suffix('.out'), prepare)


def train(*arguments, **options):
    """Run `mmext train`, and return the exit status."""
    return status_of(start(*arguments, **options))


def output(work_dir):
    return work_dir.with_suffix('.out').read_text()


@pytest.fixture(scope='module')
def reference(experiment):
    """The training that nothing interrupts."""
    work_dir = experiment.parent / 'reference'
    assert train(experiment, work_dir) == 0, output(work_dir)
    return work_dir


def records(work_dir):
    """What the curves are drawn from, without durations."""
    folders = sorted(path.parents[1] for path in work_dir.glob('*/vis_data/scalars.json'))
    return [
        {key: value for key, value in record.items() if key not in ('time', 'data_time', 'memory')}
        for record in read_scalars(folders[-1], resumed=True)
    ]


def check_equal(work_dir, reference, name='epoch_4.pth', *varying, last='epoch_4.pth', epochs=4):
    ours, wanted = load_checkpoint(work_dir / name), load_checkpoint(reference / last)
    assert any('focus' in key for key in wanted['state_dict'])
    assert 'message_hub' in wanted and 'ema_state_dict' in wanted and 'param_schedulers' in wanted
    assert differences(ours, wanted, varying=(*VARYING, *varying)) == []
    assert records(work_dir) == records(reference)
    assert len([record for record in records(reference) if 'loss' in record]) == 4 * epochs
    sums = [record['sum/boxes'] for record in records(reference) if 'loss' not in record]
    assert len(set(sums)) == epochs


def test_deterministic_mode_gives_the_same_bits_twice(experiment, tmp_path):
    """And it is on."""
    options = ('randomness.deterministic=True', 'train_cfg.max_epochs=3')
    seen = tmp_path / 'seen'
    note = call_at('after_train', 12, lambda runner: seen.write_text(str(torch.are_deterministic_algorithms_enabled())))
    for name in 'ab':
        assert train(experiment, tmp_path / name, *options, prepare=note) == 0, output(tmp_path / name)
        assert seen.read_text() == 'True'
        seen.unlink()
    check_equal(tmp_path / 'a', tmp_path / 'b', 'epoch_3.pth', last='epoch_3.pth', epochs=3)


class TestKilled:
    """`kill -9`, then `--resume`."""

    def test_epoch_checkpoints(self, experiment, reference, tmp_path):
        """Killed before and after the switch of the mode."""
        work_dir = tmp_path / 'run'
        for iteration in (6, 13):
            prepare = signal_at('after_train_iter', iteration)
            assert train(experiment, work_dir, resume=iteration > 6, prepare=prepare) == -signal.SIGKILL
        assert train(experiment, work_dir, resume=True) == 0
        check_equal(work_dir, reference)
        assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_4.pth']

    def test_iteration_checkpoints_and_workers(self, experiment, reference, tmp_path):
        """The number of workers changes nothing. Checkpoints after 3, 6, ... iterations."""
        work_dir = tmp_path / 'run'
        for iteration in (7, 14):
            prepare = signal_at('after_train_iter', iteration)
            status = train(experiment, work_dir, *PERSISTENT, *BY_ITERATION, resume=iteration > 7, prepare=prepare)
            assert status == -signal.SIGKILL
        assert train(experiment, work_dir, *PERSISTENT, *BY_ITERATION, resume=True) == 0
        # The log counts on within the epoch.
        log = sorted(work_dir.glob('*/*.log'))[1].read_text()
        assert re.findall(r'Epoch\(train\) +(\S+)', log)[:3] == ['[2][3/4]', '[2][4/4]', '[3][1/4]']
        # Saved within the epoch, as its number and the place in it say.
        check_equal(work_dir, reference, 'iter_16.pth', 'epoch', 'keep_ckpt_ids', 'batches')

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    def test_twenty_times_at_random(self, experiment, tmp_path):
        """At any time: while importing, saving, validating or training, with and without workers."""
        generator = random.Random(0)
        longer = ('train_cfg.max_epochs=12', 'param_scheduler.1.end=12', 'param_scheduler.1.T_max=11')
        plain = tmp_path / 'plain'
        assert train(experiment, plain, *longer) == 0
        begin = time.monotonic()
        work_dir = tmp_path / 'killed'
        kills = 0
        while kills < 20:
            options = generator.choice([(), WORKERS, PERSISTENT])
            process = start(experiment, work_dir, *longer, *options, resume=True)
            process.join(generator.uniform(2, 12))
            if process.exitcode is not None:
                assert process.exitcode == 0, output(work_dir)
                # Finished: go on with a new one.
                check_equal(work_dir, plain, 'epoch_12.pth', last='epoch_12.pth', epochs=12)
                work_dir = tmp_path / f'killed_{kills}'
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        assert train(experiment, work_dir, *longer, resume=True) == 0
        check_equal(work_dir, plain, 'epoch_12.pth', last='epoch_12.pth', epochs=12)
        print(f'20 kills in {time.monotonic() - begin:.0f} s')
