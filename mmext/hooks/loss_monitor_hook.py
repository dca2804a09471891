"""What the losses and gradients of a training say while it runs."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from mmext.compat import mark_non_finite
from mmext.errors import NonFiniteError
from mmext.registry import HOOKS

# The losses that only positives have: exactly 0 if no prior was assigned.
BOX_LOSSES = re.compile('box|iou|reg')
# A dynamic loss scale starts at 2**16 and is halved for each step with an infinite gradient.
SMALLEST_SCALE = 2**-10


@dataclass(frozen=True)
class Event:
    """The first value that was not finite.

    Attributes:
        iteration: From 0.
        what: Which value, and what it is.
        images: Files of the batch.
        rank: The process that found it.
        is_loss: Whether it is a loss.
    """

    iteration: int
    what: str
    images: tuple[str, ...]
    rank: int
    is_loss: bool = False


@HOOKS.register_module()
class LossMonitorHook(Hook):
    """Log the share of each loss, warn if no prior is assigned, and stop if a loss or gradient is not finite.

    * `share_cls`, `share_bbox`, ... are the shares of `loss_cls`, `loss_bbox`, ... in the total, in [0, 1]: means over
      the window of mmengine's log. Losses of several layers (`d0.loss_cls`, `d1.loss_cls`) are added up.
    * If a box loss is exactly 0 for `patience` iterations in a row, no prior was assigned to any object: it warns once.
    * The first loss or gradient that is NaN or infinite ends the training before the next checkpoint is saved.

    The step gets no host synchronization. mmengine reads the losses in each iteration, and the hook takes its numbers.
    Gradients are checked by one fused operation before each step of the optimizer. Its result stays on the device,
    where the steps since the first bad one are counted, and is read when mmengine logs. With several ranks all stop in
    the same iteration, when mmengine logs, and rank 0 reports.

    A loss scaler (`AmpOptimWrapper`) skips steps with infinite gradients, which is normal: these are not checked. But
    if the scale falls below 2**-10, hardly any gradient was finite, and the training stops.

    `mmext train` adds it. Under other tools add it to the hooks of the base::

        custom_hooks = [*_base_.custom_hooks, dict(type='mmext.LossMonitorHook')]

    Args:
        patience: The number of iterations in a row without any assigned prior after which it warns.

    Raises:
        NonFiniteError: In training, at the first loss or gradient that is not finite.
    """

    # After RuntimeInfoHook, which reads the losses; before LoggerHook, which logs the shares, and CheckpointHook.
    priority = 'NORMAL'

    def __init__(self, patience: int = 100):
        self.patience = patience
        self.without_priors: Counter[str] = Counter()
        self.warned = False
        self.bad_loss: Event | None = None
        # 1 from the first gradient that is not finite on, and the number of steps since then; on the device.
        self.found: Tensor | None = None
        self.bad_steps: Tensor | None = None
        # Since they were read last: the iterations with a step of the optimizer, and the images of each iteration.
        self.steps: list[int] = []
        self.images: dict[int, tuple[str, ...]] = {}
        self.handles: list = []

    def before_train(self, runner: Runner) -> None:
        """Check the gradients before each step of the optimizers."""
        for wrapper in wrappers(runner):
            if isinstance(wrapper.optimizer, torch.optim.Optimizer):
                self.handles.append(wrapper.optimizer.register_step_pre_hook(self._check_gradients))

    def after_train(self, runner: Runner) -> None:
        """Check no more."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Note the images of the batch."""
        self.iteration = runner.iter
        self.images[runner.iter] = images_of(data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        """Look at the losses; when mmengine logs, compute the shares and look at the gradients."""
        names = [name for name in outputs or () if f'train/{name}' in runner.message_hub.log_scalars]
        losses = {name: runner.message_hub.get_scalar(f'train/{name}').current() for name in names if 'loss' in name}
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if bad and self.bad_loss is None:
            # The total is not finite either, and says less.
            parts = {name: value for name, value in bad.items() if name != 'loss'} or bad
            what = ', '.join(f'{name} is {value}' for name, value in parts.items())
            self.bad_loss = Event(runner.iter, what, self.images.get(runner.iter, ()), get_rank(), is_loss=True)
        self._warn_without_priors(runner, losses)
        if self._logs(runner, batch_idx):
            log_shares(runner, losses)
            self._read(runner)
        elif self.bad_loss and get_world_size() == 1:
            self._read(runner)

    def _logs(self, runner: Runner, batch_idx: int) -> bool:
        """Whether mmengine logs after this iteration, the epoch ends, or a checkpoint is saved."""
        interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50)
        saves = any(
            self.every_n_train_iters(runner, hook.interval)
            for hook in runner.hooks
            if isinstance(hook, CheckpointHook) and not hook.by_epoch
        )
        return (
            saves
            or self.every_n_inner_iters(batch_idx, interval)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
        )

    def _warn_without_priors(self, runner: Runner, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if BOX_LOSSES.search(name):
                self.without_priors[name] = self.without_priors[name] + 1 if value == 0 else 0
        missing = [name for name, count in self.without_priors.items() if count >= self.patience]
        if missing and not self.warned:
            self.warned = True
            runner.logger.warning(
                f'{", ".join(missing)} was 0 in each of the last {self.patience} iterations: no prior was assigned to '
                'any object. Check that the images have boxes after the pipeline, that the boxes are in pixels of the '
                'resized image, and that the strides or anchors fit their sizes'
            )

    @torch.no_grad()
    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Count the step if a gradient was not finite in it or before, without host synchronization."""
        # A fused optimizer under a loss scaler skips the step itself.
        if getattr(optimizer, 'found_inf', None) is not None:
            return
        gradients = defaultdict(list)
        for group in optimizer.param_groups:
            for weight in group['params']:
                if weight.grad is not None and not weight.grad.is_sparse:
                    gradients[weight.grad.device, weight.grad.dtype].append(weight.grad)
        for (device, _), tensors in gradients.items():
            if self.found is None:
                self.found, self.bad_steps = torch.zeros(2, 1, device=device).unbind()
                self.scale = torch.ones(1, device=device)
            mark_non_finite(tensors, self.found, self.scale)
        if self.found is not None:
            self.bad_steps += self.found
        self.steps.append(self.iteration)

    def _read(self, runner: Runner) -> None:
        """Stop if something was not finite since the last call, on any rank."""
        events = [event for event in (self.bad_loss, self._bad_gradient(), self._bad_scale(runner)) if event]
        if get_world_size() > 1:
            device = next(runner.model.parameters()).device
            flag = torch.tensor(float(bool(events)), device=device)
            all_reduce(flag, 'max')
            if flag.item():
                events = [event for each in all_gather_object(events) for event in each]
        if events:
            # A bad loss on one rank makes the gradients of all bad, in the same iteration.
            message = explain(runner, min(events, key=lambda event: (event.iteration, not event.is_loss)))
            # One message: the other ranks have nothing to add.
            raise NonFiniteError(message) if get_rank() == 0 else SystemExit(2)
        self.steps.clear()
        self.images.clear()

    def _bad_gradient(self) -> Event | None:
        count = 0 if self.bad_steps is None else int(self.bad_steps)
        if not count:
            return None
        iteration = self.steps[-count]
        return Event(
            iteration, 'a gradient is not finite, though the losses are', self.images.get(iteration, ()), get_rank()
        )

    def _bad_scale(self, runner: Runner) -> Event | None:
        scalers = [getattr(wrapper, 'loss_scaler', None) for wrapper in wrappers(runner)]
        scales = [scaler.get_scale() for scaler in scalers if scaler is not None]
        if not scales or min(scales) >= SMALLEST_SCALE:
            return None
        what = f'the loss scale has fallen to {min(scales):.1g}: hardly any gradient was finite'
        return Event(runner.iter, what, self.images.get(runner.iter, ()), get_rank())


def wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizer wrappers of a runner."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def images_of(batch: object) -> tuple[str, ...]:
    """The files of the images in a batch, as far as its samples name them."""
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    if isinstance(samples, dict):
        samples = [sample for branch in samples.values() for sample in branch]
    return tuple(str(path) for sample in samples if (path := getattr(sample, 'img_path', None)))


def log_shares(runner: Runner, names: Iterable[str]) -> None:
    """Give mmengine's log the share of each loss in the total: `share_cls` of `loss_cls`."""
    parts = [name for name in names if name != 'loss']
    if len(parts) < 2:
        return
    window = runner.log_processor.window_size
    mean = {name: runner.message_hub.get_scalar(f'train/{name}').mean(window) for name in [*parts, 'loss']}
    shares: Counter[str] = Counter()
    for name in parts:
        shares[name.rpartition('.')[2].replace('loss', 'share', 1)] += mean[name] / mean['loss'] if mean['loss'] else 0
    for name, share in shares.items():
        runner.message_hub.update_scalar(f'train/{name}', share)


def explain(runner: Runner, event: Event) -> str:
    """The message of the end of a training: what, where, and what to try."""
    rates = {name: values[0] for name, values in runner.optim_wrapper.get_lr().items() if 'base' not in name}
    rate = ', '.join(f'{name}={value:.3g}' for name, value in rates.items())
    length = len(runner.train_dataloader)
    place = f'iteration {event.iteration + 1} (epoch {event.iteration // length + 1})'
    rank = f' on rank {event.rank}' if get_world_size() > 1 else ''
    images = f' Images of the batch: {", ".join(event.images)}.' if event.images else ''
    return (
        f'training stopped in {place}{rank}: {event.what}. Learning rate: {rate}.{images} {last_checkpoint(runner)}. '
        f'{remedy(runner, rates.values())}'
    )


def remedy(runner: Runner, rates: Iterable[float]) -> str:
    """What to try."""
    if not all(map(math.isfinite, rates)):
        return 'The learning rate itself is not finite: set optim_wrapper.optimizer.lr'
    lower_precision = any(type(wrapper).__name__ != 'OptimWrapper' for wrapper in wrappers(runner))
    return (
        'Try a lower optim_wrapper.optimizer.lr, a longer warm-up in param_scheduler, or '
        'optim_wrapper.clip_grad=dict(max_norm=35, norm_type=2)'
        + (', or train without --amp' if lower_precision else '')
        + '; if it happens at any learning rate, check the boxes of these images'
    )


def last_checkpoint(runner: Runner) -> str:
    """Where the last checkpoint is, whose weights are finite."""
    file = Path(runner.work_dir, 'last_checkpoint')
    return f'The last checkpoint is {file.read_text().strip()}' if file.is_file() else 'No checkpoint was saved'
