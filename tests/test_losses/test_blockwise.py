"""Sums of losses over a sigmoid, block by block, equal the plain formula and keep the gradient alone."""

import pytest
import torch
from table import SIGMOID_LOSSES, logits_and_scores, per_row

from mmext.losses import FocalLoss, blockwise, focal_loss
from mmext.losses.blockwise import blockwise_sum
from mmext.testing import OpCounter

LABELS = torch.arange(-1, 39) % 5 - 1


def target_of(form, scores):
    return {'scores': scores, 'labels': LABELS, 'pairs': (LABELS, scores[:, 0].clone())}[form]


def sums(row, logit, *args):
    """Value and gradient of the sum, block by block and by the plain formula."""
    results = []
    for reduction in ('sum', 'none'):
        leaf = logit.clone().requires_grad_()
        loss = row.build(reduction=reduction)(leaf, *args).sum()
        results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    return results


@pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
class TestEveryLoss:
    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    @pytest.mark.parametrize('form', ['scores', 'labels', 'pairs'])
    @pytest.mark.parametrize('weight', [None, 'rows', 'mask', 'elements', 'broadcast'])
    @pytest.mark.parametrize('block', [2**17, 12])
    def test_equals_the_plain_formula(self, row, dtype, tolerance, form, weight, block, monkeypatch):
        monkeypatch.setattr(blockwise, 'CPU_BLOCK', block)
        logit, scores = logits_and_scores(dtype)
        elements, column = (scores[:, 1], torch.tensor(2.0)) if per_row(row) else (scores + 0.1, scores[:, :1])
        rows, mask = scores[:, 1] + 0.1, LABELS % 2 == 0
        weight = {'rows': rows, 'mask': mask, 'elements': elements, 'broadcast': column}.get(weight)
        torch.testing.assert_close(*sums(row, logit, target_of(form, scores), weight), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize('weight', [None, torch.linspace(0, 1, 40, dtype=torch.float64)])
    def test_second_derivative_is_that_of_the_plain_formula(self, row, weight, monkeypatch):
        monkeypatch.setattr(blockwise, 'CPU_BLOCK', 12)
        logit, scores = logits_and_scores()
        results = []
        for reduction in ('sum', 'none'):
            leaf = logit.clone().requires_grad_()
            loss = row.build(reduction=reduction)(leaf, scores, weight).sum()
            (slope,) = torch.autograd.grad(3 * loss, leaf, create_graph=True)
            results.append(torch.autograd.grad(slope.square().sum(), leaf)[0])
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    def test_extreme_logits(self, row, dtype):
        logit = torch.tensor([-1000, -100, -20, 0, 20, 100, 1000], dtype=dtype).repeat(3).unsqueeze(-1).repeat(1, 3)
        target = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(7).unsqueeze(-1).expand(-1, 3).to(dtype)
        loss = row.build(reduction='sum')(logit.requires_grad_(), target)
        loss.backward()
        assert loss.dtype == torch.float32
        assert logit.grad.dtype == dtype
        assert logit.grad.isfinite().all()
        expected = row.build()(logit.detach().double(), target).sum()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize('shape', [(3,), (2, 4, 3), (2, 2, 2, 3)])
    @pytest.mark.parametrize('labeled', [False, True])
    def test_dimensions(self, row, shape, labeled):
        generator = torch.Generator().manual_seed(0)
        logit = torch.randn(shape, generator=generator, dtype=torch.float64)
        target = torch.rand(shape, generator=generator, dtype=torch.float64)
        if labeled:
            target = (torch.randint(4, shape[:-1], generator=generator), target[..., 0])
        torch.testing.assert_close(*sums(row, logit, target))

    def test_strided_logits(self, row, monkeypatch):
        """As a head gives them, (B, C, A) in memory."""
        monkeypatch.setattr(blockwise, 'CPU_BLOCK', 12)
        logit, scores = (part.view(4, 10, 3) for part in logits_and_scores())
        leaf = logit.transpose(1, 2).contiguous().requires_grad_()
        losses = [row.build(reduction=reduction)(leaf.transpose(1, 2), scores).sum() for reduction in ('sum', 'none')]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, leaf)[0] for loss in losses))

    @pytest.mark.parametrize('shape', [(1, 40, 3), (2, 2, 10, 3)])
    def test_leading_dimensions_are_split(self, row, shape, monkeypatch):
        monkeypatch.setattr(blockwise, 'CPU_BLOCK', 12)
        logit, scores = logits_and_scores()
        leaf = logit.clone().requires_grad_()
        with OpCounter() as counter:
            loss = row.build(reduction='sum')(leaf.view(shape), scores.view(shape), LABELS.view(shape[:-1]) % 2)
        assert counter.operations['sigmoid'] + counter.operations['log_sigmoid_forward'] >= 40 // 4
        expected = row.build(reduction='sum')(logit.requires_grad_(), scores, LABELS % 2)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, leaf), torch.autograd.grad(expected, logit))

    def test_a_weight_that_learns(self, row):
        logit, scores = logits_and_scores()
        weight = torch.rand(40, dtype=torch.float64, requires_grad=True)
        loss = row.build(reduction='sum')(logit.requires_grad_(), scores, weight)
        values = row.build()(logit, scores).reshape(40, -1).sum(-1)
        torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], values.detach())

    def test_without_rows(self, row):
        logit = torch.zeros(0, 3, requires_grad=True)
        loss = row.build(reduction='sum')(logit, torch.zeros(0, 3))
        loss.backward()
        assert loss == 0
        assert logit.grad.shape == (0, 3)


def test_a_second_backward_computes_the_gradient_again():
    logit, scores = logits_and_scores(torch.float32)
    loss = FocalLoss(reduction='sum')(logit.requires_grad_(), scores)
    first, second = (torch.autograd.grad(loss, logit, retain_graph=True)[0] for _ in range(2))
    (third,) = torch.autograd.grad(2 * loss, logit)
    assert torch.equal(first, second)
    assert torch.equal(third, 2 * first)
    with pytest.raises(RuntimeError, match='second time'):
        torch.autograd.grad(loss, logit)


def test_the_first_backward_computes_nothing_again():
    logit, scores = logits_and_scores(torch.float32)
    loss = FocalLoss(reduction='sum')(logit.requires_grad_(), scores)
    with OpCounter() as counter:
        torch.autograd.grad(loss, logit)
    assert dict(counter.operations) == {'ones_like': 1, 'mul_': 1}


@pytest.mark.parametrize('with_gradient', [False, True])
def test_no_block_exceeds_the_budget(with_gradient, monkeypatch):
    monkeypatch.setattr(blockwise, 'CPU_BLOCK', 12)
    seen = []

    def formula(logit, target):
        seen.append((logit.shape, logit.requires_grad))
        return focal_loss(logit, target)

    logit, scores = logits_and_scores()
    blockwise_sum(formula, logit.requires_grad_(with_gradient), scores)
    rows = 4 * torch.get_num_threads()
    assert seen == [((rows, 3), with_gradient)] * (40 // rows)


def test_a_gradient_that_nobody_asks_for_is_not_computed():
    logit, scores = logits_and_scores()
    loss = FocalLoss(reduction='sum')
    with torch.no_grad(), OpCounter() as counter:
        loss(logit.requires_grad_(), scores)
    assert 'sigmoid' in counter.operations
    assert not any('backward' in name for name in counter.operations)


@pytest.mark.parametrize('avg_factor', [None, 3.0])
def test_a_mean_goes_block_by_block(avg_factor):
    logit, scores = logits_and_scores()
    loss = FocalLoss(reduction='mean')(logit.requires_grad_(), scores, avg_factor=avg_factor)
    assert '_BlockwiseSum' in str(loss.grad_fn.next_functions)


@pytest.mark.parametrize('weight', [None, torch.rand(40, 3, dtype=torch.float64)])
def test_a_linear_formula_leaves_the_weight_alone(weight):
    """Its gradient is the weight itself."""
    logit, scores = logits_and_scores()
    before = None if weight is None else weight.clone()
    loss = 3 * blockwise_sum(lambda logit, target: logit - target, logit.requires_grad_(), scores, weight)
    expected = 3 * (torch.ones_like(logit) if weight is None else weight)
    torch.testing.assert_close(torch.autograd.grad(loss, logit)[0], expected)
    assert weight is None or torch.equal(weight, before)


def test_blocks_on_another_device_have_a_budget(monkeypatch):
    """In all, not for each thread."""
    monkeypatch.setattr(blockwise, 'DEVICE_BLOCK', 12)
    seen = []

    def formula(logit, target):
        seen.append(len(logit))
        return focal_loss(logit, target)

    blockwise_sum(formula, *(part.to('meta') for part in logits_and_scores()))
    assert seen == [4] * 10


def test_refuses_a_single_number():
    with pytest.raises(ValueError, match=r'shape \(..., C\), but are a single number'):
        FocalLoss(reduction='sum')(torch.tensor(0.0), torch.tensor(1.0))
