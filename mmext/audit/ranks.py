"""Checks that all ranks begin a training alike: torch checks none of this."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .findings import Finding

# What must be equal, where it is set, and what to do otherwise.
FACTS = {
    'images of the training data': (
        'train_dataloader.dataset',
        'Give all machines the same annotations and the same config',
    ),
    'iterations of an epoch': (
        'train_dataloader.sampler',
        'Ranks with more iterations would wait forever for the others: set round_up=True in the sampler, or drop_last',
    ),
    'first iteration': (
        'resume',
        'Some ranks have resumed from another checkpoint: put the work dir on storage that all machines share, or copy '
        'the checkpoint to all of them and give its path to --resume',
    ),
    'checksum of the weights': (
        'load_from',
        'The ranks would train different models, since only gradients are averaged: give all machines the same '
        'checkpoint',
    ),
    'seed of the order of the images': (
        'randomness.seed',
        'Some images would be drawn by two ranks and others by none: set a seed, or leave seed=None in the sampler',
    ),
}


def check_ranks(runner: Runner) -> list[Finding]:
    """Check that all ranks have the same data, place in the training and weights.

    It compares a few numbers, once. All ranks must call it, and all get the same findings.
    """
    if get_world_size() == 1:
        return []
    return differences(all_gather_object(facts(runner)))


def facts(runner: Runner) -> dict[str, int | None]:
    """What must be equal on all ranks; None where it cannot be told."""
    loader = runner.train_dataloader
    values = (
        _length(loader.dataset),
        _length(loader),
        runner.iter,
        # Other wrappers give each rank its part of the weights.
        checksum(runner.model.parameters()) if isinstance(runner.model, DistributedDataParallel) else None,
        getattr(loader.sampler, 'seed', None),
    )
    return dict(zip(FACTS, values, strict=True))


def differences(each: Sequence[Mapping[str, int | None]]) -> list[Finding]:
    """The findings for the facts of each rank: the first fact in which they differ, for others follow from it."""
    for name, (key, remedy) in FACTS.items():
        values = [given[name] for given in each]
        if len(set(values)) > 1:
            listed = ', '.join(f'{value} on rank {rank}' for rank, value in enumerate(values))
            return [Finding('error', key, f'the ranks differ in {name}: {listed}', remedy)]
    return []


def _length(sized: object) -> int | None:
    # torch's DataLoader has the method even for data without a length.
    try:
        return len(sized)
    except TypeError:
        return None


@torch.no_grad()
def checksum(weights: Sequence[Tensor]) -> int:
    """A number that depends on each bit of the weights, whatever the device and the order of its sums."""
    sums = [weight.contiguous().reshape(-1).view(torch.uint8).sum(dtype=torch.int64) for weight in weights]
    return sum((index + 1) * value for index, value in enumerate(torch.stack(sums).tolist())) if sums else 0
