"""Training loops."""

from mmengine.runner import EpochBasedTrainLoop as BaseEpochBasedTrainLoop

from mmext.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(BaseEpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop with its arguments, able to start within an epoch.

    Where the epoch starts is up to :class:`ResumeHook`, which leaves out the earlier batches.
    """

    # The number, from 0, of the first batch that the data loader gives in the coming epoch.
    first_batch = 0

    def run_epoch(self) -> None:
        """Train on the batches of the epoch, or on the rest of them."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, self.first_batch):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
