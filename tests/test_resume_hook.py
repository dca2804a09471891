"""A resumed training equals one that was not interrupted: a small model, all ways to save and to load data."""

import signal

import pytest
from test_interruptions import VARYING, differences
from toy_training import LENGTH, in_a_process, signal_at, status_of, toy_runner

from mmext.checkpoints import load_checkpoint

BY_ITERATION = dict(by_epoch=False, interval=3)
ITERATIONS = dict(by_epoch=False, max_iters=3 * LENGTH, val_interval=3)


def train(work_dir, *signals, resume=False, **options):
    """Train in a process, and return the exit status."""
    prepare = signal_at(*signals) if signals else None
    output = work_dir.with_suffix('.out')
    return status_of(in_a_process(lambda: toy_runner(work_dir, resume, **options).train(), output, prepare))


def final(work_dir, name='epoch_3.pth'):
    return load_checkpoint(work_dir / name)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('step, iteration', [('after_train_iter', 5), ('after_train_iter', 7), ('after_val_iter', 8)])
@pytest.mark.parametrize(
    'options, last',
    [
        ({}, 'epoch_3.pth'),
        (BY_ITERATION, 'iter_12.pth'),
        (dict(train_cfg=ITERATIONS, **BY_ITERATION), 'iter_12.pth'),
        (dict(save_best='toy/acc', max_keep_ckpts=1), 'epoch_3.pth'),
    ],
    ids=['epochs', 'iterations', 'loop by iterations', 'best'],
)
def test_killed(options, last, step, iteration, workers, tmp_path):
    """Within an epoch, at its end before the save, and in a validation."""
    plain, killed = tmp_path / 'plain', tmp_path / 'killed'
    if 'train_cfg' in options and step == 'after_val_iter':
        iteration = 6
    assert train(plain, **options) == 0
    assert train(killed, step, iteration, workers=workers, **options) == -signal.SIGKILL
    assert train(killed, resume=True, workers=workers, **options) == 0
    assert differences(final(killed, last), final(plain, last), varying=(*VARYING, 'best_ckpt')) == []
