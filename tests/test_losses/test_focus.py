"""The multipliers of box losses: values by hand, and the running mean of Wise-IoU."""

import copy
import math

import pytest
import torch
from conftest import run
from mmengine.runner import load_checkpoint, save_checkpoint

from mmext.losses import IoULoss, iou_loss
from mmext.losses.box_pair import BoxPair
from mmext.losses.focus import FocalFocus, PIoUFocus, WiseFocus

# IoU 1/2, 0 and 1; the centers' squared distance over the squared diagonal: 1/20, 0.52, 0.
PRED = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 2], [1, 1, 3, 3]], dtype=torch.float64)
TARGET = torch.tensor([[0.0, 0, 2, 2], [4, 4, 6, 7], [1, 1, 3, 3]], dtype=torch.float64)


def wise(**arguments):
    return IoULoss(focus={'type': 'mmext.WiseFocus', **arguments}, reduction='none').double()


def factor(focus, **given):
    return focus(BoxPair(PRED, TARGET), **given)


def test_focal():
    expected = torch.tensor([0.5**0.7, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(factor(FocalFocus(gamma=0.7)), expected)


def test_focal_has_no_gradient():
    pred = PRED.clone().requires_grad_()
    assert not FocalFocus()(BoxPair(pred, TARGET)).requires_grad


def test_piou():
    """P: (2 + 0) / 2 / 4 = 1/4; ((4 + 4) / 2 + (4 + 5) / 3) / 4 = 7/4; 0."""
    z = torch.tensor([1.3 * math.exp(-distance) for distance in (1 / 4, 7 / 4, 0)], dtype=torch.float64)
    torch.testing.assert_close(factor(PIoUFocus()), 3 * z * (-z * z).exp())
    torch.testing.assert_close(factor(PIoUFocus(lam=2.6)), 6 * z * (-4 * z * z).exp())


class TestWise:
    def test_attention(self):
        distance = torch.tensor([1 / 20, (4**2 + 4.5**2) / (6**2 + 7**2), 0], dtype=torch.float64)
        torch.testing.assert_close(factor(WiseFocus(1)), distance.exp())

    @pytest.mark.parametrize('mean', [1.0, 0.25])
    def test_versions(self, mean):
        attention, beta = factor(WiseFocus(1)), torch.tensor([0.5, 1, 0], dtype=torch.float64) / mean
        for focus, expected in [
            (WiseFocus(2, gamma=0.8), beta**0.8),
            (WiseFocus(3, alpha=1.7, delta=2.7), beta / (2.7 * 1.7 ** (beta - 2.7))),
        ]:
            focus.eval().mean.fill_(mean)
            torch.testing.assert_close(factor(focus), expected * attention)

    def test_gain_of_version_3(self):
        """1 at beta = delta, highest at 1 / ln(alpha): 1.31042 with the paper's values."""
        beta = torch.linspace(0, 5, 50001, dtype=torch.float64)
        gain = beta / (3 * 1.9 ** (beta - 3))
        assert beta[gain.argmax()].item() == pytest.approx(1.5580, abs=1e-4)
        assert gain.max().item() == pytest.approx(1.31042, abs=1e-5)
        focus = WiseFocus(3).double().eval()
        focus.mean.fill_(1 / 1.5580)
        value = focus(BoxPair(PRED[1:2], TARGET[1:2])) / WiseFocus(1)(BoxPair(PRED[1:2], TARGET[1:2]))
        assert value.item() == pytest.approx(1.31042, abs=1e-5)

    def test_diagonal_and_beta_have_no_gradient(self):
        """The gradient is that of exp(rho2 / 20) / 2 * (1 - IoU), 20 and 1/2 being numbers."""
        pred = PRED[:1].clone().requires_grad_()
        loss = wise(version=2, gamma=1.0).eval()
        loss(pred, TARGET[:1]).sum().backward()
        frozen = PRED[:1].clone().requires_grad_()
        offset = (frozen[:, :2] + frozen[:, 2:] - TARGET[:1, :2] - TARGET[:1, 2:]) / 2
        (torch.exp(offset.square().sum(-1) / 20) / 2 * iou_loss(frozen, TARGET[:1])).sum().backward()
        torch.testing.assert_close(pred.grad, frozen.grad)

    def test_mean_moves_before_it_is_used(self):
        loss = wise(version=2, gamma=1.0, momentum=0.5).train()
        value = loss(PRED, TARGET)
        torch.testing.assert_close(loss.focus.mean, torch.tensor(0.75, dtype=torch.float64))
        expected = torch.tensor([0.5, 1, 0], dtype=torch.float64) / 0.75 * factor(WiseFocus(1)) * iou_loss(PRED, TARGET)
        torch.testing.assert_close(value, expected)

    def test_mean_stays_in_evaluation(self):
        loss = wise().eval()
        loss(PRED, TARGET)
        assert loss.focus.mean == 1

    @pytest.mark.parametrize('momentum', [0.01, 1.0])
    def test_empty_batches_leave_the_mean_alone(self, momentum):
        loss = wise(momentum=momentum).train()
        loss(PRED[:0], TARGET[:0])
        loss(PRED[:0], TARGET[:0], weight=torch.zeros(0))
        loss(PRED[:0], TARGET[:0], weight=torch.zeros(0, 4))
        loss(PRED, TARGET, weight=torch.zeros(3))
        assert loss.focus.mean == 1

    @pytest.mark.parametrize('columns', [(), (4,)])
    def test_padding_leaves_the_mean_alone(self, columns):
        padded, loss = wise(momentum=1.0).train(), wise(momentum=1.0).train()
        weight = torch.zeros(5, *columns)
        weight[:3] = 0.3
        padding = torch.zeros(2, 4, dtype=torch.float64)
        pred, target = torch.cat([PRED, padding]).requires_grad_(), torch.cat([TARGET, padding + 50])
        values = padded(pred, target, weight)
        torch.testing.assert_close(padded.focus.mean, torch.tensor(0.5, dtype=torch.float64))
        torch.testing.assert_close(values[:3], loss(PRED, TARGET) * 0.3, check_dtype=False)
        values.sum().backward()
        assert (pred.grad[3:] == 0).all()

    @pytest.mark.parametrize('weight', [None, torch.ones(4)])
    def test_a_nan_box_does_not_enter_the_mean(self, weight):
        loss = wise(momentum=1.0).train()
        nan = torch.full((1, 4), float('nan'), dtype=torch.float64)
        loss(torch.cat([PRED, nan]), torch.cat([TARGET, TARGET[:1]]), weight)
        torch.testing.assert_close(loss.focus.mean, torch.tensor(0.5, dtype=torch.float64))

    def test_stays_finite_when_all_boxes_are_perfect(self):
        loss = wise(momentum=1.0).train()
        for _ in range(3):
            pred = TARGET.clone().requires_grad_()
            value = loss(pred, TARGET)
            value.sum().backward()
            assert (value == 0).all()
            assert pred.grad.isfinite().all()
        assert loss(PRED, TARGET).isfinite().all()

    def test_is_saved_and_resumed(self, tmp_path):
        loss = wise(momentum=0.5).train()
        loss(PRED, TARGET)
        save_checkpoint({'state_dict': loss.state_dict()}, str(tmp_path / 'loss.pth'))
        resumed = wise(momentum=0.5)
        load_checkpoint(resumed, str(tmp_path / 'loss.pth'), strict=True)
        assert resumed.focus.mean == loss.focus.mean == 0.75

    def test_instances_share_nothing(self):
        first, second = wise().train(), wise().train()
        first(PRED, TARGET)
        assert first.focus.mean < 1 == second.focus.mean
        assert copy.deepcopy(first).focus.mean == first.focus.mean

    def test_averages_over_ranks(self, tmp_path):
        """Two processes over gloo, the second without a pair in its second batch."""
        script = tmp_path / 'ranks.py'
        script.write_text(RANKS)
        run('torchrun', '--nproc_per_node', 2, '--master_port', 29713, script, tmp_path)
        means = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
        assert means[0] == means[1]
        # The first batch: 1/2, 1 and 0 beside 1; the second: 1/2 alone. Momentum 1/2.
        assert means[0]['synced'] == pytest.approx([0.5 + 2.5 / 4 / 2, (0.5 + 2.5 / 4 / 2) / 2 + 0.25])

    def test_without_sync_each_rank_has_its_own(self, monkeypatch):
        monkeypatch.setattr('mmext.losses.focus.all_reduce', lambda tensor: tensor.fill_(float('nan')))
        loss = wise(sync=False, momentum=1.0).train()
        loss(PRED, TARGET)
        assert loss.focus.mean == 0.5


RANKS = """
import os
import sys
import torch
from mmext.losses import IoULoss

torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
pairs = torch.tensor([[0., 0, 4, 2, 0, 0, 2, 2], [0, 0, 2, 2, 4, 4, 6, 7], [1, 1, 3, 3, 1, 1, 3, 3]])
loss = IoULoss(focus=dict(type='mmext.WiseFocus', momentum=0.5)).train()
means = []
for batch in ([pairs, pairs[1:2]], [pairs[:1], pairs[:0]]):
    loss(*batch[rank].split(4, dim=-1))
    means.append(loss.focus.mean.item())
torch.save({'synced': means}, f'{sys.argv[1]}/{rank}.pth')
torch.distributed.barrier()
# Without teardown, in which the threads of gloo abort the process now and then.
os._exit(0)
"""


class TestArguments:
    @pytest.mark.parametrize(
        ('kind', 'arguments', 'message'),
        [
            (FocalFocus, {'gamma': -0.5}, 'gamma must be a number of at least 0, but is -0.5'),
            (PIoUFocus, {'lam': 0}, 'lam must be above 0'),
            (WiseFocus, {'version': 4}, 'version must be one of 1, 2, 3, but is 4'),
            (WiseFocus, {'momentum': 1.5}, r'momentum must be in \[0, 1\], but is 1.5'),
            (WiseFocus, {'version': 2, 'gamma': -1.0}, 'gamma'),
            (WiseFocus, {'alpha': 1.0}, 'alpha must be above 1'),
            (WiseFocus, {'delta': 0.0}, 'delta above 0'),
        ],
    )
    def test_out_of_range(self, kind, arguments, message):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)

    @pytest.mark.parametrize(
        ('version', 'name', 'known'),
        [(1, 'gamma', 'none of its own'), (2, 'delta', 'gamma'), (3, 'gamma', 'alpha, delta')],
    )
    def test_of_another_version(self, version, name, known):
        with pytest.raises(TypeError, match=f"version {version} takes no argument '{name}', only {known}"):
            WiseFocus(version, **{name: 1.0})

    def test_unknown_focus(self):
        with pytest.raises(KeyError, match='WisdomFocus'):
            IoULoss(focus={'type': 'mmext.WisdomFocus'})
