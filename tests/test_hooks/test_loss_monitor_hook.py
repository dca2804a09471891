"""Shares, warnings and stops, in trainings of a second; tests/test_cli/test_mistakes.py has the exit status."""

import json
import logging
import math
import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, OPTIM_WRAPPERS
from torch.utils.data import Dataset
from toy_training import in_a_process, status_of

from mmext.checkpoints import load_checkpoint
from mmext.cli.common import build_runner, make_resumable
from mmext.errors import NonFiniteError
from mmext.hooks import LossMonitorHook
from mmext.hooks.loss_monitor_hook import images_of
from mmext.testing import OneDevice, OpCounter

# Iterations of an epoch.
LENGTH = 8


class Sample:
    def __init__(self, number):
        self.img_path = f'{number}.jpg'


@DATASETS.register_module()
class MonitoredNumbers(Dataset):
    def __len__(self):
        return 2 * LENGTH

    def __getitem__(self, index):
        return dict(inputs=torch.ones(2), data_samples=Sample(index))


class BadGradient(torch.autograd.Function):
    """A finite value, and a gradient of infinity."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * math.inf


@MODELS.register_module()
class MonitoredModel(BaseModel):
    """A model with three losses; in one iteration a loss or the gradient is not finite.

    Args:
        bad: What is not finite, `loss` or `gradient`, and in which iteration; a third entry is the rank.
        box: The loss of the boxes.
    """

    def __init__(self, bad=None, box=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.bad, self.box = bad, box

    def forward(self, inputs, data_samples, mode='tensor'):
        value = self.layer(torch.stack(inputs)).square().mean()
        iteration, rank = MessageHub.get_current_instance().get_info('iter'), int(os.environ.get('RANK', 0))
        if self.bad and iteration >= self.bad[1] and rank == (*self.bad, 0)[2]:
            if self.bad[0] == 'loss':
                value = value * math.nan
            elif iteration == self.bad[1] or self.bad[0] == 'gradients':
                value = BadGradient.apply(value)
        box = torch.full_like(value.detach(), self.box)
        return {'loss_obj': value, 'd0.loss_bbox': box, 'd1.loss_bbox': 2 * box, 'accuracy': value.detach()}


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """AmpOptimWrapper's loss scaler, on a CPU."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.loss_scaler = torch.amp.GradScaler('cpu')

    def backward(self, loss, **arguments):
        self.loss_scaler.scale(loss).backward(**arguments)
        self._inner_count += 1

    def step(self, **arguments):
        self.loss_scaler.step(self.optimizer, **arguments)
        self.loss_scaler.update()


needs_loss_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='a loss scaler for CPUs is new in torch 2.3'
)


def monitored_runner(work_dir, interval=4, wrapper='OptimWrapper', lr=0.01, epochs=2, patience=100, **model):
    config = Config(
        dict(
            work_dir=str(work_dir),
            model=dict(type='MonitoredModel', **model),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            train_dataloader=dict(
                dataset=dict(type='MonitoredNumbers'),
                batch_size=2 // int(os.environ.get('WORLD_SIZE', 1)),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            optim_wrapper=dict(type=wrapper, optimizer=dict(type='SGD', lr=lr, momentum=0.9)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=interval), checkpoint=dict(type='CheckpointHook', interval=1)
            ),
            custom_hooks=[dict(type='mmext.LossMonitorHook', patience=patience)],
            randomness=dict(seed=0),
            experiment_name=str(work_dir),
            launcher=os.environ.get('TOY_LAUNCHER', 'none'),
            default_scope=None,
        )
    )
    make_resumable(config)
    return build_runner(config)


def records(work_dir):
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_logs_the_share_of_each_loss(tmp_path):
    """The losses of several layers are one share, and what is no loss has none."""
    runner = monitored_runner(tmp_path, epochs=1)
    runner.train()
    first, last = records(tmp_path)
    assert last['share_bbox'] == pytest.approx(3 / last['loss'], abs=1e-3)
    assert last['share_obj'] + last['share_bbox'] == pytest.approx(1, abs=1e-6)
    assert [name for name in first if 'share' in name] == ['share_obj', 'share_bbox']
    assert len(runner.message_hub.get_scalar('train/accuracy').data[0]) == LENGTH


class TestStops:
    def message(self, *arguments, **options):
        with pytest.raises(NonFiniteError) as error:
            monitored_runner(*arguments, **options).train()
        return str(error.value)

    def test_at_a_loss_in_its_iteration(self, tmp_path):
        """With all that is needed to look for the cause."""
        message = self.message(tmp_path, bad=('loss', 10), interval=50)
        assert message.startswith(
            'training stopped in iteration 11 (epoch 2): loss_obj is nan. Learning rate: lr=0.01.'
        )
        assert 'Images of the batch: 4.jpg, 5.jpg. ' in message
        assert f'The last checkpoint is {tmp_path / "epoch_1.pth"}. ' in message
        assert 'lower optim_wrapper.optimizer.lr' in message and 'clip_grad' in message
        assert '--amp' not in message

    def test_at_a_gradient_though_it_is_read_later(self, tmp_path):
        """The iteration and the images are those of the gradient, not of the loss that follows."""
        message = self.message(tmp_path, bad=('gradient', 5), interval=50)
        assert message.startswith('training stopped in iteration 6 (epoch 1): a gradient is not finite')
        assert 'Images of the batch: 10.jpg, 11.jpg. ' in message
        assert 'No checkpoint was saved' in message

    def test_at_a_gradient_in_the_last_iteration(self, tmp_path):
        """No loss follows, and the checkpoint of the epoch must not be saved."""
        assert 'iteration 16 (epoch 2): a gradient' in self.message(tmp_path, bad=('gradient', 15), interval=50)
        assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_1.pth']
        state = load_checkpoint(tmp_path / 'epoch_1.pth')['state_dict']
        assert all(value.isfinite().all() for value in state.values())

    def test_at_a_learning_rate_that_is_not_finite(self, tmp_path):
        assert 'learning rate itself is not finite' in self.message(tmp_path, lr=math.nan)

    def test_at_a_learning_rate_that_is_too_high(self, tmp_path):
        message = self.message(tmp_path, lr=1e6, epochs=9)
        assert 'lr=1e+06' in message

    @needs_loss_scaler
    def test_if_a_loss_scale_falls(self, tmp_path):
        message = self.message(tmp_path, bad=('gradients', 0), wrapper='ScaledOptimWrapper', epochs=9)
        assert 'the loss scale has fallen to 0.00' in message and '--amp' in message


@needs_loss_scaler
def test_steps_that_a_loss_scaler_skips_are_normal(tmp_path):
    monitored_runner(tmp_path, bad=('gradient', 5), wrapper='ScaledOptimWrapper').train()
    assert (tmp_path / 'epoch_2.pth').is_file()


def test_a_checkpoint_holds_no_weight_that_is_not_finite(tmp_path):
    """Also without the hook, as under other tools."""
    runner = monitored_runner(tmp_path, bad=('gradient', 9))
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, LossMonitorHook)]
    with pytest.raises(NonFiniteError, match=r'layer\.weight is not finite .*no checkpoint was saved.*epoch_1\.pth'):
        runner.train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_1.pth']


@pytest.mark.parametrize('box, warns', [(0.0, True), (1.0, False)])
def test_warns_once_if_no_prior_is_assigned(box, warns, tmp_path, caplog):
    runner = monitored_runner(tmp_path, box=box, patience=5)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    found = [message for message in warnings if 'no prior was assigned' in message]
    assert len(found) == warns
    if warns:
        assert 'd0.loss_bbox, d1.loss_bbox was 0 in each of the last 5 iterations' in found[0]


class TestCost:
    def check(self, device):
        weights = [torch.nn.Parameter(torch.zeros(3, 2, device=device)) for _ in range(7)]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer = torch.optim.SGD(weights, lr=0.1)
        hook = LossMonitorHook()
        hook.iteration = 0
        hook._check_gradients(optimizer)
        return lambda: hook._check_gradients(optimizer)

    @needs_loss_scaler
    def test_two_operations_and_no_synchronization(self):
        check = self.check('cpu')
        with OpCounter() as counter:
            check()
        assert counter.operations == {'_amp_foreach_non_finite_check_and_unscale_': 1, 'add_': 1}
        assert not counter.syncs

    def test_no_value_is_read(self):
        """Tensors on `meta` have none."""
        check = self.check('meta')
        with OneDevice():
            check()

    def test_an_iteration_between_two_logs_gets_no_synchronization(self, tmp_path):
        """Of the whole training: with the hook one for each time mmengine logs, and none for an iteration."""

        def syncs(name, monitored):
            runner = monitored_runner(tmp_path / name)
            if not monitored:
                runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, LossMonitorHook)]
            # Not those of saving.
            runner._hooks = [hook for hook in runner.hooks if 'Checkpoint' not in type(hook).__name__]
            with OpCounter() as counter:
                runner.train()
            return counter.syncs.total()

        assert syncs('with', True) - syncs('without', False) == 2 * LENGTH / 4

    def test_a_fused_optimizer_under_a_loss_scaler_checks_itself(self):
        """The scaler calls it with scaled gradients and what it has found."""
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.full((1,), math.inf)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        optimizer.found_inf = torch.ones(1)
        hook = LossMonitorHook()
        hook._check_gradients(optimizer)
        assert hook._bad_gradient() is None

    def test_gradients_are_as_they_were(self):
        weight = torch.nn.Parameter(torch.zeros(4))
        weight.grad = torch.tensor([1e-42, -0.0, 3e38, 0.1])
        before = weight.grad.clone()
        hook = LossMonitorHook()
        hook.iteration = 0
        hook._check_gradients(torch.optim.SGD([weight], lr=0.1))
        assert weight.grad.numpy().tobytes() == before.numpy().tobytes()


def test_images_of_batches():
    one, two = Sample(1), Sample(2)
    assert images_of(dict(data_samples=[one, two])) == ('1.jpg', '2.jpg')
    assert images_of(dict(data_samples=dict(sup=[one], unsup=[two]))) == ('1.jpg', '2.jpg')
    assert images_of(dict(data_samples=[SimpleNamespace()])) == images_of([1]) == images_of(None) == ()


@pytest.mark.timeout(400)
def test_two_ranks_stop_together_with_one_message(tmp_path, free_port):
    """The loss of rank 1 alone is bad, and the gradients of both; only rank 0 reports."""
    port = free_port()

    def prepare(rank):
        os.environ.update(TOY_LAUNCHER='pytorch', RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))

    outputs = [tmp_path / f'{rank}.out' for rank in range(2)]
    processes = [
        in_a_process(
            lambda: monitored_runner(tmp_path / 'run', bad=('loss', 5, 1)).train(),
            outputs[rank],
            lambda rank=rank: prepare(rank),
        )
        for rank in range(2)
    ]
    assert [status_of(process, 120) for process in processes] == [2, 2]
    first, second = (output.read_text() for output in outputs)
    assert 'training stopped in iteration 6 (epoch 1) on rank 1: loss_obj is nan' in first
    assert 'Images of the batch: 11.jpg' in first
    assert 'training stopped' not in second and 'Traceback' not in first + second
