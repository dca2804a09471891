"""What all losses share, over the table of losses: weight, reduction, types, gradients, compilers."""

import contextlib
import copy
from itertools import product
from unittest import mock

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from table import BOX_LOSSES, CLASSES, EXEMPT, LOSSES, ROWS, SIGMOID_LOSSES, inputs, per_row

from mmext import losses
from mmext.losses import FocalLoss

ASSIGN = dict(assigner=dict(type='SimOTAAssigner'))
# Of the first row of each class the contract is tested in full; the parts of a loss do not touch it.
CONTRACT = [next(row for row in LOSSES if row.kind == kind) for kind in dict.fromkeys(row.kind for row in LOSSES)]


def test_the_table_is_derived():
    """Of what is exported nothing is missing, and no exemption is stale."""
    assert {row.kind for row in LOSSES} == {name for name in losses.__all__ if name.endswith('Loss')}
    assert {row.arguments['variant'] for row in BOX_LOSSES if row.kind == 'IoULoss'} == set(losses.VARIANTS)
    focuses = {row.arguments['focus']['type'] for row in LOSSES if 'focus' in row.arguments}
    assert focuses == {f'mmext.{name}' for name in losses.__all__ if name.endswith('Focus')}
    assert {part for part, _ in EXEMPT} <= {part for row in LOSSES for part in row.parts}
    assert len({row.name for row in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize('row', CONTRACT, ids=str)
class TestContract:
    def test_reductions_agree(self, row):
        pred, target = inputs(row)
        values = row.build()(pred, target)
        assert values.shape == ((ROWS,) if per_row(row) else (ROWS, CLASSES))
        torch.testing.assert_close(row.build(reduction='sum')(pred, target), values.sum())
        torch.testing.assert_close(row.build(reduction='mean')(pred, target), values.mean())
        for reduction in ('none', 'sum', 'mean'):
            torch.testing.assert_close(
                row.build()(pred, target, reduction_override=reduction), row.build(reduction=reduction)(pred, target)
            )

    @pytest.mark.parametrize('avg_factor', [2.5, torch.tensor(2.5)])
    def test_avg_factor_divides_the_sum(self, row, avg_factor):
        pred, target = inputs(row)
        expected = row.build(reduction='sum')(pred, target) / 2.5
        torch.testing.assert_close(row.build(reduction='mean')(pred, target, avg_factor=avg_factor), expected)
        values = row.build()(pred, target)
        torch.testing.assert_close(row.build()(pred, target, avg_factor=avg_factor), values)

    @pytest.mark.parametrize('avg_factor', [0, 0.0, torch.tensor(0.0)])
    def test_avg_factor_zero_of_nothing_is_zero(self, row, avg_factor):
        loss = row.build(reduction='mean')
        assert loss(*inputs(row), weight=torch.zeros(ROWS), avg_factor=avg_factor).item() == 0

    def test_avg_factor_has_no_meaning_for_a_sum(self, row):
        with pytest.raises(ValueError, match="use reduction='mean'"):
            row.build(reduction='sum')(*inputs(row), avg_factor=1.0)

    def test_weight_of_each_element(self, row):
        pred, target = inputs(row)
        values = row.build()(pred, target)
        weight = torch.rand_like(values)
        torch.testing.assert_close(row.build()(pred, target, weight), values * weight)
        torch.testing.assert_close(row.build()(pred, target, weight.flatten()), values * weight)

    def test_weight_that_fits_nothing(self, row):
        with pytest.raises(ValueError, match=r'\(5,\)'):
            row.build()(*inputs(row), weight=torch.ones(5))

    def test_loss_weight_scales(self, row):
        torch.testing.assert_close(row.build(loss_weight=3.0)(*inputs(row)), 3 * row.build()(*inputs(row)))

    def test_refuses_unknown_reductions(self, row):
        with pytest.raises(ValueError, match="'average'"):
            row.build(reduction='average')
        with pytest.raises(ValueError, match="'average'"):
            row.build()(*inputs(row), reduction_override='average')

    @pytest.mark.parametrize('weight', ['1', [1.0, 2.0], -1.0, float('inf')])
    def test_refuses_a_loss_weight_that_is_no_number(self, row, weight):
        with pytest.raises(ValueError, match='loss_weight'):
            row.build(loss_weight=weight)

    def test_refuses_unknown_arguments(self, row):
        with pytest.raises(TypeError, match='mode'):
            row.build(mode='square')

    def test_one_weight_for_all_rows_fits_nothing(self, row):
        with pytest.raises(ValueError, match=r'\(1,\)'):
            row.build()(*inputs(row), weight=torch.ones(1))


@pytest.mark.parametrize('row', [row for row in CONTRACT if not per_row(row)], ids=str)
def test_weight_of_each_row_as_a_column(row):
    pred, target = inputs(row)
    weight = torch.arange(ROWS, dtype=torch.float64).unsqueeze(-1)
    for reduction in ('none', 'sum'):
        expected = row.build(reduction=reduction)(pred, target, weight.squeeze(-1))
        torch.testing.assert_close(row.build(reduction=reduction)(pred, target, weight), expected)


@contextlib.contextmanager
def constants(kept: list):
    """Let `detach` return what is kept, in order; at first, with an empty list, keep what it returns."""
    detach, replay = torch.Tensor.detach, iter(list(kept))

    def replayed(tensor):
        if kept_before:
            return next(replay)
        kept.append(detach(tensor))
        return kept[-1]

    kept_before = bool(kept)
    with mock.patch.object(torch.Tensor, 'detach', replayed):
        yield


def forms(row, pred, target):
    """The target in each form that the loss takes."""
    if row not in SIGMOID_LOSSES:
        return [target]
    labels = torch.zeros(ROWS, dtype=torch.long, device=pred.device)
    return [target, labels, (labels, target[:, 0])]


@pytest.mark.parametrize('row', LOSSES, ids=str)
class TestEveryLoss:
    def test_weight_multiplies(self, row):
        pred, target = inputs(row)
        values = row.build()(pred, target)
        weight = torch.arange(ROWS, dtype=torch.float64)
        expected = values * (weight if per_row(row) else weight.unsqueeze(-1))
        torch.testing.assert_close(row.build()(pred, target, weight), expected)

    @pytest.mark.parametrize('reduction', ['mean', 'sum'])
    def test_empty_input_is_zero_with_a_graph(self, row, reduction):
        for avg_factor in (None, 1.0) if reduction == 'mean' else (None,):
            pred, target = inputs(row)
            pred = pred.requires_grad_()
            result = row.build(reduction=reduction).train()(pred[:0], target[:0], avg_factor=avg_factor)
            assert result.item() == 0
            result.backward()
            assert (pred.grad == 0).all()

    def test_gradient(self, row):
        """By differences, what the loss detaches being held constant."""
        pred, target = inputs(row)
        loss, kept = row.build(), []
        with constants(kept):
            loss(pred, target)

        def replayed(pred, target):
            with constants(kept) if kept else contextlib.nullcontext():
                return loss(pred, target)

        both = row in BOX_LOSSES
        assert torch.autograd.gradcheck(
            replayed if both else lambda pred: replayed(pred, target),
            (pred.requires_grad_(), target.requires_grad_()) if both else pred.requires_grad_(),
        )

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    def test_narrow_types_are_computed_in_float32(self, row, dtype):
        pred, target = inputs(row, dtype)
        loss = row.build()(pred, target)
        assert loss.dtype == torch.float32
        exact = row.build()(pred.double(), target.double() if target.is_floating_point() else target)
        # Below the resolution of float32 a base counts as 0 where the power is below 1: eps**0.5 is 3.5e-4.
        torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=5e-4 if '0.5' in row.name else 1e-5)

    def test_checkpoints_hold_running_means_alone(self, row):
        means = ['focus.mean'] if {'WiseFocus', 'WiseFocus 2'} & set(row.parts) else []
        assert list(row.build().state_dict()) == means

    @pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
    @pytest.mark.parametrize('weighted', [False, True])
    def test_needs_no_value_and_no_other_device(self, row, reduction, weighted):
        """A meta tensor has no values: a host synchronization, or a CPU tensor that strays in, is an error."""
        pred, target = (tensor.to('meta') for tensor in inputs(row, torch.float32))
        weight = torch.ones(ROWS, device='meta') if weighted else None
        loss = row.build(reduction=reduction).to('meta').train()
        for each in forms(row, pred, target):
            leaf = pred.clone().requires_grad_()
            avg_factor = torch.ones((), device='meta') if reduction == 'mean' else None
            value = loss(leaf, each, weight, avg_factor=avg_factor)
            value.sum().backward()
            assert value.device.type == leaf.grad.device.type == 'meta'
            assert leaf.grad.shape == leaf.shape

    @pytest.mark.gpu
    def test_on_a_gpu_equals_the_cpu(self, row):
        for dtype, reduction in product([torch.float32, torch.float16], ['none', 'sum', 'mean']):
            results = [self.value_and_gradient(row, dtype, reduction, device) for device in ('cuda', 'cpu')]
            torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4, check_device=False)

    @staticmethod
    def value_and_gradient(row, dtype, reduction, device):
        pred, target = (tensor.to(device) for tensor in inputs(row, dtype))
        loss, weight = row.build(reduction=reduction).train().to(device), torch.linspace(0, 1, ROWS, device=device)
        value = loss(pred.requires_grad_(), target, weight)
        value.sum().backward()
        return value.detach(), pred.grad

    @pytest.mark.torch_can('compile')
    def test_compiles_whole(self, row):
        self.compile(row, 'aot_eager')

    @pytest.mark.slow
    @pytest.mark.torch_can('compile')
    def test_compiles_to_code(self, row):
        self.compile(row, 'inductor')

    @staticmethod
    def compile(row, backend):
        torch.compiler.reset()
        eager = row.build().train()
        results = []
        for loss in (eager, copy.deepcopy(eager)):
            pred, target = inputs(row)
            pred.requires_grad_()
            function = loss if loss is eager else torch.compile(loss, fullgraph=True, backend=backend)
            value = function(pred, target)
            value.sum().backward()
            results.append((value.detach(), pred.grad, *loss.state_dict().values()))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
def test_overflow_reaches_the_gradient_scaler(row):
    """Mixed precision finds the largest scale by the infinities of the logits' gradients."""
    logit = torch.full((1, CLASSES), -6.0, dtype=torch.float16, requires_grad=True)
    (row.build(reduction='sum')(logit, torch.ones(1, CLASSES)) * 2.0**22).backward()
    assert logit.grad.isinf().all()


class TestDividedTwice:
    """mmdet's YOLOXHead divides by the number of positives itself, so a mean is divided twice."""

    @staticmethod
    def train(kind, **losses):
        with DefaultScope.overwrite_default_scope('mmdet'):
            head = MODELS.build(
                dict(type=kind, num_classes=3, in_channels=8, feat_channels=8, train_cfg=ASSIGN, **losses)
            )
        instances = InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40]]), labels=torch.tensor([1]))
        features = [torch.rand(1, 8, size, size) for size in (8, 4, 2)]
        for _ in range(2):
            head.loss_by_feat(*head(features), [instances], [{}])

    def test_is_noticed_once(self, log):
        self.train('YOLOXHead', loss_obj=dict(type='mmext.VarifocalLoss'), loss_bbox=dict(type='mmext.IoULoss'))
        warnings = [record.message for record in log.records if 'divided twice' in record.message]
        assert [warning.split()[0] for warning in warnings] == ['VarifocalLoss', 'IoULoss']
        assert all("reduction='sum'" in warning and 'mmdet' in warning for warning in warnings)

    def test_a_caller_without_a_module(self):
        loss = FocalLoss()
        exec('loss(*inputs)', {'loss': loss, 'inputs': (torch.zeros(1, 1), torch.zeros(1, 1))})  # noqa: S102

    @pytest.mark.parametrize(
        ('kind', 'reduction'), [('YOLOXHead', 'sum'), ('mmext.YOLOXHead', 'sum'), ('mmext.YOLOXHead', 'mean')]
    )
    def test_is_not_noticed_elsewhere(self, kind, reduction, log):
        self.train(kind, loss_obj=dict(type='mmext.VarifocalLoss', reduction=reduction))
        assert 'divided twice' not in log.text
