"""Processes that communicate over gloo, of which none may wait forever."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

# Wrapping a model for several ranks imports it: here once, instead of in each process.
import torch._dynamo
from toy_training import in_a_process

# Far more than any of these takes on an idle machine.
LIMIT = 120


def start_ranks(world_size: int, function: Callable[[int], object], folder: Path) -> list:
    """Start `function(rank)` in a process for each rank, with a launcher's environment and the output in RANK.out."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]

    def prepare(rank):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), TOY_LAUNCHER='pytorch')

    folder.mkdir(parents=True, exist_ok=True)
    return [
        in_a_process(partial(function, rank), folder / f'{rank}.out', partial(prepare, rank))
        for rank in range(world_size)
    ]


def statuses(processes: list, folder: Path, seconds: float = LIMIT) -> list[int]:
    """The exit statuses; the test fails if a rank has not ended after so many seconds."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    waiting = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank in waiting:
        processes[rank].kill()
        processes[rank].join()
    if waiting:
        pytest.fail(f'ranks {waiting} still wait after {seconds} s\n{outputs(folder)}')
    return [process.exitcode for process in processes]


def on_ranks(
    world_size: int, function: Callable[[int], object], folder: Path, seconds: float = LIMIT, init: bool = True
) -> list:
    """What the function returns on each rank of a gloo group, which it makes itself without `init`."""

    def work(rank):
        if init:
            torch.distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))
        torch.save(function(rank), folder / f'{rank}.pth')
        torch.distributed.barrier()
        # Without teardown, in which the threads of gloo abort the process now and then.
        os._exit(0)

    if any(statuses(start_ranks(world_size, work, folder), folder, seconds)):
        pytest.fail(outputs(folder))
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(world_size)]


def outputs(folder: Path) -> str:
    """What the ranks have printed."""
    return '\n'.join(f'{path.name}: {path.read_text()[-3000:]}' for path in sorted(folder.glob('*.out')))
