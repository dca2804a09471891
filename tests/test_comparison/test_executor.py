"""What jobs may use; tests/test_tools/test_compare.py runs them."""

import io
import os
import sys
from collections import deque
from types import SimpleNamespace

import cloudpickle
import pytest
import torch
from rich.console import Console
from submitit.core.utils import FailedJobError, UncompletedJobError
from toy_training import resources

from mmext.comparison import executor
from mmext.comparison.executor import (
    Resources,
    environment,
    execute,
    make_executor,
    reason,
    submit,
    threads_per_job,
    visible_gpus,
)
from mmext.comparison.plan import Run
from mmext.comparison.progress import Progress


@pytest.mark.parametrize('given, gpus', [(None, [0, 1]), ('3,5', [3, 5]), ('3', [3])])
def test_the_gpus_that_this_process_may_use(given, gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: len(gpus))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if given:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', given)
    assert visible_gpus() == gpus
    assert Resources().jobs == len(gpus)
    assert Resources(jobs=1).jobs == 1


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(executor, 'visible_gpus', list)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))
    assert Resources().jobs == 1
    assert [threads_per_job(Resources(jobs=jobs)) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv('A', '1')
    monkeypatch.delenv('B', raising=False)
    with environment(A='2', B='3'):
        assert (os.environ['A'], os.environ['B']) == ('2', '3')
    assert os.environ['A'] == '1'
    assert 'B' not in os.environ


def failing(error):
    def exception():
        if isinstance(error, UncompletedJobError):
            raise error
        return error

    return SimpleNamespace(exception=exception, state='INTERRUPTED', paths=SimpleNamespace(stderr='jobs/1.err'))


def test_the_reason_is_the_last_error_and_names_the_log():
    trace = 'Job failed\nTraceback\n  File "x"\nKeyError: 1\n\nmmext.losses.OddError: no\n----'
    assert reason(failing(FailedJobError(trace))) == 'mmext.losses.OddError: no (log: jobs/1.err)'
    assert reason(failing(UncompletedJobError('killed'))) == 'INTERRUPTED (log: jobs/1.err)'


def test_a_job_sees_its_own_gpu_alone(tmp_path, monkeypatch):
    local, free = make_executor(tmp_path, Resources(jobs=1)), deque([3, 5])
    with monkeypatch.context() as patch:
        patch.setattr(local, 'submit', lambda *arguments: None)
        assert submit(local, Run(tmp_path, 'stock', 0), free).gpu == 3
    assert list(free) == [5]
    assert local.submit(os.getenv, 'CUDA_VISIBLE_DEVICES').result() == '3'


def test_slurm_gets_the_options_of_sbatch(tmp_path, monkeypatch):
    resources = Resources('slurm', jobs=4, slurm={'partition': 'gpu', 'time': 240})
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ValueError, match='no srun'):
        make_executor(tmp_path, resources)
    (tmp_path / 'srun').write_text('#!/bin/sh')
    (tmp_path / 'srun').chmod(0o755)
    slurm = make_executor(tmp_path, resources)
    assert slurm.parameters == {'job_name': 'mmext', 'gpus_per_node': 1, 'partition': 'gpu', 'time': 240}
    script = slurm._make_submission_file_text('train', 'id')
    assert '#SBATCH --partition=gpu' in script
    assert '#SBATCH --gpus-per-node=1' in script
    by_gres = make_executor(tmp_path, Resources('slurm', jobs=4, slurm={'gres': 'gpu:a100:1'}))
    assert 'gpus_per_node' not in by_gres.parameters


class ShortRun:
    """A job in a process of its own that only writes a result; it is sent by value, and imports nothing heavy."""

    def __call__(self, folder, name, seed):
        from pathlib import Path

        file = Path(folder, name, f'seed_{seed}', 'result.json')
        (log := file.parent / '20260101_000000' / 'vis_data').mkdir(parents=True)
        (log / 'scalars.json').write_text('{"step": 1, "loss": 1.0}\n' * 1000)
        file.write_text('{"epochs": 1, "metrics": {"AP": 0.5}}')


class WatchedProgress(Progress):
    """Notes the memory in MB, the open files and the threads of the command after each run."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.resources = []

    def ended(self, run, failure):
        super().ended(run, failure)
        assert failure is None, failure
        self.resources.append(resources())


@pytest.mark.parametrize('number', [12, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_many_runs_leave_nothing_behind(number, tmp_path, monkeypatch):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(executor, 'Training', ShortRun)
    monkeypatch.setattr(executor, 'SECONDS_BETWEEN_LOOKS', 0.1)
    runs = [Run(tmp_path, name, seed) for seed in range(number // 2) for name in ('stock', 'focal')]
    console = Console(file=io.StringIO(), force_terminal=True)
    with WatchedProgress(runs, 1, 2, console) as progress:
        assert execute(runs, tmp_path, Resources(jobs=2), progress) == {}
    memory, files, threads = zip(*progress.resources)
    print(f'{memory[1]:.1f} to {memory[-1]:.1f} MB, {files[1]} to {files[-1]} files, {threads[1]} to {threads[-1]}')
    assert len(memory) == number
    # Two runs are under way at a time.
    assert max(files[4:]) <= max(files[:4]) and max(threads[4:]) <= max(threads[:4])
    assert memory[-1] - memory[3] < 0.1 * number
