"""One checkpoint that loads always exists, whatever happens."""

import builtins
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from toy_training import LENGTH, call_at, in_a_process, kill_in, signal_at, status_of, toy_runner

from mmext.checkpoints import CheckpointError, load_checkpoint, newest_checkpoint, saving
from mmext.hooks import CheckpointHook


def train(work_dir, prepare=None, **options):
    """Train in a process, and return the exit status."""
    output = work_dir.with_suffix('.out')
    return status_of(in_a_process(lambda: toy_runner(work_dir, **options).train(), output, prepare))


def names(work_dir):
    return sorted(path.name for path in work_dir.iterdir() if not path.is_dir() and path.suffix != '.py')


def check_state(work_dir):
    """`last_checkpoint` names a checkpoint that loads, and one is there to resume from."""
    named = Path((work_dir / 'last_checkpoint').read_text())
    assert load_checkpoint(named)['meta']['epoch'] >= 1
    assert newest_checkpoint(work_dir) is not None


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / 'run'


# The second save, while the checkpoint of the first is the only one.
POINTS = {
    'before the save': signal_at('before_save_checkpoint', 2 * LENGTH),
    'in the write': kill_in(os, 'fsync'),
    'before the rename': kill_in(os, 'replace', 'epoch_2.pth'),
    'before last_checkpoint': kill_in(saving, '_flush_folder'),
    'before the deletion': kill_in(LocalBackend, 'remove', 'epoch_1.pth'),
}


@pytest.mark.parametrize('point', POINTS)
def test_killed_in_the_second_save(point, work_dir):
    """With room for a single checkpoint."""

    def prepare():
        save = Runner.save_checkpoint

        def call(runner, *arguments, **keywords):
            if runner.epoch == 1:
                POINTS[point]()
            return save(runner, *arguments, **keywords)

        Runner.save_checkpoint = call

    assert train(work_dir, prepare, max_keep_ckpts=1) == -signal.SIGKILL
    check_state(work_dir)
    assert train(work_dir, resume=True, max_keep_ckpts=1) == 0
    # Nothing is left of the save that was killed.
    assert names(work_dir) == ['epoch_3.pth', 'last_checkpoint']
    check_state(work_dir)


def test_mmengines_hook_loses_all(work_dir):
    """What the above is against."""

    def prepare():
        kill_in(builtins, 'open', 'epoch_2.pth')()
        sys.modules['mmext.cli.common'].make_resumable = None
        sys.modules['toy_training'].make_resumable = lambda config: None

    assert train(work_dir, prepare, max_keep_ckpts=1) == -signal.SIGKILL
    assert names(work_dir) == ['last_checkpoint']


def test_keeps_as_many_as_it_should(work_dir):
    toy_runner(work_dir, max_keep_ckpts=2).train()
    assert names(work_dir) == ['epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_3.pth')


def test_best_checkpoints_are_deleted_last(work_dir, monkeypatch):
    deleted = []
    remove = CheckpointHook._delete

    def check(hook, name):
        deleted.append((name, names(work_dir)))
        remove(hook, name)

    monkeypatch.setattr(CheckpointHook, '_delete', check)
    toy_runner(work_dir, save_best='toy/acc').train()
    best = [f'best_toy_acc_epoch_{number}.pth' for number in (1, 2, 3)]
    assert [name for name, _ in deleted] == best[:2]
    assert all(best[i] in there and best[i + 1] in there for i, (_, there) in enumerate(deleted))
    assert [name for name in names(work_dir) if 'best' in name] == best[2:]


def test_several_best_checkpoints(work_dir):
    toy_runner(work_dir, save_best=['toy/acc', 'toy/loss'], max_keep_ckpts=1).train()
    assert names(work_dir) == [
        'best_toy_acc_epoch_3.pth',
        'best_toy_loss_epoch_3.pth',
        'epoch_3.pth',
        'last_checkpoint',
    ]


def test_a_best_checkpoint_that_stays_the_best_for_a_while(work_dir):
    toy_runner(work_dir, save_best='toy/jump', rule='greater').train()
    assert [name for name in names(work_dir) if 'best' in name] == ['best_toy_jump_epoch_3.pth']


def test_deletes_nothing_elsewhere(work_dir, tmp_path):
    """mmengine deletes the file or the folder that a checkpoint names as its best."""
    precious = tmp_path / 'precious'
    precious.mkdir()
    toy_runner(work_dir, save_best='toy/acc', train_cfg=dict(by_epoch=True, max_epochs=1)).train()
    content = load_checkpoint(work_dir / 'epoch_1.pth')
    content['message_hub']['runtime_info']['best_ckpt'] = str(precious)
    torch.save(content, work_dir / 'epoch_1.pth')
    toy_runner(work_dir, save_best='toy/acc', resume=True).train()
    assert precious.is_dir()
    content['message_hub']['runtime_info']['keep_ckpt_ids'] = ['../../precious']
    torch.save(content, work_dir / 'epoch_4.pth')
    with pytest.raises(CheckpointError, match='keep_ckpt_ids'):
        toy_runner(work_dir, max_keep_ckpts=1, resume=True).train()


def limit_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def no_space():
    """What the disk does to a large file when it is full."""
    flush = os.fsync

    def fsync(descriptor):
        if os.fstat(descriptor).st_size > 200_000:
            raise OSError(28, 'No space left on device')
        flush(descriptor)

    os.fsync = fsync


@pytest.mark.parametrize(
    'limit, reason', [(limit_size, 'File too large'), (no_space, 'No space left on device')], ids=['size', 'space']
)
def test_a_disk_that_takes_no_more(limit, reason, work_dir):
    """One message, the earlier checkpoints intact, and status 2."""
    assert train(work_dir, train_cfg=dict(by_epoch=True, max_epochs=1)) == 0
    before = (work_dir / 'epoch_1.pth').read_bytes()
    output = work_dir.with_suffix('.out')
    output.unlink()
    assert train(work_dir, limit, resume=True, max_keep_ckpts=1) == 2
    (message,) = [line for line in output.read_text().splitlines() if line.startswith('mmext: error: ')]
    assert message.startswith(f'mmext: error: cannot save the checkpoint {work_dir}/epoch_2.pth: {reason}')
    assert '--resume' in message and 'Traceback' not in output.read_text()
    assert output.read_text().endswith(f'{message}\n')
    assert (work_dir / 'epoch_1.pth').read_bytes() == before
    assert names(work_dir) == ['epoch_1.pth', 'last_checkpoint']
    assert train(work_dir, resume=True) == 0


def test_a_folder_that_cannot_be_written(work_dir):
    assert train(work_dir, out_dir='/proc/none') == 2
    text = work_dir.with_suffix('.out').read_text()
    assert 'mmext: error: cannot save the checkpoint in /proc/none/run: ' in text
    # Before the first iteration.
    assert not any('epoch' in name for name in names(work_dir))


def poison(runner):
    """A weight that the optimizer works on, as an overflow leaves it."""
    runner.model.layer.weight.data[0, 0] = float('inf')


def poison_average(runner):
    """A weight of EMAHook's average."""
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    hook.ema_model.module.layer.weight.data[0, 0] = float('nan')


def poison_and_terminate(runner):
    poison(runner)
    os.kill(os.getpid(), signal.SIGTERM)


IN_THE_SECOND_EPOCH = 'before_train_iter', LENGTH + 1
# After the last step of the average, so that the weights alone are not finite.
AFTER_IT = 'after_train_epoch', 2 * LENGTH


@pytest.mark.parametrize(
    'at, action',
    [
        (IN_THE_SECOND_EPOCH, poison),
        (IN_THE_SECOND_EPOCH, poison_average),
        (IN_THE_SECOND_EPOCH, poison_and_terminate),
        (AFTER_IT, poison),
    ],
)
@pytest.mark.parametrize('best', [False, True])
def test_weights_that_are_not_finite_are_never_saved(at, action, best, work_dir):
    """By epochs, as the best, and at SIGTERM; in the model and in its average."""
    options = dict(save_best='toy/acc', interval=-1) if best else dict(max_keep_ckpts=1)
    assert train(work_dir, call_at(*at, action), **options) == 2
    text = work_dir.with_suffix('.out').read_text()
    assert re.search(r'mmext: error: (module\.)?layer\.weight is not finite in iteration \d+, so no checkpoint', text)
    saved = ['best_toy_acc_epoch_1.pth'] if best else ['epoch_1.pth']
    assert [name for name in names(work_dir) if name.endswith('.pth')] == saved
    content = load_checkpoint(work_dir / saved[0])
    for state in ('state_dict', 'ema_state_dict'):
        assert all(value.isfinite().all() for value in content[state].values())


def test_takes_the_arguments_of_mmengines():
    hook = CheckpointHook(interval=3, by_epoch=False, max_keep_ckpts=2)
    assert (hook.interval, hook.filename_tmpl, hook.max_keep_ckpts) == (3, 'iter_{}.pth', 2)
