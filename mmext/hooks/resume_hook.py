"""Make a resumed training equal to one that was not interrupted."""

import logging
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from mmext.registry import HOOKS

# What a seed is for: two draws from the same numbers must not be equal.
DATA, MODEL, VALIDATION = 0, 1, 2


def seed_generators(*numbers: int) -> int:
    """Seed Python's and numpy's generators by these numbers, and return a seed for torch's."""
    first, second, third = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(first))
    # The transforms draw from numpy's global generator.
    np.random.seed(second)  # noqa: NPY002
    return int(third)


class Index(int):
    """The index of a sample, with the numbers that seed its augmentation."""

    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, index: int, *seeds: int) -> 'Index':
        """The index with these numbers."""
        made = cls(index)
        made.seeds = seeds
        return made


class SeededBatches:
    """Batches of a batch sampler, each index with the seed of its augmentation.

    The seed is made of the seed of the data, the epoch, and the place of the sample in the epoch over all ranks. So
    the data of an epoch depend on the seed and the epoch alone: not on the number of workers or ranks, not on what the
    model draws, not on where the training was interrupted.

    Args:
        batch_sampler: What draws the indices of this rank; the attributes that this class lacks are its own.
        seed: The seed of the data.
    """

    def __init__(self, batch_sampler: object, seed: int):
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.begin(epoch=0)

    def begin(self, epoch: int, skip: int = 0, drawn: int = 0) -> None:
        """Begin an epoch.

        Args:
            epoch: Its number, from 0.
            skip: The number of batches to leave out at its start: they have been trained on.
            drawn: The number of samples that were drawn before by other means.
        """
        self.epoch, self.skip, self.drawn = epoch, skip, drawn

    def __iter__(self) -> Iterator[list[Index]]:
        rank, world_size = get_rank(), get_world_size()
        for batch in self.batch_sampler:
            places = range(self.drawn, self.drawn + len(batch))
            self.drawn += len(batch)
            if self.skip > 0:
                self.skip -= 1
                continue
            yield [
                Index.of(index, self.seed, DATA, self.epoch, place * world_size + rank)
                for index, place in zip(batch, places)
            ]

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> object:
        return getattr(self.batch_sampler, name)


class SeededSamples:
    """Draw samples from a data set, each with the generators seeded by its index: the data set's `__getitems__`.

    torch's data loader asks a data set for a whole batch if it has this method. It is an attribute of the object, so
    the data set stays what it is for all who ask for its type.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list:
        return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> object:
        if isinstance(index, Index):
            # Not torch.manual_seed: a worker must not touch the GPU.
            torch.default_generator.manual_seed(seed_generators(*index.seeds))
        return self.dataset[int(index)]


def random_resizes(model: nn.Module) -> list[nn.Module]:
    """mmdet's modules that resize batches to a random size, which they keep for some iterations."""
    # By name: the hook also serves projects that have no mmdet.
    return [
        module
        for module in model.modules()
        if any(kind.__name__ == 'BatchSyncRandomResize' for kind in type(module).__mro__)
    ]


@HOOKS.register_module()
class ResumeHook(Hook):
    """Make a training that is resumed from any checkpoint equal to one that was not interrupted.

    mmengine keeps neither the states of the random generators nor the place within an epoch, seeds its workers equally
    at each start, and never makes up for a validation that was cut off. This hook

    * seeds the augmentation of each sample by (seed, epoch, place in the epoch), and the model's generators in each
      iteration by (seed, iteration, rank), so that there is no state to keep;
    * keeps in the checkpoint the seed of the data, for configs without one, and the size of BatchSyncRandomResize;
    * leaves out the batches of the epoch that were trained on before a checkpoint within it, with
      :class:`EpochBasedTrainLoop`;
    * runs the validation that was due after the checkpoint.

    It needs a map-style data set with a batch sampler, as all of MMDetection's. Transforms that keep images for later
    (`CachedMosaic`, `CachedMixUp`) depend on which process drew what before: they train, but not equally.

    `mmext train` adds it. Under other tools add it to the hooks of the base, and use the loop::

        custom_hooks = [*_base_.custom_hooks, dict(type='mmext.ResumeHook')]
        train_cfg = dict(type='mmext.EpochBasedTrainLoop', max_epochs=300)
    """

    # The validation in before_train must find all other hooks prepared.
    priority = 'LOWEST'

    def __init__(self):
        # What the resumed checkpoint says, until it has been used.
        self.state: dict = {}
        self.batches: SeededBatches | None = None
        self.epoch = self.first_iter = 0
        self.validated_iter: int | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note where the checkpoint was saved."""
        if runner._resume:
            self.state = dict(checkpoint['meta'].get('mmext', {}))

    def before_train(self, runner: Runner) -> None:
        """Seed the data, and validate if the run ended before it could."""
        loader = runner.train_dataloader
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            print_log(
                'The training data have no batch sampler, so a resumed training will differ from one that was not '
                'interrupted',
                logger='current',
                level=logging.WARNING,
            )
            return
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        seed = self.state.get('data_seed', getattr(sampler, 'seed', runner.seed))
        if hasattr(sampler, 'seed'):
            sampler.seed = seed
        self.batches = SeededBatches(loader.batch_sampler, seed)
        # A DataLoader refuses it as an attribute, though it reads it anew for each epoch.
        vars(loader)['batch_sampler'] = self.batches
        loader.dataset.__getitems__ = SeededSamples(loader.dataset)
        for resize, size in zip(random_resizes(runner.model), self.state.get('input_sizes', ())):
            resize._input_size = size
        if self.state:
            # Until the next one begins, the iteration that has ended, as in a validation after it.
            runner.message_hub.update_info('iter', runner.iter - 1)
            if not self.state['validated'] and self._validation_is_due(runner):
                runner.message_hub.update_info('epoch', max(runner.epoch - 1, 0))
                runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin the epoch, or the rest of it."""
        if self.batches is None:
            return
        loop, loader = runner.train_loop, runner.train_dataloader
        if isinstance(loop, IterBasedTrainLoop):
            # This loop finds the place itself: with such a sampler without drawing batches.
            jumps = hasattr(loader.sampler, 'skip')
            self.batches.begin(runner.epoch, drawn=runner.iter * loader.batch_size if jumps else 0)
            if getattr(loop.dataloader_iterator, '_iterator', None) is not None:
                # Before 0.10.12 it began to draw when it was built.
                if isinstance(loader.sampler, InfiniteSampler):
                    loader.sampler.indices = loader.sampler._indices_of_rank()
                loop.dataloader_iterator._iterator = iter(loader)
            return
        skip = self._batches_done(len(loader))
        self.epoch, self.first_iter = runner.epoch, runner.iter - skip
        self.batches.begin(runner.epoch, skip)
        loop.first_batch = skip

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed what the model draws."""
        torch.manual_seed(seed_generators(runner.seed, MODEL, runner.iter, get_rank()))

    def before_val_epoch(self, runner: Runner) -> None:
        """Seed what the validation draws, and note for later checkpoints that this iteration is validated."""
        torch.manual_seed(seed_generators(runner.seed, VALIDATION, runner.iter, get_rank()))
        self.validated_iter = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the seed of the data and the place in the epoch."""
        if self.batches is None:
            return
        meta = checkpoint['meta']
        meta['mmext'] = dict(
            data_seed=self.batches.seed,
            # After the epoch's end the next one is meant.
            batches=meta['iter'] - self.first_iter if meta['epoch'] == self.epoch else 0,
            length=len(runner.train_dataloader),
            input_sizes=[resize._input_size for resize in random_resizes(runner.model)],
            validated=self.validated_iter == meta['iter'] and not meta.get('extra'),
        )

    def _batches_done(self, length: int) -> int:
        """The number of batches of this epoch that were trained on before the checkpoint."""
        done, before = self.state.pop('batches', 0), self.state.pop('length', None)
        if done and length != before:
            print_log(
                f'The checkpoint was saved within an epoch of {before} batches, and now an epoch has {length}: it '
                'starts again',
                logger='current',
                level=logging.WARNING,
            )
            return 0
        return done

    def _validation_is_due(self, runner: Runner) -> bool:
        """Whether the loop would have validated after the checkpoint."""
        loop = runner.train_loop
        if runner.val_loop is None:
            return False
        loop._decide_current_val_interval()
        if isinstance(loop, IterBasedTrainLoop):
            done, last = loop.iter, loop.max_iters
        else:
            done, last = loop.epoch, loop.max_epochs
            if self.state['batches']:
                return False
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
