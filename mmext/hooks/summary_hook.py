"""What is trained or tested, in a few lines before it starts."""

from pathlib import Path

from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmext import __version__
from mmext.registry import HOOKS

from .loss_monitor_hook import wrappers


@HOOKS.register_module()
class SummaryHook(Hook):
    """Log the config, the data, the model with its losses, the device and the paths before the first iteration.

    `mmext train` and `mmext test` add it.
    """

    # After CheckHook: a header would hide its message. Before ResumeHook, which may validate.
    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Log what is trained."""
        rows = {'training data': data_text(runner.train_dataloader)}
        if runner.val_loop is not None:
            rows['validation data'] = data_text(runner.val_dataloader)
        rows['model'] = model_text(runner.model)
        rows['losses'] = losses_text(runner.model)
        groups = [group for wrapper in wrappers(runner) for group in wrapper.param_groups]
        # The rate now is that of the warm-up.
        rate = max(group.get('initial_lr', group['lr']) for group in groups)
        length = f'{runner.max_epochs} epochs, ' if runner.train_loop.__class__.__name__.startswith('Epoch') else ''
        rows['schedule'] = f'{length}{runner.max_iters} iterations, learning rate {rate:g}'
        self._log(runner, 'training', rows)

    def before_test(self, runner: Runner) -> None:
        """Log what is tested."""
        self._log(
            runner, 'testing', {'test data': data_text(runner.test_dataloader), 'model': model_text(runner.model)}
        )

    def _log(self, runner: Runner, verb: str, rows: dict[str, str]) -> None:
        processes = get_world_size()
        rows['device'] = get_device() + (f', {processes} processes' if processes > 1 else '')
        rows['work dir'] = str(runner.work_dir)
        rows['log file'] = str(Path(runner.log_dir, f'{runner.timestamp}.log'))
        name = Path(runner.cfg.filename).stem if runner.cfg.filename else runner.experiment_name
        lines = [f'  {key + ":":17}{value}' for key, value in rows.items() if value]
        runner.logger.info('\n'.join([f'mmext {__version__}, {verb} {name}', *lines]))


def data_text(loader: DataLoader) -> str:
    """The size of a data set, its classes, and the size of a batch."""
    classes = tuple(getattr(loader.dataset, 'metainfo', {}).get('classes', ()))
    names = f' ({", ".join(classes)})' if 0 < len(classes) <= 10 else ''
    kinds = f', {len(classes)} classes{names}' if classes else ''
    return f'{len(loader.dataset)} images{kinds}, batch size {loader.batch_size or loader.batch_sampler.batch_size}'


def model_text(model: nn.Module) -> str:
    """The type of a model and the number of its weights."""
    model = model.module if is_model_wrapper(model) else model
    weights = sum(weight.numel() for weight in model.parameters())
    return f'{type(model).__name__}, {weights / 1e6:.2f} million weights'


def losses_text(model: nn.Module) -> str:
    """The class that each loss resolved to, with its package."""
    losses = {
        name.rpartition('.')[2]: f'{type(loss).__module__.partition(".")[0]}.{type(loss).__name__}'
        for name, loss in model.named_modules()
        if name.rpartition('.')[2].startswith('loss_')
    }
    return ', '.join(f'{name} {kind}' for name, kind in losses.items())
