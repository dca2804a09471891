"""Optimizer wrappers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmext.compat import cpu_capabilities
from mmext.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's `OptimWrapper` with autocast to bfloat16: mixed precision on a CPU, where `AmpOptimWrapper` refuses.

    Weights, gradients of weights and optimizer states stay float32, as does what mmext's head computes from the
    network's outputs: the assignment, the decoded boxes and the losses. bfloat16 has the exponents of float32, so the
    loss needs no scaling. `mmext train --amp` uses this wrapper on a CPU. A CPU without bfloat16 instructions is slower
    with it than in float32; the first step then logs a warning.

    Args:
        **kwargs: mmengine's: `optimizer`, `accumulative_counts`, `clip_grad`.

    Example:
        >>> import torch
        >>> from mmext.optim import BFloat16OptimWrapper
        >>> model = torch.nn.Linear(2, 2)
        >>> wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        >>> with wrapper.optim_context(model):
        ...     output = model(torch.ones(1, 2))
        >>> wrapper.update_params(output.float().sum())
        >>> output.dtype, model.weight.dtype
        (torch.bfloat16, torch.float32)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._prepared = False

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """mmengine's context of a forward pass, under autocast to bfloat16."""
        device = next(model.parameters()).device.type
        if device == 'cpu' and not self._prepared:
            self._prepared = True
            warn_without_bfloat16()
            keep_strided_depthwise_in_float32(model)
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def warn_without_bfloat16() -> None:
    """Warn if the CPU has no instructions for bfloat16."""
    capabilities = cpu_capabilities()
    if not any(value for name, value in capabilities.items() if 'bf16' in name):
        print_log(
            f'This CPU ({capabilities.get("cpu_name") or "unknown"}) has no instructions for bfloat16: training in '
            'bfloat16 is slower here than in float32. Train without --amp',
            logger='current',
            level=logging.WARNING,
        )


def keep_strided_depthwise_in_float32(model: nn.Module) -> None:
    """Exempt the depthwise convolutions with a stride, YOLOX-nano's downsampling, from autocast on a CPU.

    oneDNN computes their gradient in bfloat16 without vector instructions: ten times slower than in float32.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1 and max(conv.stride) > 1:
            exempt_from_autocast(conv)


def exempt_from_autocast(module: nn.Module) -> None:
    """Run a module in float32 under a CPU's autocast."""
    exemption = torch.autocast('cpu', enabled=False)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        exemption.__enter__()
        return tuple(each.float() for each in inputs)

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        exemption.__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
