"""A resumed training equals one that was not interrupted: a small model, all ways to save and to load data."""

import pickle
import random
import signal
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader
from toy_training import LENGTH, VARYING, ToyNumbers, differences, in_a_process, signal_at, status_of, toy_runner

from mmext.checkpoints import load_checkpoint
from mmext.hooks import ResumeHook, resume_hook
from mmext.hooks.resume_hook import Index, SeededBatches, SeededSamples

# How checkpoints are saved, and the last one.
WAYS = {
    'epochs': ({}, 'epoch_3.pth'),
    'iterations': (dict(by_epoch=False, interval=3), 'iter_12.pth'),
    'loop by iterations': (
        dict(train_cfg=dict(by_epoch=False, max_iters=3 * LENGTH, val_interval=3), by_epoch=False, interval=3),
        'iter_12.pth',
    ),
    'best': (dict(save_best='toy/acc', max_keep_ckpts=1), 'epoch_3.pth'),
}
# Within an epoch, at its end before the save, and in a validation.
KILLS = {'within': ('after_train_iter', 5), 'end': ('after_train_iter', 7), 'validation': ('after_val_iter', 8)}


def train(work_dir, *signals, resume=False, **options):
    """Train in a process, and return the exit status."""
    prepare = signal_at(*signals) if signals else None
    output = work_dir.with_suffix('.out')
    return status_of(in_a_process(lambda: toy_runner(work_dir, resume, **options).train(), output, prepare))


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """The work dirs of trainings that nothing interrupts."""
    folder = tmp_path_factory.mktemp('plain')
    for way, (options, _) in WAYS.items():
        assert train(folder / way, **options) == 0
    return folder


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize('kill', KILLS)
@pytest.mark.parametrize('way', WAYS)
def test_killed(way, kill, workers, plain, tmp_path):
    options, last = WAYS[way]
    step, iteration = KILLS[kill]
    if (way, kill) == ('loop by iterations', 'validation'):
        iteration = 6
    work_dir = tmp_path / 'killed'
    assert train(work_dir, step, iteration, workers=workers, **options) == -signal.SIGKILL
    assert train(work_dir, resume=True, workers=workers, **options) == 0
    ours, wanted = load_checkpoint(work_dir / last), load_checkpoint(plain / way / last)
    assert differences(ours, wanted, varying=(*VARYING, 'best_ckpt')) == []


@pytest.mark.parametrize('workers', [0, 2])
def test_a_loop_that_draws_before_it_starts(workers, plain, tmp_path):
    """mmengine's loop by iterations before 0.10.12."""

    def prepare():
        build = IterBasedTrainLoop.__init__

        def init(loop, *arguments, **keywords):
            build(loop, *arguments, **keywords)
            loop.dataloader_iterator._iterator = iter(loop.dataloader)

        IterBasedTrainLoop.__init__ = init

    options, last = WAYS['loop by iterations']
    work_dir = tmp_path / 'run'
    process = in_a_process(
        lambda: toy_runner(work_dir, workers=workers, **options).train(), work_dir.with_suffix('.out'), prepare
    )
    assert status_of(process) == 0
    ours, wanted = load_checkpoint(work_dir / last), load_checkpoint(plain / 'loop by iterations' / last)
    assert differences(ours, wanted) == []


def test_without_a_seed_in_the_config(tmp_path):
    """The seed that mmengine draws is resumed for the order of the data, too."""
    killed = tmp_path / 'killed'
    assert train(killed, 'after_train_iter', 5, seed=None) == -signal.SIGKILL
    seed = load_checkpoint(killed / 'epoch_1.pth')['meta']['seed']
    assert train(killed, resume=True, seed=None) == 0
    assert train(tmp_path / 'plain', seed=seed) == 0
    ours, wanted = (load_checkpoint(path / 'epoch_3.pth') for path in (killed, tmp_path / 'plain'))
    assert differences(ours, wanted) == []


def test_an_epoch_of_another_length_starts_again(tmp_path):
    work_dir = tmp_path / 'run'
    assert train(work_dir, 'after_train_iter', 6, by_epoch=False, interval=3) == -signal.SIGKILL
    runner = toy_runner(work_dir, resume=True, batch_size=4, by_epoch=False, interval=3)
    runner.train()
    log = max(work_dir.glob('*/*.log')).read_text()
    assert 'within an epoch of 4 batches, and now an epoch has 2: it starts again' in log
    assert runner.iter == 6 + 2 * 2


def test_a_finished_training_stays_as_it_is(tmp_path):
    work_dir = tmp_path / 'run'
    toy_runner(work_dir).train()
    before = load_checkpoint(work_dir / 'epoch_3.pth')
    toy_runner(work_dir, resume=True).train()
    assert differences(load_checkpoint(work_dir / 'epoch_3.pth'), before) == []


class Draws(ToyNumbers):
    """Samples of all three generators."""

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def draw(seed=0, epoch=0, skip=0, workers=0, batch_size=2, shuffle=True):
    """The samples of an epoch, in batches."""
    dataset = Draws()
    sampler = DefaultSampler(dataset, shuffle, seed=seed)
    sampler.set_epoch(epoch)
    batches = SeededBatches(BatchSampler(sampler, batch_size, drop_last=False), seed)
    batches.begin(epoch, skip)
    dataset.__getitems__ = SeededSamples(dataset)
    return list(DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list))


def flat(batches):
    return [sample for batch in batches for sample in batch]


class TestSeededData:
    def test_depend_on_seed_and_epoch_alone(self):
        wanted = draw()
        random.seed(9)
        np.random.seed(9)  # noqa: NPY002
        torch.manual_seed(9)
        assert draw() == wanted
        assert draw(workers=2) == wanted
        assert flat(draw(batch_size=3)) == flat(wanted)

    def test_differ_between_samples_epochs_and_seeds(self):
        several = [draw(shuffle=False), draw(shuffle=False, epoch=1), draw(shuffle=False, seed=1)]
        for generator in (1, 2, 3):
            values = [sample[generator] for batches in several for sample in flat(batches)]
            assert len(set(values)) == len(values) == 3 * 2 * LENGTH

    @pytest.mark.parametrize('workers', [0, 2])
    def test_skip_the_first_batches(self, workers):
        assert draw(skip=2, workers=workers) == draw()[2:]
        assert draw(skip=LENGTH) == []

    def test_ranks_share_the_samples(self, monkeypatch):
        """Two ranks of batch size 2 train on what one of batch size 4 trains on."""
        wanted = draw(batch_size=4)
        ranks = []
        for rank in range(2):
            monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
            monkeypatch.setattr(resume_hook, 'get_rank', lambda rank=rank: rank)
            monkeypatch.setattr(resume_hook, 'get_world_size', lambda: 2)
            ranks.append(draw(batch_size=2))
        assert [sorted(first + second) for first, second in zip(*ranks)] == [sorted(batch) for batch in wanted]

    def test_passes_without_a_new_epoch_differ(self):
        """As in a loop by iterations, with and without an endless sampler."""
        dataset = Draws()
        endless = SeededBatches(BatchSampler(InfiniteSampler(dataset, shuffle=False), 8, drop_last=False), 0)
        plain = SeededBatches(BatchSampler(DefaultSampler(dataset, shuffle=False), 8, drop_last=False), 0)
        passes = list(islice(endless, 2)), [*plain, *plain]
        for first, second in passes:
            assert first == second == list(range(8))
            assert not {index.seeds for index in first} & {index.seeds for index in second}
        assert [[index.seeds for index in batch] for batch in passes[0]] == [
            [index.seeds for index in batch] for batch in passes[1]
        ]

    def test_keep_the_batch_sampler_and_the_data_set(self):
        dataset = ToyNumbers()
        dataset.__getitems__ = SeededSamples(dataset)
        sampler = BatchSampler(DefaultSampler(dataset), 2, drop_last=True)
        batches = SeededBatches(sampler, 0)
        assert len(batches) == LENGTH and batches.sampler is sampler.sampler and batches.drop_last is True
        assert type(dataset) is ToyNumbers and dataset[1]['inputs'].shape == (4,)

    def test_indices_travel_to_workers(self):
        index = pickle.loads(pickle.dumps(Index.of(3, 1, 2)))  # noqa: S301
        assert index == 3 and index.seeds == (1, 2)


def test_the_model_draws_by_iteration_and_rank(monkeypatch):
    def draws(iteration=0, rank=0, seed=0):
        monkeypatch.setattr(resume_hook, 'get_rank', lambda: rank)
        runner = type('Runner', (), dict(seed=seed, iter=iteration))
        ResumeHook().before_train_iter(runner, 0)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draws() == draws()
    for values in zip(draws(), draws(iteration=1), draws(rank=1), draws(seed=1)):
        assert len(set(values)) == 4


def test_data_without_a_batch_sampler_train_with_a_warning(log):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(4))

    loader = DataLoader(Endless())
    runner = type('Runner', (), dict(train_dataloader=loader, seed=0, iter=0, epoch=0))
    hook = ResumeHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    checkpoint = dict(meta=dict(iter=0, epoch=0))
    hook.before_save_checkpoint(runner, checkpoint)
    assert 'no batch sampler' in log.text and len(list(loader)) == 4 and 'mmext' not in checkpoint['meta']
