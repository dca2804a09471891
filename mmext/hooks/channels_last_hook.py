"""The memory format of the weights."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmext.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Store weights, and with them activations, in `torch.channels_last`: on a CPU convolutions are much faster.

    Results change by rounding alone, from the same initial weights. A torch older than 2.13 may draw other initial
    weights for the same seed: mmengine initializes them after this hook, and torch fills them in the order of their
    memory. Checkpoints do not change: their tensors are saved in the usual format, and any checkpoint can be loaded,
    with or without this hook.

    Args:
        devices: Types of the devices on which the format is changed. It has been measured on CPUs alone; for GPUs
            add `'cuda'`.
    """

    # After EMAHook: it has put its weights into the checkpoint by then. They keep their format; it refers to them by
    # the memory that they have when it is built.
    priority = 'BELOW_NORMAL'

    def __init__(self, devices: Sequence[str] = ('cpu',)):
        self.devices = devices
        self.active = False

    def before_run(self, runner: Runner) -> None:
        """Change the format of the weights; convolutions then change that of their inputs."""
        self.active = next(runner.model.parameters()).device.type in self.devices
        if self.active:
            runner.model.to(memory_format=torch.channels_last)
            if is_model_wrapper(runner.model):
                # A wrapper that averages gradients lays them out as the weights are when it is built.
                runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), runner.model.module)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Change the format of the optimizer's states, if a run is resumed."""
        if self.active:
            change_format(checkpoint.get('optimizer', {}), torch.channels_last)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save all tensors in the usual format."""
        if self.active:
            change_format(checkpoint, torch.contiguous_format)


def change_format(tensors: dict, memory_format: torch.memory_format) -> None:
    """Change the memory format of the 4-D tensors in a dict, and in the dicts in it."""
    for key, value in tensors.items():
        if isinstance(value, dict):
            change_format(value, memory_format)
        elif isinstance(value, Tensor) and value.dim() == 4:
            tensors[key] = value.contiguous(memory_format=memory_format)
