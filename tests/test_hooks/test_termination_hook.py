"""SIGTERM saves and exits with status 143, and nothing of the training is lost."""

import logging
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
from mmengine.runner import Runner
from torch.utils.data import get_worker_info
from toy_training import ToyNumbers, differences, in_a_process, signal_at, status_of, toy_runner

from mmext.checkpoints import load_checkpoint
from mmext.hooks.termination_hook import STATUS, TerminationHook, WorkerInit


def train(work_dir, *signals, resume=False, **options):
    """Train in a process, which gets a signal, and return the exit status."""
    prepare = signal_at(*signals, signal.SIGTERM) if signals else None
    output = work_dir.with_suffix('.out')
    return status_of(in_a_process(lambda: toy_runner(work_dir, resume, **options).train(), output, prepare))


def names(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('plain') / 'run'
    assert train(work_dir) == 0
    return load_checkpoint(work_dir / 'epoch_3.pth')


POINTS = {
    'in an iteration': ('before_train_iter', 5, ['epoch_1.pth', 'iter_6.pth']),
    'in the last iteration of an epoch': ('before_train_iter', 7, ['epoch_1.pth', 'iter_8.pth']),
    # Already saved.
    'in a validation': ('after_val_iter', 8, ['epoch_1.pth', 'epoch_2.pth']),
    'between epochs': ('before_train_epoch', 8, ['epoch_1.pth', 'epoch_2.pth', 'iter_9.pth']),
}


@pytest.mark.parametrize('point', POINTS)
def test_saves_and_exits(point, plain, tmp_path):
    step, iteration, files = POINTS[point]
    work_dir = tmp_path / 'run'
    assert train(work_dir, step, iteration) == STATUS == 143
    assert names(work_dir) == files
    newest = max(work_dir.glob('*.pth'), key=os.path.getmtime)
    assert (work_dir / 'last_checkpoint').read_text() == str(newest)
    output = work_dir.with_suffix('.out').read_text()
    assert f'SIGTERM: stopped; the training up to here is in {newest}' in output and 'Traceback' not in output
    assert train(work_dir, resume=True) == 0
    # The next regular checkpoint has deleted the one in between.
    assert names(work_dir) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    assert differences(load_checkpoint(work_dir / 'epoch_3.pth'), plain) == []


def test_in_a_validation_of_an_epoch_without_a_checkpoint(plain, tmp_path):
    """The weights are those of the training, not the averaged ones that are validated."""
    work_dir = tmp_path / 'run'
    assert train(work_dir, 'after_val_iter', 4, interval=3) == STATUS
    assert names(work_dir) == ['iter_4.pth']
    assert train(work_dir, resume=True, interval=3) == 0
    assert differences(load_checkpoint(work_dir / 'epoch_3.pth'), plain) == []


def test_waits_for_the_step_of_accumulated_gradients(tmp_path):
    work_dir, whole = tmp_path / 'run', tmp_path / 'plain'
    assert train(whole, accumulative_counts=2) == 0
    assert train(work_dir, 'before_train_iter', 4, accumulative_counts=2) == STATUS
    assert names(work_dir) == ['epoch_1.pth', 'iter_6.pth']
    assert train(work_dir, resume=True, accumulative_counts=2) == 0
    assert differences(*(load_checkpoint(path / 'epoch_3.pth') for path in (work_dir, whole))) == []


def test_a_signal_to_the_whole_group(plain, tmp_path):
    """Slurm's way: the workers get the signal, too, and must not die before the iteration ends."""
    work_dir = tmp_path / 'run'
    marker = tmp_path / 'waits for its workers'

    def prepare():
        os.setpgrp()
        get, call_hook = ToyNumbers.__getitem__, Runner.call_hook

        def call(runner, name, **arguments):
            call_hook(runner, name, **arguments)
            if name == 'after_train_iter' and runner.iter == 4:
                marker.touch()

        Runner.call_hook = call
        ToyNumbers.__getitem__ = lambda self, index: time.sleep(0.5 if get_worker_info() else 0) or get(self, index)

    process = in_a_process(lambda: toy_runner(work_dir, workers=1).train(), work_dir.with_suffix('.out'), prepare)
    while not marker.exists() and process.is_alive():
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    assert status_of(process) == STATUS
    assert 'Traceback' not in work_dir.with_suffix('.out').read_text()
    assert names(work_dir) == ['epoch_1.pth', 'iter_6.pth']
    assert train(work_dir, resume=True, workers=1) == 0
    assert differences(load_checkpoint(work_dir / 'epoch_3.pth'), plain) == []


def train_two_ranks(work_dir, port, signal_of=None, **options):
    """Train with two ranks, and return their exit statuses."""

    def prepare(rank):
        os.environ.update(
            TOY_LAUNCHER='pytorch', RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1'
        )
        os.environ['MASTER_PORT'] = str(port)
        if signal_of:
            signal_at(*signal_of, signal.SIGTERM)()

    processes = [
        in_a_process(
            lambda: toy_runner(work_dir, **options).train(),
            work_dir.with_name(f'{work_dir.name}_{rank}.out'),
            lambda rank=rank: prepare(rank),
        )
        for rank in range(2)
    ]
    return [status_of(process, 120) for process in processes]


@pytest.mark.timeout(400)
def test_two_ranks(tmp_path, free_port):
    """Rank 0 saves; the other neither dies before it nor waits for it for ever."""
    run, whole = tmp_path / 'run', tmp_path / 'plain'
    assert train_two_ranks(whole, free_port(), batch_size=1) == [0, 0]
    first, second = train_two_ranks(run, free_port(), ('before_train_iter', 5), batch_size=1)
    assert first == STATUS and second != 0
    assert names(run) == ['epoch_1.pth', 'iter_6.pth']
    assert train_two_ranks(run, free_port(), batch_size=1, resume=True) == [0, 0]
    assert differences(*(load_checkpoint(path / 'epoch_3.pth') for path in (run, whole))) == []


def test_a_worker_ends_when_its_parent_says_so(tmp_path):
    """multiprocessing stops what is left at its exit by SIGTERM."""
    seen = []

    def work():
        WorkerInit(seen.append)(3)
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / f'initialized {seen}').touch()
        time.sleep(60)

    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    assert [path.name for path in tmp_path.iterdir()] == ['initialized [3]']
    time.sleep(0.1)
    assert process.is_alive()
    process.terminate()
    assert status_of(process, 10) == 0


def test_without_a_checkpoint_hook_it_only_stops(log):
    runner = SimpleNamespace(hooks=[], logger=logging.getLogger('mmengine'), optim_wrapper=None, epoch=0, iter=0)
    hook = TerminationHook()
    hook.after_train_iter(runner, 0)
    hook.requested = True
    with pytest.raises(SystemExit, match='143'):
        hook.after_train_iter(runner, 0)
    assert 'stopped without a checkpoint' in log.text


def test_puts_the_handler_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    toy_runner(tmp_path / 'run').train()
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_may_train(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(toy_runner(tmp_path / 'run').train).result()
    assert names(tmp_path / 'run')[-1] == 'epoch_3.pth'
