"""What differs between the supported versions of torch and mmengine, here alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import Tensor

from mmext.errors import UserError

TORCH = digit_version(torch.__version__)
CPU_INFO = Path('/proc/cpuinfo')

# Before 2.7 torch's own `weights_only` cannot be told to take one object for another.
HAS_SAFE_LOADING = digit_version('2.7.0') <= TORCH

# Before 2.3 torch.compiler has no such function.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling

# The oldest torch that has done it in the tests, by what needs it.
OLDEST_TORCH = {'compile': '2.13', 'onnx': '2.13'}


def torch_can(feature: str) -> bool:
    """Whether this torch is new enough for a feature, a key of :data:`OLDEST_TORCH`."""
    return digit_version(OLDEST_TORCH[feature]) <= TORCH


def check_torch_can(feature: str, name: str) -> None:
    """Refuse what this torch is too old for.

    Args:
        feature: A key of :data:`OLDEST_TORCH`.
        name: What the user asked for, as it is written in the config or on the command line.

    Raises:
        UserError: If this torch is too old; it names both versions.
    """
    if not torch_can(feature):
        raise UserError(
            f'{name} needs torch {OLDEST_TORCH[feature]} or later, and this is torch {torch.__version__}: '
            f'leave it out, or install a newer torch (docs/compatibility.md lists the tested combinations)'
        )


def recompile_limit(limit: int) -> dict[str, int]:
    """The setting of `torch._dynamo.config` for so many compilations of one function."""
    old = 'cache_size_limit'
    return {'recompile_limit' if hasattr(torch._dynamo.config, 'recompile_limit') else old: limit}


def mark_non_finite(tensors: list[Tensor], found: Tensor, scale: Tensor) -> None:
    """Set a flag if tensors hold NaN or infinity, without host synchronization.

    This is the loss scaler's check, which before torch 2.3 does not exist for CPUs.

    Args:
        tensors: Tensors of one device and type.
        found: The flag, (1,): unchanged if all is finite, and otherwise set to 1.
        scale: A tensor of 1, (1,): the check multiplies by it.
    """
    if found.is_cpu and digit_version('2.3') > TORCH:
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        found.masked_fill_(~finite, 1)
    else:
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, scale)


def cpu_capabilities() -> Mapping[str, object]:
    """The instruction sets of the CPU, such as `avx512_bf16`, and its name as `cpu_name`.

    These are `torch.cpu.get_capabilities()`, or without that function, which torch 2.6 does not have, what the kernel
    lists.
    """
    if hasattr(torch.cpu, 'get_capabilities'):
        return torch.cpu.get_capabilities()
    lines = [line.partition(':') for line in CPU_INFO.read_text().splitlines()] if CPU_INFO.is_file() else []
    about = {key.strip(): value.strip() for key, _, value in lines}
    flags = about.get('flags') or about.get('Features') or ''
    return {'cpu_name': about.get('model name'), **dict.fromkeys(flags.split(), True)}


def start_of(event: Any) -> int:
    """When an event of torch's profiler started: in nanoseconds, or in microseconds before torch 2.4."""
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()
