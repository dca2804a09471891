"""Memory, open files, threads and step time of a long training do not grow."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from toy_training import resources, toy_runner, write_detector

from mmext.cli import train as cli_train
from mmext.cli.common import build_runner


class Watch(Hook):
    """Notes the resources after each tenth of a training, and the CPU time of each iteration."""

    priority = 'LOWEST'

    def __init__(self, iterations):
        self.interval = iterations // 10
        self.seconds: list[float] = []
        self.resources: list[tuple[float, int, int]] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.start = time.thread_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # Not by the clock, which counts what other processes do; in this thread alone, which runs the hooks.
        self.seconds.append(time.thread_time() - self.start)
        if (runner.iter + 1) % self.interval == 0:
            self.resources.append(resources())

    def growth(self) -> dict[str, float]:
        """What the second half of the training adds; the step time as a ratio. The first fifth fills caches."""
        memory, files, threads = np.array(self.resources).T
        seconds = np.array(self.seconds)
        fifth = len(seconds) // 5
        return dict(
            # By the slope of all points, as the allocator moves in steps.
            memory=np.polyfit(range(8), memory[2:], 1)[0] * 5,
            files=files[2:].max() - files[1],
            threads=threads[2:].max() - threads[1],
            step=np.median(seconds[-fifth:]) / np.median(seconds[fifth : 2 * fifth]),
        )


def check(growth, memory):
    """Whether nothing grows.

    Args:
        growth: Of :class:`Watch`.
        memory: The most MB that half of the training may add.
    """
    assert growth['memory'] < memory, growth
    assert growth['files'] <= 0 and growth['threads'] <= 0, growth
    assert growth['step'] < 1.25, growth


ITERATIONS = 600


def toy_growth(work_dir, leak=None):
    """The growth of a training that validates and saves, and may have a leak."""
    train_cfg = dict(by_epoch=False, max_iters=ITERATIONS, val_interval=ITERATIONS // 10)
    saves = dict(by_epoch=False, interval=ITERATIONS // 10, max_keep_ckpts=1)
    runner = toy_runner(work_dir, train_cfg=train_cfg, lr=1e-5, **saves)
    watch = Watch(ITERATIONS)
    runner.register_hook(watch)
    if leak:
        runner.register_hook(leak)
    runner.train()
    return watch.growth()


def test_a_training_does_not_grow(tmp_path):
    check(toy_growth(tmp_path / 'run'), memory=4)


class Leak(Hook):
    """Keeps something of each iteration."""

    def __init__(self, kind):
        self.kind = kind
        self.kept = []
        self.end = threading.Event()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.kind == 'memory':
            # More than a process of many tests has free.
            self.kept.append(torch.ones(200_000))
        elif self.kind == 'files' and runner.iter % 20 == 0:
            self.kept.append(open(os.devnull))  # noqa: SIM115
        elif self.kind == 'threads' and runner.iter % 60 == 0:
            self.kept.append(threading.Thread(target=self.end.wait))
            self.kept[-1].start()
        elif self.kind == 'step':
            self.kept += [runner.iter] * 30
            sorted(self.kept, key=lambda number: -number)

    def close(self):
        self.end.set()
        for each in self.kept:
            if hasattr(each, 'close'):
                each.close()


@pytest.mark.parametrize('kind', ['memory', 'files', 'threads', 'step'])
def test_a_leak_is_found(kind, tmp_path):
    leak = Leak(kind)
    growth = toy_growth(tmp_path / 'run', leak)
    leak.close()
    with pytest.raises(AssertionError):
        check(growth, memory=4)
    sound = dict(memory=0, files=0, threads=0, step=1)
    with pytest.raises(AssertionError):
        check({**sound, kind: growth[kind]}, memory=4)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_iterations_of_a_detector(tmp_path, monkeypatch):
    """Through `mmext train`, with workers, ten validations and ten checkpoints."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    config = write_detector(tmp_path, epochs=100)
    watch = Watch(2000)

    def build(config):
        runner = build_runner(config)
        runner.register_hook(watch)
        return runner

    monkeypatch.setattr(cli_train, 'build_runner', build)
    cli_train.main([str(config), '--work-dir', str(tmp_path / 'run')])
    for row in watch.resources:
        print('{:.1f} MB, {} files, {} threads'.format(*row))
    growth = watch.growth()
    print(growth, 1e3 * np.median(watch.seconds), 'ms')
    assert len(watch.seconds) == 2000
    check(growth, memory=20)
