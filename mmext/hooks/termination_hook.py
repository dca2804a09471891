"""Save and stop when the job is ended from outside."""

import os
import signal
import threading
from collections.abc import Callable, Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmext.registry import HOOKS

from .checkpoint_hook import CheckpointHook

# Slurm and Kubernetes kill a job 30 seconds after SIGTERM, if not told otherwise.
GRACE = 30
# What a shell reports of a process that SIGTERM ended.
STATUS = 128 + signal.SIGTERM


class WorkerInit:
    """What a worker of a data loader does first: what it did before, and listen to its parent only.

    Slurm signals all processes of a job. Without its workers the main process could not end its iteration; they end
    when it does.

    Args:
        function: The `worker_init_fn` of the data loader.
    """

    def __init__(self, function: Callable[[int], None] | None):
        self.function = function

    def __call__(self, worker_id: int) -> None:
        if self.function is not None:
            self.function(worker_id)
        # Not on macOS, where a signal does not say who sent it.
        if hasattr(signal, 'sigwaitinfo'):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_for_the_parent, daemon=True).start()


def _end_for_the_parent() -> None:
    """End this process at a SIGTERM of its parent, by which multiprocessing stops what is left at its exit."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@HOOKS.register_module()
class TerminationHook(Hook):
    """At SIGTERM, end the iteration, save a checkpoint, and exit with status 143.

    Slurm and Kubernetes send SIGTERM when a job's time is over or its machine is needed. The status says that the
    training is not finished: with 0 a Kubernetes job would count as done and not be started again, and a script would
    go on to test the model. `--resume` continues from the checkpoint, which the next regular one deletes.

    With several ranks, rank 0 saves; the others go on until it ends, at most for 30 seconds.

    `mmext train` adds it; it needs :class:`CheckpointHook`.
    """

    # The checkpoint must contain what all other hooks do in the iteration.
    priority = 'LOWEST'

    def __init__(self):
        self.requested = False
        self.before: object = None

    def before_train(self, runner: Runner) -> None:
        """Listen for the signal."""
        loaders = [runner.train_dataloader, runner.val_dataloader if runner.val_loop is not None else None]
        for loader in loaders:
            if isinstance(loader, DataLoader):
                loader.worker_init_fn = WorkerInit(loader.worker_init_fn)
        # Python allows no other thread to set handlers.
        if threading.current_thread() is not threading.main_thread():
            return
        self.before = signal.getsignal(signal.SIGTERM)
        if is_main_process():
            signal.signal(signal.SIGTERM, self._request)
        else:
            # Rank 0 needs this one until the end of its iteration.
            signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))

    def _request(self, *_: object) -> None:
        self.requested = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Save and stop, if asked to: with accumulated gradients, after the next step of the optimizer."""
        stepped = getattr(runner.optim_wrapper, 'should_update', lambda: True)()
        if self.requested and stepped:
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Sequence | None = None
    ) -> None:
        """Save and stop, if asked to."""
        if self.requested:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    # The model has the averaged weights during a validation.
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def after_train(self, runner: Runner) -> None:
        """Listen no more."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _stop(self, runner: Runner, meta: dict) -> None:
        saver = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if saver is None:
            runner.logger.warning('SIGTERM: stopped without a checkpoint, for there is no mmext.CheckpointHook')
        else:
            path = saver.last_ckpt if saver.saved_iter == meta['iter'] else saver.save_extra(runner, meta)
            runner.logger.info(f'SIGTERM: stopped; the training up to here is in {path}. Continue it with --resume')
        raise SystemExit(STATUS)
