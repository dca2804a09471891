"""Training, saving and resuming in another memory format, by mmengine's runner and a small network."""

import pytest
import torch
from conftest import run
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmext.checkpoints import register_loaders


class Network(BaseModel):
    """Two convolutions, one depthwise with a stride."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, groups=8)
        )

    def init_weights(self):
        generator = torch.Generator().manual_seed(0)
        for layer in (self.layers[0], self.layers[3]):
            for weight in layer.parameters():
                # Copied: an older torch fills a tensor with random numbers in the order of its memory.
                weight.data.copy_(torch.empty(weight.shape).uniform_(-0.3, 0.3, generator=generator))

    def forward(self, inputs, mode='tensor'):
        output = self.layers(torch.stack(inputs))
        return {'loss': output.square().mean()} if mode == 'loss' else output


def images():
    return [{'inputs': image} for image in torch.rand(8, 3, 9, 9, generator=torch.Generator().manual_seed(0))]


def train(work_dir, hooks, max_epochs=2, **arguments):
    """Train a network from images, with EMA."""
    runner = Runner(
        model=Network(),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=images(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        custom_hooks=[dict(type='EMAHook', priority=49), *hooks],
        log_level='ERROR',
        default_scope='mmdet',
        experiment_name=f'{work_dir.name}-{max_epochs}-{len(hooks)}',
        **arguments,
    )
    runner.train()
    return runner


def load(work_dir, epoch=2):
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)


def tensors(checkpoint):
    """The tensors of a checkpoint by their place."""
    states = checkpoint['optimizer']['state']
    momenta = {f'momentum {index}': state['momentum_buffer'] for index, state in states.items()}
    return {**checkpoint['state_dict'], **checkpoint['ema_state_dict'], **momenta}


HOOK = {'type': 'mmext.ChannelsLastHook'}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp('plain')
    train(folder, [])
    return load(folder)


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('changed')
    return folder, train(folder, [HOOK])


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_weights_and_momenta_change_their_format(changed):
    _, runner = changed
    weight = runner.model.layers[0].weight
    assert is_channels_last(weight)
    assert is_channels_last(runner.optim_wrapper.optimizer.state[weight]['momentum_buffer'])


def test_a_checkpoint_is_what_it_was(plain, changed):
    """Its averages, too: they are of the trained weights, not of those before the format changed."""
    checkpoint = load(changed[0])
    assert checkpoint.keys() == plain.keys()
    assert checkpoint['state_dict']._metadata == plain['state_dict']._metadata
    assert tensors(checkpoint).keys() == tensors(plain).keys()
    for name, tensor in tensors(checkpoint).items():
        assert tensor.is_contiguous(), name
        torch.testing.assert_close(tensor, tensors(plain)[name], msg=name)


@pytest.mark.parametrize('hooks', [[], [HOOK]], ids=['without the hook', 'with the hook'])
def test_a_resumed_run_equals_an_uninterrupted_one(hooks, changed, tmp_path):
    # mmengine 0.10.7 does not load its own checkpoints with torch 2.6 and later; mmext's commands do.
    register_loaders()
    checkpoint = str(changed[0] / 'epoch_2.pth')
    train(tmp_path / 'whole', [HOOK], max_epochs=4)
    runner = train(tmp_path / 'resumed', hooks, max_epochs=4, resume=True, load_from=checkpoint)
    whole = tensors(load(tmp_path / 'whole', 4))
    for name, tensor in tensors(load(tmp_path / 'resumed', 4)).items():
        torch.testing.assert_close(tensor, whole[name], msg=name)
    weight = runner.model.layers[0].weight
    momentum = runner.optim_wrapper.optimizer.state[weight]['momentum_buffer']
    assert is_channels_last(momentum) == is_channels_last(weight) == bool(hooks)


def test_other_devices_are_left_alone(tmp_path):
    runner = train(tmp_path, [dict(HOOK, devices=('cuda',))])
    assert runner.model.layers[0].weight.is_contiguous()


RANKS = """
import os, sys
from pathlib import Path
import torch
from test_channels_last_hook import HOOK, train

torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
for name, hooks in dict(plain=[], changed=[HOOK]).items():
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    train(Path(sys.argv[1], name), hooks, launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper))
torch.distributed.barrier()
os._exit(0)
"""


def test_two_processes(tmp_path):
    (tmp_path / 'ranks.py').write_text(RANKS)
    run(
        'torchrun', '--nproc_per_node', 2, '--master_port', 29717, tmp_path / 'ranks.py', tmp_path,
        PYTHONPATH=f'{__file__.rsplit("/", 1)[0]}:{__file__.rsplit("/", 2)[0]}',
    )  # fmt: skip
    plain, changed = (tensors(load(tmp_path / name)) for name in ('plain', 'changed'))
    for name, tensor in changed.items():
        assert tensor.is_contiguous()
        torch.testing.assert_close(tensor, plain[name], msg=name)
