"""Save checkpoints so that one that loads always exists."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import all_reduce_params, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as BaseCheckpointHook
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmext.checkpoints import CheckpointError
from mmext.checkpoints.saving import ATOMIC, remove_leftovers, write_patiently
from mmext.errors import NonFiniteError
from mmext.registry import HOOKS

from .loss_monitor_hook import last_checkpoint, remedy


@HOOKS.register_module()
class CheckpointHook(BaseCheckpointHook):
    """mmengine's CheckpointHook with its arguments, made safe against a crash at any time.

    mmengine deletes the old checkpoint before it writes the new one, and writes in place: a run that is killed
    meanwhile can be left with none. Here

    * a file is written under another name, flushed to the disk, and renamed (local files only). If the folder is away,
      such as a network share, it is waited for, up to a minute;
    * `last_checkpoint` is written after the checkpoint that it names, in the same way;
    * an old checkpoint, or a best one, is deleted after the new one is there. So for a moment there is one more than
      `max_keep_ckpts`;
    * weights that are not finite are never saved: the last checkpoint stays good;
    * nothing outside `out_dir` is ever deleted, whatever paths a resumed checkpoint names;
    * with several ranks, the running statistics of batch normalization and other buffers, those of EMAHook too, are
      averaged over the ranks before a checkpoint and before a validation. mmengine saves rank 0's, so a resumed run
      differs from one that was not interrupted, and the ranks validate different models.

    `mmext train` puts it in the place of mmengine's. Under other tools::

        default_hooks = dict(checkpoint=dict(type='mmext.CheckpointHook', interval=1))
    """

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        # The iteration of the newest checkpoint.
        self.saved_iter: int | None = None
        # A checkpoint between the regular ones, for the next of those to delete.
        self.extra: str | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what mmengine takes from the checkpoint to delete files."""
        if not runner._resume:
            return
        ids = checkpoint['message_hub']['runtime_info'].get('keep_ckpt_ids', [])
        if not all(isinstance(each, int) for each in ids):
            raise CheckpointError(f"the checkpoint's keep_ckpt_ids are {ids!r}, and must be integers")
        meta = checkpoint['meta']
        self.saved_iter = meta['iter']
        if meta.get('extra'):
            self.extra = f'iter_{meta["iter"]}.pth'

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder."""
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            # Without a limit: it would forget the old checkpoint before the new one is written.
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        # Not for storage on other machines, nor for deepspeed's folders.
        if type(self.file_backend) is LocalBackend and not self.file_client_args:
            self.backend_args = dict(backend=ATOMIC)
            if is_main_process():
                with _one_message(f'in {self.out_dir}'):
                    Path(self.out_dir).mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.out_dir)

    def before_val_epoch(self, runner: Runner) -> None:
        """Let all ranks validate the same model."""
        average_buffers(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite, the averaged ones of EMAHook too.

        Raises:
            NonFiniteError: If a weight or a running statistic is NaN or infinite.
        """
        weights = {name for name, _ in runner.model.named_parameters()}
        for state in ('state_dict', 'ema_state_dict'):
            for name, value in checkpoint.get(state, {}).items():
                # Other buffers may hold an infinity on purpose, such as masks.
                trained = name.removeprefix('module.') in weights or name in weights or '.running_' in name
                if trained and value.is_floating_point() and not value.isfinite().all():
                    raise NonFiniteError(
                        f'{name} is not finite in iteration {runner.iter + 1}, so no checkpoint was saved. '
                        f'{last_checkpoint(runner)}. {remedy(runner, [])}'
                    )

    def save_extra(self, runner: Runner, meta: dict) -> str:
        """Save a checkpoint between the regular ones; the next regular one deletes it.

        Returns:
            Its path.
        """
        self.extra = f'iter_{meta["iter"]}.pth'
        self._save(runner, self.extra, {**meta, 'extra': True})
        return self.last_ckpt

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, and only then delete.

        The saved `keep_ckpt_ids` has one more entry than is kept: if the run is killed before the deletion, the resumed
        one makes up for it.
        """
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        average_buffers(runner)
        self._save(runner, name, meta)
        if self.max_keep_ckpts > 0:
            while len(self.keep_ckpt_ids) > self.max_keep_ckpts:
                self._delete(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if self.extra not in (None, name):
            self._delete(self.extra)
        self.extra = None

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self.saved_iter = meta['iter']
        with _one_message(self.last_ckpt):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_patiently(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt.encode())

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and only then delete the one before."""
        if not self.save_best:
            return
        before = self._best_paths()
        # mmengine deletes the path that it finds here first.
        self._set_best_paths(dict.fromkeys(before))
        with _one_message(f'in {self.out_dir}'):
            super()._save_best_checkpoint(runner, metrics)
        after = self._best_paths()
        self._set_best_paths({key: path or before.get(key) for key, path in after.items()})
        for key, path in before.items():
            if path and after.get(key) not in (None, path):
                self._delete(Path(path).name)

    def _best_paths(self) -> dict[str, str | None]:
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _delete(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            # deepspeed's checkpoints are folders.
            self.file_backend.rmtree(path)


def average_buffers(runner: Runner) -> None:
    """Average over the ranks the floating-point buffers of the model and of its EMA; all ranks must call it."""
    averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')]
    buffers = [buffer for model in (runner.model, *averages) for buffer in model.buffers()]
    all_reduce_params([buffer for buffer in buffers if buffer.is_floating_point()], op='mean')


@contextmanager
def _one_message(path: str) -> Iterator[None]:
    """Turn an OSError of a save into a CheckpointError that says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f'cannot save the checkpoint {path}: {error.strerror or error}. The earlier checkpoints are intact: free '
            'space or choose another folder, and continue with --resume'
        ) from error
