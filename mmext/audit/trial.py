"""A trial of the training that a config describes, without a runner: the model, batches, a few steps."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice

from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from .findings import Finding


def build_loader(config: Config, seed: int = 0) -> DataLoader:
    """The loader of the training data, in this process."""
    loader = deepcopy(config.train_dataloader)
    for key in ('persistent_workers', 'prefetch_factor', 'pin_memory'):
        loader.pop(key, None)
    return Runner.build_dataloader({**loader, 'num_workers': 0}, seed=seed)


def endless(loader: DataLoader) -> Iterator[dict]:
    """The batches of a loader, epoch after epoch; none if an epoch has none."""
    empty = False
    while not empty:
        empty = True
        for batch in loader:
            empty = False
            yield batch


def build_model(config: Config) -> tuple[nn.Module, list[Finding]]:
    """The detector with its initial weights, and a finding if pretrained weights cannot be had."""
    # Detectors write into their config.
    model = MODELS.build(deepcopy(config.model))
    try:
        model.init_weights()
        found = []
    except OSError as error:
        # A download without a network, or a file that is not there.
        message = f'the pretrained weights cannot be loaded ({error}); the losses below are those without them'
        found = [Finding('warning', 'model.backbone.init_cfg', message, 'Check the network, or the path')]
        for module in model.modules():
            if (getattr(module, 'init_cfg', None) or {}).get('type') == 'Pretrained':
                module.init_cfg = None
        model.init_weights()
    return model.to(get_device()), found


def build_hooks(config: Config) -> list[Hook]:
    """The custom hooks and the checkpoint hook of a config."""
    default = (config.get('default_hooks') or {}).get('checkpoint')
    hooks = [*(config.get('custom_hooks') or []), *([default] if default else [])]
    return [HOOKS.build({key: value for key, value in hook.items() if key != 'priority'}) for hook in hooks]


def train(model: nn.Module, config: Config, loader: DataLoader, iters: int) -> None:
    """Train the model for some iterations, with the optimizer and the warm-up of the config, without its hooks."""
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    wrapper.initialize_count_status(model, 0, iters)
    scaling = config.get('auto_scale_lr') or {}
    if scaling.get('enable'):
        for group in wrapper.optimizer.param_groups:
            group['lr'] *= config.train_dataloader.batch_size / scaling['base_batch_size']
    schedulers = config.get('param_scheduler') or []
    default = dict(optimizer=wrapper, epoch_length=len(loader))
    built = [
        PARAM_SCHEDULERS.build(
            {'end': config.train_cfg.get('max_epochs', iters), **deepcopy(each)}, default_args=default
        )
        for each in (schedulers if isinstance(schedulers, list) else [schedulers])
    ]
    model.train()
    for batch in islice(endless(loader), iters):
        model.train_step(batch, wrapper)
        for scheduler in built:
            # The others step at the end of an epoch.
            if not scheduler.by_epoch:
                scheduler.step()
