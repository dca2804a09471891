"""Bad input to every loss of the table: what is refused, and what NaN, weights and numbers out of range do.

docs/reliability.md states the answers. No check reads a value: `test_needs_no_value_and_no_other_device` has no values.
"""

import math
from itertools import product

import pytest
import torch
from table import BOX_LOSSES, CLASSES, LOSSES, ROWS, SIGMOID, SIGMOID_LOSSES, SOFTMAX_LOSSES, inputs, per_row

from mmext import losses
from mmext.losses.box_pair import BoxPair
from mmext.losses.focus import WiseFocus

BAD = 2
GOOD = [row for row in range(ROWS) if row != BAD]
NAN, INF = math.nan, math.inf
CONTRACT = [next(row for row in LOSSES if row.kind == kind) for kind in dict.fromkeys(row.kind for row in LOSSES)]


def spoil(tensor, value):
    """A copy with this value in the bad row."""
    tensor = tensor.clone()
    tensor[BAD] = value
    return tensor


def value_and_gradient(loss, pred, target, *weight, **arguments):
    pred = pred.clone().requires_grad_()
    value = loss(pred, target, *weight, **arguments)
    (gradient,) = torch.autograd.grad(value.sum(), pred)
    return value.detach(), gradient


def weights(row):
    """Every form of a weight that is 0 in the bad row."""
    rows = torch.linspace(0.5, 1.5, ROWS, dtype=torch.float64)
    rows[BAD] = 0
    yield from (rows, rows > 0, (rows > 0).long())
    if row in BOX_LOSSES:
        yield rows.unsqueeze(-1).expand(-1, 4)
    elif not per_row(row):
        yield from (rows.unsqueeze(-1), rows.unsqueeze(-1).expand(-1, CLASSES).contiguous())


def targets(row, target):
    """The target in every form that the loss takes."""
    yield target
    if row in SIGMOID_LOSSES:
        yield torch.zeros(ROWS, dtype=torch.long), target[:, 0]


@pytest.mark.parametrize('row', LOSSES, ids=str)
class TestNaN:
    def test_makes_the_loss_and_the_gradient_of_its_row_nan_alone(self, row):
        pred, target = inputs(row)
        expected = value_and_gradient(row.build().train(), pred[GOOD], target[GOOD])
        for pair in [(spoil(pred, NAN), target), *([(pred, spoil(target, NAN))] if takes_nan_target(row) else [])]:
            loss = row.build().train()
            for result, good in zip(value_and_gradient(loss, *pair), expected):
                assert result[BAD].isnan().all()
                torch.testing.assert_close(result[GOOD], good)
            assert all(buffer.isfinite().all() for buffer in loss.buffers())
            for reduction in ('sum', 'mean'):
                value, gradient = value_and_gradient(row.build(reduction=reduction), *pair)
                assert value.isnan()
                assert gradient[BAD].isnan().all() and gradient[GOOD].isfinite().all()

    @pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
    def test_of_weight_0_counts_for_nothing(self, row, reduction):
        pred, target = inputs(row)
        for weight, each in product(weights(row), targets(row, target)):
            loss, bad = row.build(reduction=reduction), spoil_target(each)
            expected = value_and_gradient(loss, pred, each, weight)
            for result, good in zip(value_and_gradient(loss, spoil(pred, NAN), bad, weight), expected):
                torch.testing.assert_close(result, good)
            for value in (INF, -INF):
                assert all(each.isfinite().all() for each in value_and_gradient(loss, spoil(pred, value), bad, weight))

    def test_of_weight_0_has_no_second_derivative(self, row):
        """`create_graph` computes the formula again."""
        pred, target = inputs(row)
        weight = torch.ones(ROWS)
        weight[BAD] = 0
        pred = spoil(pred, NAN).requires_grad_()
        value = row.build(reduction='sum')(pred, target, weight)
        (gradient,) = torch.autograd.grad(value, pred, create_graph=True)
        assert gradient.isfinite().all()
        if gradient.requires_grad and not row.lacks('second derivative'):
            (second,) = torch.autograd.grad(gradient.sum(), pred)
            assert (second[BAD] == 0).all()


def takes_nan_target(row):
    """Labels are integers, and MALoss with gamma 0 raises the target to the power 0: there NaN counts as a negative."""
    return row not in SOFTMAX_LOSSES and (row.kind, row.arguments.get('gamma')) != ('MALoss', 0)


def spoil_target(target):
    """Scores and boxes of NaN, a label that does not exist."""
    if isinstance(target, tuple):
        return tuple(map(spoil_target, target))
    return spoil(target, NAN if target.is_floating_point() else 255)


@pytest.mark.parametrize('row', [row for row in CONTRACT if not per_row(row)], ids=str)
def test_one_element_of_weight_0(row):
    pred, target = inputs(row)
    weight = torch.ones(ROWS, CLASSES, dtype=torch.float64)
    weight[BAD, 1] = 0
    # The row's score, which its other elements share, stays.
    pair = torch.zeros(ROWS, dtype=torch.long), target[:, 0] + 0.1
    values = row.build()(pred, pair)
    torch.testing.assert_close(row.build()(pred, pair, weight), values * weight)
    expected = value_and_gradient(row.build(), pred, target, weight)
    pred[BAD, 1] = target[BAD, 1] = NAN
    for reduction in ('none', 'sum'):
        value, gradient = value_and_gradient(row.build(reduction=reduction), pred, target, weight)
        torch.testing.assert_close(gradient, expected[1])
        torch.testing.assert_close(value.sum(), expected[0].sum())


@pytest.mark.torch_can('compile')
@pytest.mark.parametrize('kind', ['IoULoss', 'FocalLoss', 'SoftmaxFocalLoss'])
def test_weight_0_when_compiled(kind):
    torch.compiler.reset()
    row = next(row for row in CONTRACT if row.kind == kind)
    (pred, target), weight = inputs(row), torch.ones(ROWS)
    weight[BAD] = 0
    compiled = torch.compile(row.build(reduction='sum'), fullgraph=True, backend='aot_eager')
    results = [
        value_and_gradient(loss, spoil(pred, NAN), spoil_target(target), weight)
        for loss in (row.build(reduction='sum'), compiled)
    ]
    assert all(result.isfinite().all() for result in results[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('row', CONTRACT, ids=str)
class TestTypesAndDevices:
    def test_the_prediction_is_a_floating_point_tensor(self, row):
        pred, target = inputs(row)
        for bad, remedy in ((pred.tolist(), 'torch.as_tensor'), (pred.long(), r'pred\.float\(\)')):
            with pytest.raises(TypeError, match=rf'^{row.kind}: pred must be .*{remedy}'):
                row.build()(bad, target)
        for bad in (pred.bool(), pred.to(torch.complex64)):
            with pytest.raises(TypeError, match=rf'pred must be a floating-point tensor, but is {bad.dtype}'):
                row.build()(bad, target)

    @pytest.mark.parametrize('name', ['target', 'weight'])
    @pytest.mark.parametrize('bad', ['x', 1.0, [1.0] * ROWS])
    def test_the_others_are_tensors(self, row, name, bad):
        pred, target = inputs(row)
        given = {'target': target, 'weight': torch.ones(ROWS), name: bad}
        with pytest.raises(TypeError, match=rf'^{row.kind}: {name} must be a tensor, but is a (str|float)'):
            row.build()(pred, **given)

    def test_no_target(self, row):
        pred, target = inputs(row)
        for bad in (None, target.to(torch.complex64)):
            with pytest.raises((TypeError, ValueError), match='target'):
                row.build()(pred, bad)

    @pytest.mark.parametrize('name', ['target', 'weight'])
    @pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
    def test_all_on_one_device(self, row, name, reduction):
        pred, target = inputs(row)
        given = {'target': target, 'weight': torch.ones(ROWS)}
        given[name] = given[name].to('meta')
        remedy = rf'^{row.kind}: {name} is on meta, but pred on cpu; use {name}\.to\(pred\.device\)'
        with pytest.raises(ValueError, match=remedy):
            row.build(reduction=reduction)(pred, **given)

    def test_shapes(self, row):
        pred, target = inputs(row)
        for bad_pred, bad_target in (
            (pred, target[:-1]),
            (pred[:, :-1], target),
            (pred.sum(), target),
            (pred, pred.sum()),
        ):
            if row in SOFTMAX_LOSSES and bad_pred.shape == (ROWS, CLASSES - 1):
                continue
            for reduction in ('none', 'sum'):
                with pytest.raises(ValueError, match=r'shape'):
                    row.build(reduction=reduction)(bad_pred, bad_target)


def test_boxes_are_one_tensor():
    boxes = torch.rand(2, 4)
    with pytest.raises(TypeError, match=r'target must be boxes \(n, 4\) in one tensor, but is a tuple'):
        BoxPair(boxes, (boxes, boxes))


@pytest.mark.parametrize('row', CONTRACT, ids=str)
class TestAvgFactor:
    @pytest.mark.parametrize('bad', [-1.0, -3, NAN, INF, '2', [2.0], True])
    def test_a_number_out_of_range(self, row, bad):
        with pytest.raises(ValueError, match=rf'^{row.kind}: avg_factor must be a number of at least 0, but is'):
            row.build(reduction='mean')(*inputs(row), avg_factor=bad)

    def test_more_than_one_number(self, row):
        for bad in (torch.ones(2), torch.ones(0)):
            with pytest.raises(ValueError, match=r'avg_factor must be one number.* use weight'):
                row.build(reduction='mean')(*inputs(row), avg_factor=bad)

    def test_on_another_device(self, row):
        with pytest.raises(ValueError, match=r'avg_factor is on meta, .*avg_factor\.to\(pred\.device\)'):
            row.build(reduction='mean')(*inputs(row), avg_factor=torch.ones((), device='meta'))

    @pytest.mark.parametrize(
        'avg_factor', [torch.tensor(3), torch.tensor([3.0]), 3, torch.tensor(3.0, dtype=torch.float16)]
    )
    def test_every_form_gives_a_scalar(self, row, avg_factor):
        value = row.build(reduction='mean')(*inputs(row), avg_factor=avg_factor)
        torch.testing.assert_close(value, row.build(reduction='sum')(*inputs(row)) / 3)

    @pytest.mark.parametrize('avg_factor', [0, 0.0, 1e-30, torch.tensor(0.0), torch.tensor(0), torch.tensor(-5.0)])
    def test_below_epsilon_is_epsilon(self, row, avg_factor):
        """Of a tensor no value is read, so a negative number acts as 0."""
        value = row.build(reduction='mean')(*inputs(row), avg_factor=avg_factor)
        torch.testing.assert_close(value, row.build(reduction='sum')(*inputs(row)) / torch.finfo(torch.float32).eps)

    def test_a_tensor_of_nan_makes_the_loss_nan(self, row):
        assert row.build(reduction='mean')(*inputs(row), avg_factor=torch.tensor(NAN)).isnan()


@pytest.mark.parametrize('row', CONTRACT, ids=str)
class TestWeight:
    @pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
    def test_a_negative_one_reverses_loss_and_gradient(self, row, reduction):
        pred, target = inputs(row)
        loss = row.build(reduction=reduction)
        results = [value_and_gradient(loss, pred, target, sign * torch.ones(ROWS)) for sign in (1, -1)]
        for ours, reverse in zip(*results):
            torch.testing.assert_close(ours, -reverse)

    def test_nan_makes_its_row_nan(self, row):
        pred, target = inputs(row)
        expected = value_and_gradient(row.build(), pred, target)
        for result, clean in zip(value_and_gradient(row.build(), pred, target, spoil(torch.ones(ROWS), NAN)), expected):
            assert result[BAD].isnan().all()
            torch.testing.assert_close(result[GOOD], clean[GOOD])
        assert row.build(reduction='sum')(pred, target, spoil(torch.ones(ROWS), NAN)).isnan()


@pytest.mark.parametrize('weight', [NAN, -1.0, 0.0])
@pytest.mark.parametrize('columns', [(), (4,)])
def test_pairs_of_such_weight_do_not_enter_the_running_mean(weight, columns):
    pred, target = inputs(next(row for row in BOX_LOSSES if 'WiseFocus' in row.parts))
    focuses = WiseFocus(momentum=1.0), WiseFocus(momentum=1.0)
    focuses[0].train()(BoxPair(pred, target), spoil(torch.ones(ROWS, *columns), weight))
    focuses[1].train()(BoxPair(pred[GOOD], target[GOOD]))
    torch.testing.assert_close(focuses[0].mean, focuses[1].mean)


class TestLabels:
    @pytest.mark.parametrize('kind', SIGMOID)
    @pytest.mark.parametrize('label', [-1, -100, CLASSES, 255, 2**40])
    def test_outside_the_classes_is_background(self, kind, label):
        logit, loss = torch.randn(ROWS, CLASSES), getattr(losses, kind)(reduction='none')
        labels, scores = torch.full((ROWS,), label), torch.rand(ROWS)
        background = loss(logit, torch.zeros(ROWS, CLASSES))
        torch.testing.assert_close(loss(logit, labels), background)
        torch.testing.assert_close(loss(logit, (labels, scores)), background)

    @pytest.mark.parametrize('row', SOFTMAX_LOSSES, ids=str)
    @pytest.mark.parametrize('label', [-1, CLASSES, 255])
    def test_a_softmax_needs_one_of_its_classes(self, row, label):
        logit, labels = inputs(row)
        with pytest.raises(RuntimeError, match=f'index {label} is out of bounds'):
            row.build()(logit, spoil(labels, label))


# What a score of -0.1 and of 1.1 gives, with a logit of 0.5.
BELOW, ABOVE = -0.1, 1.1
NAN_BELOW_0 = {'IABCELoss', 'MALoss'}


@pytest.mark.parametrize('row', [row for row in CONTRACT if row in SIGMOID_LOSSES], ids=str)
class TestScores:
    @pytest.mark.parametrize('score', [BELOW, ABOVE, NAN, INF])
    def test_out_of_range_touches_no_other_row(self, row, score):
        logit, target = inputs(row)
        expected = value_and_gradient(row.build(), logit[GOOD], target[GOOD])
        for result, good in zip(value_and_gradient(row.build(), logit, spoil(target, score)), expected):
            torch.testing.assert_close(result[GOOD], good)

    def test_below_0_is_nan_where_it_has_a_power(self, row):
        logit, target = inputs(row)
        value = row.build()(logit, spoil(target, BELOW))[BAD]
        assert value.isnan().all() if row.kind in NAN_BELOW_0 else value.isfinite().all()
        assert row.build()(logit, spoil(target, ABOVE))[BAD].isfinite().all()


@pytest.mark.parametrize('row', BOX_LOSSES, ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_infinite_coordinates_saturate(row, dtype):
    """The loss is that of boxes at the limit of the coordinates."""
    limit = torch.finfo(dtype).max ** 0.25 / 4
    pred, target = inputs(row, dtype)
    for sign in (1, -1):
        for ours, expected in zip(
            value_and_gradient(row.build(), spoil(pred, sign * INF), target),
            value_and_gradient(row.build(), spoil(pred, sign * limit), target),
        ):
            assert ours.isfinite().all()
            torch.testing.assert_close(ours, expected)
