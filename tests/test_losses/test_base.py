"""What all losses share: weight, reduction, avg_factor, scale. Driven by the table of losses."""

import pytest
import torch

from mmext.losses import FocalLoss, IoULoss, QualityFocalLoss, SoftmaxFocalLoss, VarifocalLoss
from mmext.losses.base import power, wide

ROWS, CLASSES = 6, 3


def boxes():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, ROWS, 4, generator=generator, dtype=torch.float64) * 10
    boxes[..., 2:] += boxes[..., :2] + 1
    return boxes[0], boxes[1]


def scores():
    generator = torch.Generator().manual_seed(0)
    logit, target = torch.randn(2, ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return logit, target.sigmoid() * (target > 0)


def labels():
    return scores()[0], torch.tensor([0, 1, 2, 2, 1, 0])


# Each loss, what it is fed, and whether it has one value per row.
LOSSES = [
    (IoULoss, boxes, True),
    (FocalLoss, scores, False),
    (VarifocalLoss, scores, False),
    (QualityFocalLoss, scores, True),
    (SoftmaxFocalLoss, labels, True),
]


def test_the_table_is_complete():
    from mmext import losses

    assert {row[0].__name__ for row in LOSSES} == {name for name in losses.__all__ if name.endswith('Loss')}


@pytest.mark.parametrize(('loss', 'inputs', 'per_row'), LOSSES)
class TestEveryLoss:
    def test_reductions_agree(self, loss, inputs, per_row):
        pred, target = inputs()
        values = loss(reduction='none')(pred, target)
        assert values.shape == ((ROWS,) if per_row else (ROWS, CLASSES))
        torch.testing.assert_close(loss(reduction='sum')(pred, target), values.sum())
        torch.testing.assert_close(loss(reduction='mean')(pred, target), values.mean())
        for reduction in ('none', 'sum', 'mean'):
            torch.testing.assert_close(
                loss()(pred, target, reduction_override=reduction), loss(reduction=reduction)(pred, target)
            )

    @pytest.mark.parametrize('avg_factor', [2.5, torch.tensor(2.5)])
    def test_avg_factor_divides_the_sum(self, loss, inputs, per_row, avg_factor):
        pred, target = inputs()
        expected = loss(reduction='sum')(pred, target) / 2.5
        torch.testing.assert_close(loss()(pred, target, avg_factor=avg_factor), expected)
        values = loss(reduction='none')(pred, target)
        torch.testing.assert_close(loss(reduction='none')(pred, target, avg_factor=avg_factor), values)

    @pytest.mark.parametrize('avg_factor', [0, 0.0, torch.tensor(0.0)])
    def test_avg_factor_zero_of_nothing_is_zero(self, loss, inputs, per_row, avg_factor):
        pred, target = inputs()
        assert loss()(pred, target, weight=torch.zeros(ROWS), avg_factor=avg_factor).item() == 0

    def test_avg_factor_has_no_meaning_for_a_sum(self, loss, inputs, per_row):
        with pytest.raises(ValueError, match="use reduction='mean'"):
            loss(reduction='sum')(*inputs(), avg_factor=1.0)

    def test_weight_multiplies(self, loss, inputs, per_row):
        pred, target = inputs()
        values = loss(reduction='none')(pred, target)
        weight = torch.arange(ROWS, dtype=torch.float64)
        expected = values * (weight if per_row else weight.unsqueeze(-1))
        torch.testing.assert_close(loss(reduction='none')(pred, target, weight), expected)

    def test_weight_of_each_element(self, loss, inputs, per_row):
        pred, target = inputs()
        values = loss(reduction='none')(pred, target)
        weight = torch.rand_like(values)
        torch.testing.assert_close(loss(reduction='none')(pred, target, weight), values * weight)
        torch.testing.assert_close(loss(reduction='none')(pred, target, weight.flatten()), values * weight)

    def test_weight_that_fits_nothing(self, loss, inputs, per_row):
        with pytest.raises(ValueError, match=r'\(5,\)'):
            loss()(*inputs(), weight=torch.ones(5))

    def test_loss_weight_scales(self, loss, inputs, per_row):
        torch.testing.assert_close(loss(loss_weight=3.0)(*inputs()), 3 * loss()(*inputs()))

    @pytest.mark.parametrize('reduction', ['mean', 'sum'])
    @pytest.mark.parametrize('avg_factor', [None, 1.0])
    def test_empty_input_is_zero_with_a_graph(self, loss, inputs, per_row, reduction, avg_factor):
        if reduction == 'sum':
            avg_factor = None
        pred, target = inputs()
        pred = pred.requires_grad_()
        result = loss(reduction=reduction)(pred[:0], target[:0], avg_factor=avg_factor)
        assert result.item() == 0
        result.backward()
        assert (pred.grad == 0).all()

    def test_refuses_unknown_reductions(self, loss, inputs, per_row):
        with pytest.raises(ValueError, match="'average'"):
            loss(reduction='average')
        with pytest.raises(ValueError, match="'average'"):
            loss()(*inputs(), reduction_override='average')

    @pytest.mark.parametrize('weight', ['1', [1.0, 2.0], -1.0, float('inf')])
    def test_refuses_a_loss_weight_that_is_no_number(self, loss, inputs, per_row, weight):
        with pytest.raises(ValueError, match='loss_weight'):
            loss(loss_weight=weight)

    def test_has_nothing_in_checkpoints(self, loss, inputs, per_row):
        assert not loss().state_dict()

    def test_compiles_whole(self, loss, inputs, per_row):
        torch.compiler.reset()
        compiled = torch.compile(loss(), fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(compiled(*inputs()), loss()(*inputs()))


@pytest.mark.parametrize('exponent', [0, 0.5, 1, 1.5, 2])
def test_power(exponent):
    base = torch.tensor([-1e-9, 0.0, 1e-30, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    result = power(base, exponent)
    if exponent > 0:
        result.sum().backward()
        assert base.grad.isfinite().all()
    expected = [0.0**exponent] * 3 + [0.25**exponent, 1.0]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


def test_wide():
    half, double = torch.ones(1, dtype=torch.float16), torch.ones(1, dtype=torch.float64)
    assert [tensor.dtype for tensor in wide(half, half.bool())] == [torch.float32] * 2
    assert [tensor.dtype for tensor in wide(half, double)] == [torch.float64] * 2


def test_overflow_reaches_the_gradient_scaler():
    """Mixed precision finds the largest scale by the infinities of the logits' gradients."""
    for loss in (FocalLoss, VarifocalLoss, QualityFocalLoss):
        logit = torch.full((1, 1), -6.0, dtype=torch.float16, requires_grad=True)
        (loss(reduction='sum')(logit, torch.ones(1, 1)) * 2.0**20).backward()
        assert logit.grad.isinf().all()
