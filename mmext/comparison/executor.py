"""Runs as jobs, on this machine or on a Slurm cluster, by submitit."""

import os
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import submitit
import torch
from submitit.core.utils import UncompletedJobError
from submitit.helpers import Checkpointable

from mmext.errors import UserError

from .plan import Run
from .progress import Progress
from .run import train

EXECUTORS = ('local', 'slurm')
# submitit's limit for a local job, in minutes; a year is none.
NO_LIMIT = 60 * 24 * 365
SECONDS_BETWEEN_LOOKS, SECONDS_TO_STOP = 1.0, 60.0


@dataclass
class Resources:
    """What jobs may use.

    Attributes:
        executor: submitit's, `local` or `slurm`.
        jobs: How many jobs run at once; None: one for each GPU of this machine, or one.
        slurm: sbatch's options, by submitit's names.
    """

    executor: str = 'local'
    jobs: int | None = None
    slurm: dict[str, object] = field(default_factory=dict)

    def __post_init__(self):
        self.gpus = visible_gpus() if self.executor == 'local' else []
        if self.jobs is None:
            self.jobs = max(1, len(self.gpus))


@dataclass
class Job:
    """A run under way.

    Attributes:
        run: The run.
        job: submitit's job.
        gpu: The GPU that it has for itself on this machine; None: none, or Slurm gives it one.
    """

    run: Run
    job: submitit.Job
    gpu: int | None = None


class Training(Checkpointable):
    """A run as a job. Slurm requeues it when it is preempted or out of time; it then resumes."""

    def __call__(self, folder: str, name: str, seed: int) -> None:
        """Train; see :func:`mmext.comparison.run.train`."""
        train(folder, name, seed)


def visible_gpus() -> list[int]:
    """The numbers of the GPUs that this process may use."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    numbers = range(torch.cuda.device_count())
    return [int(each) for each in given.split(',')][: len(numbers)] if given else list(numbers)


def execute(runs: Sequence[Run], folder: Path, resources: Resources, progress: Progress) -> dict[Run, str]:
    """Train the runs, as many at once as the resources allow.

    An interruption stops the jobs of this machine: what they have trained is in their checkpoints.

    Args:
        runs: The runs.
        folder: The folder of the comparison.
        resources: What they may use.
        progress: The display.

    Returns:
        The runs that failed, and the reason.
    """
    executor = make_executor(folder, resources)
    waiting = deque(runs)
    active: list[Job] = []
    failures: dict[Run, str] = {}
    free_gpus = deque(resources.gpus)
    try:
        with environment(OMP_NUM_THREADS=str(threads_per_job(resources))):
            while waiting or active:
                while waiting and len(active) < resources.jobs:
                    active.append(submit(executor, waiting.popleft(), free_gpus))
                progress.look(list(waiting), [each.run for each in active])
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for ended in [each for each in active if each.job.done()]:
                    active.remove(ended)
                    if ended.gpu is not None:
                        free_gpus.append(ended.gpu)
                    if not ended.run.result_file.is_file():
                        failures[ended.run] = reason(ended.job)
                    progress.ended(ended.run, failures.get(ended.run))
    finally:
        stop(active)
    return failures


def stop(jobs: Sequence[Job]) -> None:
    """Stop jobs. Those of this machine save a checkpoint first.

    A job that is about to start ignores the signal until it trains, so the signal is repeated.
    """
    deadline = time.monotonic() + SECONDS_TO_STOP
    while (running := [each.job for each in jobs if not each.job.done()]) and time.monotonic() < deadline:
        for job in running:
            if isinstance(job, submitit.LocalJob):
                # Not by cancel(), which sends SIGINT: a shell's background jobs ignore that. The number is its process.
                os.kill(int(job.job_id), signal.SIGTERM)
            else:
                job.cancel(check=False)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def make_executor(folder: Path, resources: Resources) -> submitit.Executor:
    """submitit's executor, which keeps its files in `jobs/` of the folder.

    Raises:
        UserError: For Slurm where there is none.
    """
    if resources.executor == 'local':
        local = submitit.LocalExecutor(folder / 'jobs')
        local.update_parameters(timeout_min=NO_LIMIT)
        return local
    if not shutil.which('srun'):
        raise UserError('--executor slurm: this machine has no srun. Run the command where jobs are submitted')
    executor = submitit.SlurmExecutor(folder / 'jobs')
    gpus = {} if {'gpus_per_node', 'gres'} & resources.slurm.keys() else dict(gpus_per_node=1)
    executor.update_parameters(job_name='mmext', **gpus, **resources.slurm)
    return executor


def submit(executor: submitit.Executor, run: Run, free_gpus: deque[int]) -> Job:
    """Submit a run, with a GPU of its own if this machine has any."""
    gpu = free_gpus.popleft() if free_gpus else None
    if gpu is not None:
        executor.update_parameters(gpus_per_node=1, visible_gpus=[gpu])
    return Job(run, executor.submit(Training(), str(run.folder.resolve()), run.name, run.seed), gpu)


def threads_per_job(resources: Resources) -> int:
    """The cores of this machine, shared out among the jobs; with a GPU each, and with Slurm, as many as are set."""
    if resources.executor == 'slurm' or resources.gpus:
        return int(os.environ.get('OMP_NUM_THREADS', 1))
    return max(1, len(os.sched_getaffinity(0)) // resources.jobs)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables, which jobs inherit, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def reason(job: submitit.Job) -> str:
    """Why a job failed, and where its log is."""
    try:
        error = job.exception()
    except UncompletedJobError as uncompleted:
        error = uncompleted
    lines = [line.strip() for line in str(error).splitlines() if line.strip(' -')]
    last = next((line for line in reversed(lines) if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line)), job.state)
    return f'{last} (log: {job.paths.stderr})'
