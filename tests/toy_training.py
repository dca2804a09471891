"""A training of a second with mmengine's runner, and processes that end in the middle of it."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from conftest import load_tool
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmext.checkpoints import newest_checkpoint, register_loaders
from mmext.cli.common import build_runner, make_resumable, one_message
from mmext.cli.main import run

# Iterations of an epoch.
LENGTH = 4


@DATASETS.register_module()
class ToyNumbers(Dataset):
    """Samples with a random part, as an augmentation has."""

    def __init__(self, length=2 * LENGTH, noise=1.0):
        self.length = length
        self.noise = noise

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=index + self.noise * torch.rand(4))


@MODELS.register_module()
class ToyModel(BaseModel):
    """A layer with a dropout before it, and on request a batch normalization."""

    def __init__(self, dropout=0.5, normalize=False):
        super().__init__()
        self.dropout = dropout
        self.layer = torch.nn.Linear(4, 1)
        self.norm = torch.nn.BatchNorm1d(4) if normalize else torch.nn.Identity()
        # So that a checkpoint is larger than all other files.
        self.register_buffer('ballast', torch.zeros(100_000))

    def forward(self, inputs, mode='tensor'):
        output = self.layer(torch.nn.functional.dropout(self.norm(torch.stack(inputs)), self.dropout))
        return dict(loss=output.square().mean()) if mode == 'loss' else output.tolist()


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """The sum of all outputs, a metric that is better each time, and one that is worse after the second epoch."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results += [output for (output,) in data_samples]

    def compute_metrics(self, results):
        hub = MessageHub.get_current_instance()
        step, epoch = hub.get_info('iter'), hub.get_info('epoch')
        return dict(acc=step, loss=-step, jump=(1, 0, 2)[step // LENGTH % 3], epoch=epoch, sum=sum(results))


def toy_runner(
    work_dir: Path,
    resume: bool = False,
    train_cfg: dict | None = None,
    workers: int = 0,
    batch_size: int = 2,
    accumulative_counts: int = 1,
    seed: int | None = 3,
    model: dict | None = None,
    val: dict | None = None,
    hooks: Sequence[dict] = (),
    env_cfg: dict | None = None,
    dataset: dict | None = None,
    lr: float = 0.01,
    **checkpoint: object,
) -> Runner:
    """A runner with mmext's hooks, for three epochs of four iterations, with a validation after each.

    Args:
        work_dir: The folder of the training.
        resume: Resume from the newest checkpoint.
        train_cfg: The training loop.
        workers: The number of workers of the training data.
        batch_size: The size of a batch; with 2, an epoch has :data:`LENGTH` iterations.
        accumulative_counts: The number of iterations for a step of the optimizer.
        seed: The seed of the training.
        model: Arguments of the model.
        hooks: Further hooks.
        env_cfg: mmengine's settings of the environment.
        val: Arguments of the data of the validation.
        dataset: The data set of training and validation.
        lr: The learning rate; with the default it diverges after more than three epochs.
        **checkpoint: Arguments of the checkpoint hook.
    """
    by_epoch = train_cfg is None or train_cfg['by_epoch']
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    loader = dict(
        dataset=dataset or dict(type='ToyNumbers'), batch_size=batch_size, num_workers=workers, sampler=sampler
    )
    config = Config(
        dict(
            work_dir=str(work_dir),
            model=dict(type='ToyModel', **model or {}),
            train_cfg=train_cfg or dict(by_epoch=True, max_epochs=3),
            val_cfg=dict(),
            val_dataloader=dict(
                loader,
                dataset={**loader['dataset'], **(val or {})},
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
            ),
            val_evaluator=dict(type='ToyMetric'),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=lr, momentum=0.9), accumulative_counts=accumulative_counts
            ),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', **{'interval': 1, **checkpoint})),
            custom_hooks=[dict(type='EMAHook', update_buffers=True), *hooks],
            randomness=dict(seed=seed),
            experiment_name=str(work_dir),
            resume=resume,
            env_cfg=env_cfg or {},
            launcher=os.environ.get('TOY_LAUNCHER', 'none'),
            # None: a scope would stay for the tests that follow.
            default_scope=None,
        )
    )
    config.train_dataloader = loader
    make_resumable(config)
    if resume:
        register_loaders()
        config.load_from = str(newest_checkpoint(work_dir))
    return build_runner(config)


def resources() -> tuple[float, int, int]:
    """Resident memory in MB, open files and threads of this process."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * resource.getpagesize() / 1e6, len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))


DETECTOR = """
_base_ = 'mmext::yolox/yolox_nano_recommended_1xb8-9e_shapes.py'
root = {root!r}
model = dict(
    backbone=dict(widen_factor=0.125), neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32))
resize = dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True)
train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, dataset=dict(data_root=root, pipeline=[
        _base_.load, _base_.annotations, resize, *_base_.augmentation, _base_.pack]))
val_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(data_root=root, pipeline=[
    _base_.load, resize, _base_.annotations, _base_.test_pack]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + '/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs={epochs}, val_interval=10)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end={epochs}, T_max={epochs} - 1)]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1), logger=dict(interval=10))
"""


def write_detector(folder: Path, epochs: int) -> Path:
    """Draw forty images, and write the config of a small YOLOX that trains on them: 20 iterations an epoch.

    Args:
        folder: Where to write both.
        epochs: The length of the training.

    Returns:
        The config.
    """
    root = str(folder / 'shapes')
    load_tool('make_shapes').main(['--out', root, '--train', '40', '--val', '4', '--size', '64'])
    config = folder / 'detector.py'
    config.write_text(DETECTOR.format(root=root, epochs=epochs))
    return config


def in_a_process(function: Callable[[], None], output: Path, prepare: Callable[[], None] | None = None):
    """Start the function in a forked process, which spares the imports, with its output in WORK_DIR.out."""

    def call():
        sys.stdout = sys.stderr = open(output, 'a', buffering=1)  # noqa: SIM115
        # mmengine keeps visualizers by their names in a process; those of earlier tests store in other folders.
        DetLocalVisualizer._instance_dict.clear()
        if prepare:
            prepare()
        with one_message(str(output.with_suffix(''))):
            function()

    def work():
        sys.exit(run(call))

    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    return process


def status_of(process, seconds=300):
    """The exit status of the process; negative for a signal."""
    process.join(seconds)
    assert process.exitcode is not None, 'the training hangs'
    return process.exitcode


def call_at(step: str, iteration: int, action: Callable[[Runner], object]) -> Callable[[], None]:
    """What makes a process call this before the hooks of this step in this iteration, counted from 0."""

    def prepare():
        call_hook = Runner.call_hook

        def call(runner, name, **arguments):
            if name == step and runner.iter == iteration:
                action(runner)
            call_hook(runner, name, **arguments)

        Runner.call_hook = call

    return prepare


def signal_at(step: str, iteration: int, number: int = signal.SIGKILL) -> Callable[[], None]:
    """What makes a process send itself a signal; see :func:`call_at`."""
    return call_at(step, iteration, lambda runner: os.kill(os.getpid(), number))


def kill_in(owner: object, name: str, *words: str) -> Callable[[], None]:
    """What makes a process kill itself when it calls a function with arguments that contain these words."""

    def prepare():
        function = getattr(owner, name)

        def call(*arguments, **keywords):
            if all(word in str(arguments) for word in words):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        setattr(owner, name, call)

    return prepare


# The time of day, durations, and the folder.
VARYING = ('time', 'data_time', 'eta', 'experiment_name', 'cfg', 'last_ckpt')


def differences(a, b, place='', varying=VARYING):
    """The places at which two checkpoints differ; tensors bit by bit."""
    if place.split('/')[-1] in varying:
        return []
    if type(a) is not type(b):
        return [place]
    if isinstance(a, HistoryBuffer):
        a, b = a.data, b.data
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f'{place}: {set(a) ^ set(b)}']
        return [each for key in a for each in differences(a[key], b[key], f'{place}/{key}', varying)]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [place]
        return [each for i in range(len(a)) for each in differences(a[i], b[i], f'{place}/{i}', varying)]
    if isinstance(a, torch.Tensor):
        equal = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    elif isinstance(a, np.ndarray):
        equal = a.dtype == b.dtype and np.array_equal(a, b)
    else:
        equal = a == b
    return [] if equal else [place]
