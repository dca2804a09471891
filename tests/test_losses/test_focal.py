"""Classification losses: values by hand, the peers, extreme logits, targets in every form."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses as mmdet_losses
from table import SIGMOID_LOSSES

from mmext import losses
from mmext.losses import (
    AsymmetricLoss,
    FocalLoss,
    PolyFocalLoss,
    QualityFocalLoss,
    SoftmaxFocalLoss,
    VarifocalLoss,
    asymmetric_loss,
    focal_loss,
    poly_focal_loss,
    quality_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
    weighted_bce,
)
from mmext.losses.focal import WeightedBCELoss

LN2 = math.log(2)
SIGMOID = [
    (focal_loss, FocalLoss),
    (poly_focal_loss, PolyFocalLoss),
    (asymmetric_loss, AsymmetricLoss),
    (varifocal_loss, VarifocalLoss),
    (quality_focal_loss, QualityFocalLoss),
]
FOCUS = {asymmetric_loss: ('gamma_pos', 'gamma_neg'), quality_focal_loss: ('beta',)}
WEIGHTS = [0.5, 1.0, 4.0]


def focus(function, value):
    """The arguments that set the focus of the loss."""
    return dict.fromkeys(FOCUS.get(function, ('gamma',)), value)


def test_every_loss_over_a_sigmoid_is_here():
    assert {module.__name__ for _, module in SIGMOID} == {row.kind for row in SIGMOID_LOSSES}


def logits_and_scores(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logit, score = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    return logit.mul(3).to(dtype), (score.sigmoid() * (score > 0)).to(dtype)


def value(function, logit, target, **arguments):
    logit = torch.tensor([[logit]], dtype=torch.float64)
    return function(logit, torch.tensor([[target]], dtype=torch.float64), **arguments).item()


class TestByHand:
    """At logit 0, p is 1/2 and every log is ln 2; at ln 3, p is 3/4."""

    def test_focal(self):
        assert value(focal_loss, 0.0, 1.0) == pytest.approx(0.25 / 4 * LN2)
        assert value(focal_loss, 0.0, 0.0) == pytest.approx(0.75 / 4 * LN2)
        assert value(focal_loss, math.log(3), 1.0, alpha=0.5, gamma=3.0) == pytest.approx(0.5 / 64 * math.log(4 / 3))
        assert value(focal_loss, math.log(3), 0.0, alpha=0.5, gamma=1.0) == pytest.approx(0.5 * 0.75 * math.log(4))

    def test_varifocal(self):
        assert value(varifocal_loss, 0.0, 0.6) == pytest.approx(0.6 * LN2)
        assert value(varifocal_loss, 0.0, 0.6, iou_weighted=False) == pytest.approx(LN2)
        assert value(varifocal_loss, 0.0, 0.0) == pytest.approx(0.75 / 4 * LN2)
        assert value(varifocal_loss, math.log(3), 0.0, alpha=2.0, gamma=1.0) == pytest.approx(2 * 0.75 * math.log(4))

    def test_quality_focal(self):
        assert value(quality_focal_loss, 0.0, 1.0) == pytest.approx(LN2 / 4)
        assert value(quality_focal_loss, 0.0, 0.5) == 0
        assert value(quality_focal_loss, math.log(3), 0.25, beta=1.0) == pytest.approx(
            0.5 * (0.25 * math.log(4 / 3) + 0.75 * math.log(4))
        )

    def test_poly_focal(self):
        assert value(poly_focal_loss, 0.0, 1.0) == pytest.approx(LN2 / 4 + 1 / 8)
        assert value(poly_focal_loss, 0.0, 0.0, alpha=0.25) == pytest.approx(0.75 * (LN2 / 4 + 1 / 8))
        three = math.log(3)
        assert value(poly_focal_loss, three, 1.0, gamma=0.0, epsilon=2.0) == pytest.approx(math.log(4 / 3) + 2 / 4)
        assert value(poly_focal_loss, three, 0.0, gamma=1.0) == pytest.approx(0.75 * math.log(4) + 0.75**2)

    def test_asymmetric(self):
        assert value(asymmetric_loss, 0.0, 1.0) == pytest.approx(LN2 / 2)
        assert value(asymmetric_loss, 0.0, 0.0) == pytest.approx(-(0.45**4) * math.log(0.55))
        assert value(asymmetric_loss, math.log(3), 0.0, clip=0.5, gamma_neg=1.0) == pytest.approx(
            -0.25 * math.log(0.75)
        )
        assert value(asymmetric_loss, -math.log(3), 0.0, clip=0.3) == 0
        assert value(asymmetric_loss, math.log(3), 1.0, gamma_pos=2.0) == pytest.approx(math.log(4 / 3) / 16)

    def test_softmax_focal(self):
        logit = torch.tensor([[0.0, math.log(2), 0.0]], dtype=torch.float64)
        assert softmax_focal_loss(logit, torch.tensor([1])).item() == pytest.approx(LN2 / 4)
        assert softmax_focal_loss(logit, torch.tensor([0]), gamma=1.0).item() == pytest.approx(0.75 * math.log(4))
        weighted = softmax_focal_loss(logit, torch.tensor([0]), alpha=[2.0, 3.0, 5.0], gamma=1.0)
        assert weighted.item() == pytest.approx(2 * 0.75 * math.log(4))

    @pytest.mark.parametrize(('background_index', 'weights'), [(0, [0.3, 0.7, 0.7]), (-1, [0.7, 0.7, 0.3])])
    def test_softmax_focal_with_one_alpha(self, background_index, weights):
        logit, label = torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)
        loss = SoftmaxFocalLoss(alpha=0.3, gamma=0.0, background_index=background_index, reduction='none')
        expected = torch.tensor(weights, dtype=torch.float64) * math.log(3)
        torch.testing.assert_close(loss(logit, label), expected)


class TestRelations:
    @pytest.mark.parametrize(('function', '_module'), SIGMOID)
    def test_without_focus_it_is_weighted_bce(self, function, _module):
        logit, score = logits_and_scores()
        target = (score > 0).double()
        bce = F.binary_cross_entropy_with_logits(logit, target, reduction='none')
        arguments = focus(function, 0.0)
        if function is focal_loss:
            torch.testing.assert_close(function(logit, target, alpha=0.5, **arguments), bce / 2)
            alpha = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
            expected = torch.where(target == 1, alpha, 1 - alpha) * bce
            torch.testing.assert_close(function(logit, target, alpha=[0.2, 0.5, 0.9], **arguments), expected)
        elif function is poly_focal_loss:
            torch.testing.assert_close(function(logit, target, epsilon=0.0, **arguments), bce)
        elif function is asymmetric_loss:
            torch.testing.assert_close(function(logit, target, clip=0.0, **arguments), bce)
        elif function is varifocal_loss:
            torch.testing.assert_close(function(logit, target, alpha=1.0, **arguments), bce)
        else:
            torch.testing.assert_close(function(logit, target, **arguments), bce.sum(-1))

    @pytest.mark.parametrize('reduction', ['none', 'sum'])
    def test_focal_without_focus_learns_from_what_is_all_but_right(self, reduction):
        """A focus would be below the resolution of float32 there."""
        logit = torch.tensor([[-20.0]], requires_grad=True)
        FocalLoss(alpha=0.25, gamma=0.0, reduction=reduction)(logit, torch.zeros(1, 1)).sum().backward()
        torch.testing.assert_close(logit.grad, 0.75 * logit.detach().sigmoid(), rtol=1e-5, atol=0)

    def test_softmax_focal_without_focus_is_weighted_cross_entropy(self):
        logit, _ = logits_and_scores()
        label, weights = torch.arange(40) % 3, torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
        expected = F.cross_entropy(logit, label, weight=weights, reduction='none')
        torch.testing.assert_close(softmax_focal_loss(logit, label, alpha=weights, gamma=0.0), expected)

    def test_softmax_focal_of_two_classes_is_sigmoid_focal(self):
        logit, score = logits_and_scores()
        two, label = torch.stack([torch.zeros(40, dtype=torch.float64), logit[:, 0]], -1), (score[:, 0] > 0).long()
        expected = focal_loss(logit[:, :1], label.unsqueeze(-1), alpha=0.5) * 2
        torch.testing.assert_close(softmax_focal_loss(two, label), expected.squeeze(-1))

    def test_poly_focal_without_epsilon_is_focal(self):
        logit, score = logits_and_scores()
        torch.testing.assert_close(
            poly_focal_loss(logit, score, epsilon=0.0, alpha=0.3), focal_loss(logit, score, alpha=0.3)
        )

    def test_asymmetric_without_asymmetry_is_focal(self):
        logit, score = logits_and_scores()
        target = (score > 0).double()
        symmetric = asymmetric_loss(logit, target, gamma_pos=2.0, gamma_neg=2.0, clip=0.0)
        torch.testing.assert_close(symmetric, focal_loss(logit, target, alpha=0.5) * 2)

    @pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
    def test_minimum_of_hard_targets(self, row):
        """It falls to 0 as p comes to t."""
        logit = torch.linspace(-40, 40, 81, dtype=torch.float64).unsqueeze(-1).expand(-1, 3)
        for target in (0.0, 1.0):
            loss = row.build()(logit, torch.full_like(logit, target)).view(81, -1)
            assert ((loss.diff(dim=0) >= -1e-12) if target == 0 else (loss.diff(dim=0) <= 1e-12)).all()
            assert loss.min() < 1e-12

    @pytest.mark.parametrize('row', SIGMOID_LOSSES, ids=str)
    @pytest.mark.parametrize('target', [0.1, 0.3, 0.6, 0.9])
    def test_minimum_of_soft_targets(self, row, target):
        """At p = t, as labels that are smoothed or IoUs need it, where the class says so; else it is not."""
        minimum = self.minimum(row, target)
        loss = row.build()
        if loss.soft_target:
            assert minimum == pytest.approx(target, abs=2e-3)
        assert loss.soft_target == (row.lacks('soft') is None)

    @pytest.mark.parametrize('module', [FocalLoss, PolyFocalLoss, AsymmetricLoss])
    def test_minimum_elsewhere(self, module):
        row = next(row for row in SIGMOID_LOSSES if row.kind == module.__name__)
        assert abs(self.minimum(row, 0.6) - 0.6) > 0.05

    @staticmethod
    def minimum(row, target):
        probability = torch.linspace(0.01, 0.99, 981, dtype=torch.float64)
        logit = probability.logit().unsqueeze(-1).expand(-1, 3)
        loss = row.build()(logit, torch.full_like(logit, target)).view(981, -1)[:, 0]
        return probability[loss.argmin()].item()


class TestPeers:
    def test_focal(self):
        logit, score = logits_and_scores()
        self.compare(focal_loss, mmdet_losses.FocalLoss(reduction='none'), logit, (score > 0).double())
        self.compare(focal_loss, mmdet_losses.FocalLoss(reduction='none'), logit, score)

    @pytest.mark.parametrize('iou_weighted', [True, False])
    def test_varifocal(self, iou_weighted):
        peer = mmdet_losses.VarifocalLoss(iou_weighted=iou_weighted, reduction='none')
        logit, score = logits_and_scores()
        self.compare(lambda *inputs: varifocal_loss(*inputs, iou_weighted=iou_weighted), peer, logit, score)

    def test_quality_focal(self):
        logit, score = logits_and_scores()
        self.compare(quality_focal_loss, mmdet_losses.QualityFocalLoss(reduction='none'), logit, score)
        labels, quality = torch.arange(40) % 4, score[:, 0] + 0.1
        peer = mmdet_losses.QualityFocalLoss(reduction='none')
        self.compare(quality_focal_loss, peer, logit, (labels, quality))

    def test_softmax_focal_without_focus(self):
        logit, _ = logits_and_scores()
        theirs = mmdet_losses.CrossEntropyLoss(class_weight=WEIGHTS, reduction='none')
        ours = SoftmaxFocalLoss(alpha=WEIGHTS, gamma=0.0, reduction='none')
        self.compare(ours, theirs, logit, torch.arange(40) % 3)

    @staticmethod
    def compare(ours, theirs, logit, target):
        results = []
        for function in (ours, theirs):
            leaf = logit.clone().requires_grad_()
            loss = function(leaf, target)
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


class TestExtremeLogits:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('value', [0.0, 0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize(('function', '_module'), SIGMOID)
    def test_sigmoid(self, function, _module, value, dtype):
        logit = torch.tensor([-1000, -100, -20, 0, 20, 100, 1000], dtype=dtype).repeat(3).unsqueeze(-1).requires_grad_()
        target = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(7).unsqueeze(-1).to(dtype)
        loss = function(logit, target, **focus(function, value))
        loss.sum().backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert logit.grad.isfinite().all()
        assert (loss >= 0).all()

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0, 5.0])
    def test_softmax(self, gamma, dtype):
        logit = torch.tensor([[1000, -1000, 0], [-1000, 1000, 0], [20, 0, 0]], dtype=dtype).requires_grad_()
        loss = softmax_focal_loss(logit, torch.tensor([0, 0, 0]), gamma=gamma)
        loss.sum().backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert logit.grad.isfinite().all()

    def test_wrong_and_certain_still_learns(self):
        """From probabilities in float32 this gradient is exactly 0."""
        logit = torch.tensor([[20.0]], requires_grad=True)
        focal_loss(logit, torch.tensor([[0.0]])).sum().backward()
        assert logit.grad.item() == pytest.approx(0.75, rel=1e-6)


class TestTargets:
    @pytest.mark.parametrize(('function', '_module'), SIGMOID)
    @pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
    def test_labels_are_one_hot_with_background_last(self, function, _module, dtype):
        logit, _ = logits_and_scores()
        labels = torch.arange(40) % 4
        one_hot = F.one_hot(labels, 4)[:, :3].double()
        torch.testing.assert_close(function(logit, labels.to(dtype)), function(logit, one_hot))
        scores = torch.linspace(0.1, 1, 40, dtype=torch.float64)
        expected = function(logit, one_hot * scores.unsqueeze(-1))
        torch.testing.assert_close(function(logit, (labels.to(dtype), scores)), expected)

    @pytest.mark.parametrize(('function', '_module'), SIGMOID)
    def test_more_dimensions(self, function, _module):
        logit, score = logits_and_scores()
        expected = function(logit, score)
        nested = function(logit.view(4, 10, 3), score.view(4, 10, 3))
        torch.testing.assert_close(nested.flatten(0, 1), expected)

    @pytest.mark.parametrize(('function', '_module'), SIGMOID)
    def test_target_gets_no_gradient(self, function, _module):
        logit, score = logits_and_scores()
        score.requires_grad_()
        assert not function(logit, score).requires_grad

    @pytest.mark.parametrize(
        'dtype',
        [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.float32, torch.float64, torch.float16],
    )
    @pytest.mark.parametrize('shape', [(40,), (40, 1)])
    def test_softmax_labels(self, dtype, shape):
        logit, _ = logits_and_scores()
        labels = torch.arange(40) % 3
        torch.testing.assert_close(
            softmax_focal_loss(logit, labels.to(dtype).view(shape)), softmax_focal_loss(logit, labels)
        )

    @pytest.mark.parametrize('shape', [(39,), (40, 2), (40, 1, 1), ()])
    def test_refuses_shapes_that_do_not_fit(self, shape):
        logit, _ = logits_and_scores()
        for function, target in [(focal_loss, torch.zeros(shape)), (softmax_focal_loss, torch.zeros(shape).long())]:
            with pytest.raises(ValueError, match='must be'):
                function(logit, target)

    def test_refuses_float_labels_for_a_sigmoid(self):
        with pytest.raises(ValueError, match='integer labels'):
            focal_loss(torch.zeros(4, 3), torch.zeros(4))

    def test_refuses_scores_of_another_shape_than_labels(self):
        with pytest.raises(ValueError, match=r'\(4, 1\)'):
            focal_loss(torch.zeros(4, 3), (torch.zeros(4).long(), torch.zeros(4, 1)))

    def test_softmax_refuses_labels_with_scores(self):
        with pytest.raises(ValueError, match=r'is a pair \(labels, scores\).* mmext.QualityFocalLoss'):
            softmax_focal_loss(torch.zeros(4, 3), (torch.zeros(4).long(), torch.zeros(4)))

    def test_softmax_refuses_scores_and_names_the_remedy(self):
        with pytest.raises(ValueError, match="cls_target='label'"):
            softmax_focal_loss(torch.zeros(4, 3), torch.zeros(4, 3))


class TestClassWeight:
    @pytest.mark.parametrize(('function', 'module'), SIGMOID)
    def test_multiplies_the_class(self, function, module):
        logit, score = logits_and_scores()
        each = torch.stack([function(logit[:, i : i + 1], score[:, i : i + 1]).view(40) for i in range(3)], -1)
        expected = each * torch.tensor(WEIGHTS, dtype=torch.float64)
        if function is quality_focal_loss:
            expected = expected.sum(-1)
        torch.testing.assert_close(function(logit, score, class_weight=WEIGHTS), expected)
        torch.testing.assert_close(module(class_weight=WEIGHTS, reduction='none')(logit, score), expected)

    @pytest.mark.parametrize(('_function', 'module'), SIGMOID)
    def test_follows_the_module(self, _function, module):
        assert module(class_weight=WEIGHTS).to('meta').class_weight.device.type == 'meta'

    @pytest.mark.parametrize(('_function', 'module'), SIGMOID)
    def test_refuses(self, _function, module):
        with pytest.raises(ValueError, match='class_weight has 2 values, one per class, but the logits have 3'):
            module(class_weight=[1.0, 2.0])(*logits_and_scores())
        with pytest.raises(ValueError, match=r'class_weight must be one number per class, but is 2.0; .*loss_weight'):
            module(class_weight=2.0)
        with pytest.raises(ValueError, match='class_weight must be at least 0'):
            module(class_weight=[1.0, -2.0])
        with pytest.raises(ValueError, match='class_weight is an empty list'):
            module(class_weight=[])


CLOSED = [row for row in SIGMOID_LOSSES if issubclass(getattr(losses, row.kind), WeightedBCELoss)]


@pytest.mark.parametrize('row', CLOSED, ids=str)
class TestClosedForm:
    """Sums and means have a gradient of their own; without a reduction it is autograd's."""

    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
    @pytest.mark.parametrize('target', ['scores', 'labels', 'labels and scores'])
    @pytest.mark.parametrize('weight', [None, 'rows', 'mask'])
    @pytest.mark.parametrize('block', [2**17, 12])
    def test_equals_autograd(self, row, dtype, tolerance, target, weight, block, monkeypatch):
        monkeypatch.setattr(weighted_bce, 'BLOCK', block)
        logit, scores = logits_and_scores(dtype)
        labels = torch.arange(-1, 39) % 5 - 1
        target = {'scores': scores, 'labels': labels, 'labels and scores': (labels, scores[:, 0].clone())}[target]
        weight = {None: None, 'rows': scores[:, 1] + 0.1, 'mask': labels % 2 == 0}[weight]
        results = []
        for reduction in ('sum', 'none'):
            leaf = logit.clone().requires_grad_()
            loss = row.build(reduction=reduction)(leaf, target, weight).sum()
            results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)

    def test_gradient_of_numerical_differences(self, row):
        logit, scores = logits_and_scores()
        torch.autograd.gradcheck(
            lambda leaf: row.build()(leaf, scores, avg_factor=3.0, reduction_override='mean'), logit.requires_grad_()
        )

    def test_keeps_its_gradient_alone(self, row):
        logit, scores = logits_and_scores(torch.float32)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda kept: kept):
            loss = row.build(reduction='sum')(logit.requires_grad_(), scores)
        assert [tensor.shape for tensor in saved] == [logit.shape]
        first, second = (torch.autograd.grad(loss, logit, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(first, saved[0])
        (last,) = torch.autograd.grad(2 * loss, logit)
        assert torch.equal(last, 2 * first)
        assert last.data_ptr() == saved[0].data_ptr()

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
    @pytest.mark.parametrize('labelled', [False, True])
    def test_dimensions(self, row, shape, labelled):
        generator = torch.Generator().manual_seed(0)
        logit = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        target = torch.rand(shape, generator=generator, dtype=torch.float64)
        if labelled:
            target = (torch.randint(4, shape[:-1], generator=generator), target[..., 0])
        losses = [row.build(reduction=reduction)(logit, target).sum() for reduction in ('sum', 'none')]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logit)[0] for loss in losses))

    def test_strided_logits(self, row):
        """As a head gives them: (B, C, A) in memory."""
        logit, scores = (part.view(4, 10, 3) for part in logits_and_scores())
        leaf = logit.transpose(1, 2).contiguous().requires_grad_()
        losses = [row.build(reduction=reduction)(leaf.transpose(1, 2), scores).sum() for reduction in ('sum', 'none')]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, leaf)[0] for loss in losses))

    @pytest.mark.parametrize('dtype', [torch.int32, torch.int16, torch.int8, torch.uint8])
    def test_types_of_labels(self, row, dtype):
        logit, _ = logits_and_scores()
        labels = torch.arange(40) % 4
        losses = [row.build(reduction='sum')(logit.requires_grad_(), each) for each in (labels, labels.to(dtype))]
        assert torch.equal(*losses)

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


class TestActivated:
    """mmdet's TOODHead feeds probabilities."""

    @pytest.mark.parametrize(('_function', 'module'), SIGMOID)
    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
    def test_equals_the_loss_of_the_logits(self, _function, module, dtype, tolerance):
        logit, score = logits_and_scores(dtype)
        results = []
        for activated in (False, True):
            leaf = logit.clone().requires_grad_()
            loss = module(activated=activated, reduction='none')(leaf.sigmoid() if activated else leaf, score)
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize('name', ['FocalLoss', 'QualityFocalLoss'])
    def test_equals_mmdet(self, name):
        probability, score = logits_and_scores()
        probability = probability.sigmoid()
        peer = getattr(mmdet_losses, name)(activated=True, reduction='none')
        ours = dict((module.__name__, module) for _, module in SIGMOID)[name](activated=True, reduction='none')
        labels, quality = torch.arange(40) % 4, score[:, 0] + 0.1
        TestPeers.compare(ours, peer, probability, labels if name == 'FocalLoss' else (labels, quality))

    @pytest.mark.parametrize(('_function', 'module'), SIGMOID)
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
    def test_finite_for_0_and_1(self, _function, module, dtype):
        probability = torch.tensor([[0.0, 1.0, 1e-30]], dtype=dtype, requires_grad=True)
        for target in (0.0, 0.5, 1.0):
            loss = module(activated=True, reduction='sum')(probability, torch.full((1, 3), target))
            assert loss.isfinite()
            assert torch.autograd.grad(loss, probability)[0].isfinite().all()


class TestModules:
    @pytest.mark.parametrize(('function', 'module'), SIGMOID)
    def test_equal_the_functions(self, function, module):
        logit, score = logits_and_scores()
        torch.testing.assert_close(module(reduction='none')(logit, score), function(logit, score))
        other = focus(function, 3.5)
        torch.testing.assert_close(module(**other, reduction='none')(logit, score), function(logit, score, **other))

    def test_alpha_per_class_follows_the_module(self):
        logit, score = logits_and_scores(torch.float32)
        alpha = [0.1, 0.5, 0.9]
        loss = FocalLoss(alpha=alpha, reduction='none')
        torch.testing.assert_close(loss(logit, score), focal_loss(logit, score, alpha))
        assert loss.to('meta').alpha.device.type == 'meta'

    @pytest.mark.parametrize('loss', [FocalLoss, SoftmaxFocalLoss])
    def test_number_of_alphas(self, loss):
        with pytest.raises(ValueError, match='alpha has 2 values'):
            loss(alpha=[0.1, 0.5])(torch.zeros(4, 3), torch.zeros(4).long())

    @pytest.mark.parametrize(
        ('loss', 'arguments', 'message'),
        [
            (FocalLoss, {'alpha': 1.5}, 'alpha'),
            (FocalLoss, {'alpha': [0.5, -0.1]}, 'alpha'),
            (FocalLoss, {'alpha': []}, 'alpha'),
            (FocalLoss, {'gamma': -1.0}, 'gamma'),
            (FocalLoss, {'use_sigmoid': False}, 'SoftmaxFocalLoss'),
            (PolyFocalLoss, {'epsilon': -1.5}, 'epsilon'),
            (PolyFocalLoss, {'alpha': 2.0}, 'alpha'),
            (AsymmetricLoss, {'gamma_neg': -1.0}, 'gamma_neg'),
            (AsymmetricLoss, {'clip': 1.0}, r'clip must be in \[0, 1\), but is 1.0'),
            (VarifocalLoss, {'alpha': -0.1}, 'alpha'),
            (VarifocalLoss, {'gamma': '2'}, 'gamma'),
            (QualityFocalLoss, {'beta': -2.0}, 'beta'),
            (SoftmaxFocalLoss, {'use_sigmoid': True}, 'FocalLoss'),
            (SoftmaxFocalLoss, {'alpha': 1.5}, 'alpha'),
            (SoftmaxFocalLoss, {'alpha': [1.0, 2.0], 'num_classes': 3}, 'num_classes is 3'),
            (SoftmaxFocalLoss, {'num_classes': 3, 'background_index': 3}, 'background_index 3'),
        ],
    )
    def test_refuse_bad_arguments(self, loss, arguments, message):
        with pytest.raises(ValueError, match=message):
            loss(**arguments)
