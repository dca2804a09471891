"""Every loss over a sigmoid: its minimum, extreme logits (those of a softmax too), probabilities, and its function."""

import pytest
import torch
from table import SIGMOID, SIGMOID_LOSSES, SOFTMAX_LOSSES, function_of, logits_and_scores

from mmext import losses


def slope(row, logit, target):
    """The derivative of the loss of each logit of the first class, all classes having this target."""
    leaf = logit.unsqueeze(-1).repeat(1, 3).requires_grad_()
    loss = row.build()(leaf, torch.full_like(leaf, target)).sum()
    return torch.autograd.grad(loss, leaf)[0][:, 0]


def is_soft(row):
    return getattr(losses, row.kind).soft_target


class TestRest:
    """Where training comes to rest: where the slope changes its sign."""

    @pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
    def test_hard_targets(self, row):
        """p moves towards t from anywhere, and the loss falls to 0 there."""
        logit = torch.linspace(-40, 40, 81, dtype=torch.float64)
        for target, end in ((0.0, 0), (1.0, -1)):
            slopes = slope(row, logit, target)
            assert ((slopes >= -1e-12) if target == 0 else (slopes <= 1e-12)).all()
            at_end = logit[end].expand(1, 3)
            assert row.build()(at_end, torch.full_like(at_end, target)).abs().max() < 1e-12

    @pytest.mark.parametrize('row', [row for row in SIGMOID_LOSSES if is_soft(row)], ids=str)
    @pytest.mark.parametrize('target', [0.1, 0.3, 0.6, 0.9])
    def test_soft_targets(self, row, target):
        rest = row.build().resting_point(torch.tensor(target, dtype=torch.float64))
        around = torch.stack([rest - 1e-3, (rest + 1e-3).clamp(max=1 - 1e-6)]).logit()
        below, above = slope(row, around, target)
        assert below < 0
        assert above > 0 or rest == 1

    @pytest.mark.parametrize('row', [row for row in SIGMOID_LOSSES if not is_soft(row) and not row.arguments], ids=str)
    def test_losses_for_hard_targets_come_to_rest_elsewhere(self, row):
        below, above = slope(row, torch.tensor([0.58, 0.62], dtype=torch.float64).logit(), 0.6)
        assert not below < 0 < above


def extremes(dtype):
    """Logits up to 1e30 and down to the smallest number of the type, of both signs."""
    tiny = torch.finfo(dtype).smallest_normal
    numbers = torch.tensor([0, tiny * 2**-6, tiny, 1e-3, 1, 20, 100, 1000, 1e30], dtype=torch.float64)
    logit = torch.cat([numbers, -numbers]).to(dtype)
    return logit[logit.isfinite()]


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
@pytest.mark.parametrize('dtype', TYPES)
def test_is_finite_for_extreme_logits(row, dtype):
    scores = torch.tensor([0.0, torch.finfo(dtype).smallest_normal / 2, 0.5, 1.0], dtype=dtype)
    logit, target = (part.unsqueeze(-1).repeat(1, 3) for part in torch.cartesian_prod(extremes(dtype), scores).T)
    if row.arguments.get('activated'):
        logit = logit.abs().clamp(max=1)
    loss = row.build()(logit.requires_grad_(), target)
    loss.sum().backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.isfinite().all()
    assert logit.grad.isfinite().all()
    assert (loss >= -1e-12).all()


@pytest.mark.parametrize('row', SOFTMAX_LOSSES, ids=str)
@pytest.mark.parametrize('dtype', TYPES)
def test_a_softmax_is_finite_for_extreme_logits(row, dtype):
    logit = torch.cartesian_prod(*[extremes(dtype)] * 3).requires_grad_()
    for label in range(3):
        loss = row.build()(logit, torch.full(logit.shape[:1], label))
        assert loss.isfinite().all() and (loss >= 0).all()
        assert torch.autograd.grad(loss.sum(), logit)[0].isfinite().all()


@pytest.mark.parametrize('infinity', [float('inf'), float('-inf')])
@pytest.mark.parametrize('row', SIGMOID_LOSSES + SOFTMAX_LOSSES, ids=str)
def test_an_infinite_logit_concerns_its_row_alone(row, infinity):
    logit, score = logits_and_scores()
    target = torch.arange(40) % 3 if row in SOFTMAX_LOSSES else score
    results = []
    for number in (infinity, 0.5):
        leaf = (logit.sigmoid() if row.arguments.get('activated') else logit).clone()
        leaf[0, 0] = number
        leaf.requires_grad_()
        loss = row.build()(leaf, target)
        results.append((loss[1:].detach(), torch.autograd.grad(loss.sum(), leaf)[0][1:]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize('kind', SIGMOID)
class TestActivated:
    """mmdet's TOODHead feeds probabilities."""

    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    @pytest.mark.parametrize('reduction', ['none', 'sum'])
    def test_equals_the_loss_of_the_logits(self, kind, dtype, tolerance, reduction):
        logit, score = logits_and_scores(dtype)
        results = []
        for activated in (False, True):
            leaf = logit.clone().requires_grad_()
            loss = getattr(losses, kind)(activated=activated, reduction=reduction)
            value = loss(leaf.sigmoid() if activated else leaf, score)
            results.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
    def test_is_finite_for_0_and_1(self, kind, dtype):
        probability = torch.tensor([[0.0, 1.0, 1e-30]], dtype=dtype, requires_grad=True)
        for target in (0.0, 0.5, 1.0):
            loss = getattr(losses, kind)(activated=True, reduction='sum')(probability, torch.full((1, 3), target))
            assert loss.isfinite()
            assert torch.autograd.grad(loss, probability)[0].isfinite().all()


@pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
def test_the_class_equals_its_function(row):
    logit, score = logits_and_scores()
    expected = function_of(row.kind)(logit, score, **row.arguments)
    # The buffers of numbers per class are float32.
    torch.testing.assert_close(row.build()(logit, score), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('row', [row for row in SIGMOID_LOSSES if row.name.endswith('alpha each')], ids=str)
def test_alphas_follow_the_module(row):
    assert row.build().to('meta').alpha.device.type == 'meta'
