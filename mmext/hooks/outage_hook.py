"""Keep a training alive while a file system is away."""

from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend

from mmext.outages import wait_out
from mmext.registry import HOOKS


@HOOKS.register_module()
class OutageHook(Hook):
    """Wait while a file system is away, such as a network share that reconnects, and name the file that is missing.

    * An image that cannot be read is tried again, for a minute if its folder is gone or the system reports an error of
      the device or the network, for three seconds if the file alone is missing or cut off. Then the run ends, and the
      message names the image.
    * The records of the curves, `scalars.json`, are written as patiently. So are checkpoints, by
      :class:`CheckpointHook`.

    The first failure logs a warning with the name of the file. The hook covers transforms that derive from mmcv's
    LoadImageFromFile without `backend_args`, on the local file system.

    `mmext train`, `mmext test` and `mmext compare` add it. Under other tools add it to the hooks of the base::

        custom_hooks = [*_base_.custom_hooks, dict(type='mmext.OutageHook')]
    """

    # Before the workers of the data loaders start.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Watch the images of the training and the validation, and the records."""
        watch(runner.train_dataloader)
        if runner.val_loop is not None:
            watch(runner.val_dataloader)
        for backend in runner.visualizer._vis_backends.values():
            if type(backend) is LocalVisBackend:
                backend._dump = patiently(backend._dump)

    def before_val(self, runner: Runner) -> None:
        """Watch the images."""
        watch(runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Watch the images."""
        watch(runner.test_dataloader)


def watch(loader: object) -> None:
    """Watch the images of a data loader, if mmcv is there, which loads them."""
    try:
        from mmext.datasets.reading import watch_images
    except ModuleNotFoundError as error:
        if error.name != 'mmcv':
            raise
    else:
        watch_images(loader.dataset)


def patiently(dump: Callable[[dict, str, str], None]) -> Callable[[dict, str, str], None]:
    """mmengine's function that appends a record to a file, which waits for its folder."""

    def call(record: dict, path: str, file_format: str) -> None:
        wait_out(lambda: dump(record, path, file_format), path)

    return call
