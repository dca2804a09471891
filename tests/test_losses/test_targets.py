"""Scores, labels and pairs mean the same to every loss over a sigmoid; what does not fit is refused."""

import pytest
import torch
import torch.nn.functional as F
from table import SIGMOID, function_of, logits_and_scores

from mmext import losses
from mmext.losses import focal_loss

WEIGHTS = [0.5, 1.0, 4.0]


@pytest.mark.parametrize('kind', SIGMOID)
class TestForms:
    @pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
    def test_labels_are_one_hot_with_the_last_as_background(self, kind, dtype):
        function, (logit, _) = function_of(kind), logits_and_scores()
        labels, scores = torch.arange(40) % 4, torch.linspace(0.1, 1, 40, dtype=torch.float64)
        one_hot = F.one_hot(labels, 4)[:, :3].double()
        torch.testing.assert_close(function(logit, labels.to(dtype)), function(logit, one_hot))
        expected = function(logit, one_hot * scores.unsqueeze(-1))
        torch.testing.assert_close(function(logit, (labels.to(dtype), scores)), expected)

    def test_more_dimensions(self, kind):
        function, (logit, score) = function_of(kind), logits_and_scores()
        nested = function(logit.view(4, 10, 3), score.view(4, 10, 3))
        torch.testing.assert_close(nested.flatten(0, 1), function(logit, score))

    def test_the_target_gets_no_gradient(self, kind):
        logit, score = logits_and_scores()
        assert not function_of(kind)(logit, score.requires_grad_()).requires_grad


@pytest.mark.parametrize('kind', SIGMOID)
class TestClassWeight:
    def test_multiplies_the_class(self, kind):
        (logit, score), module = logits_and_scores(), getattr(losses, kind)
        each = [function_of(kind)(logit[:, i : i + 1], score[:, i : i + 1]).view(40) for i in range(3)]
        expected = torch.stack(each, -1) * torch.tensor(WEIGHTS, dtype=torch.float64)
        expected = expected.sum(-1) if module.per_row else expected
        torch.testing.assert_close(function_of(kind)(logit, score, class_weight=WEIGHTS), expected)
        torch.testing.assert_close(module(class_weight=WEIGHTS, reduction='none')(logit, score), expected)

    def test_follows_the_module(self, kind):
        assert getattr(losses, kind)(class_weight=WEIGHTS).to('meta').class_weight.device.type == 'meta'

    def test_refuses(self, kind):
        module = getattr(losses, kind)
        with pytest.raises(ValueError, match='class_weight has 2 values, one per class, but the logits have 3'):
            module(class_weight=[1.0, 2.0])(*logits_and_scores())
        with pytest.raises(ValueError, match=r'class_weight must be one number per class, but is 2.0; .*loss_weight'):
            module(class_weight=2.0)
        with pytest.raises(ValueError, match='class_weight must be at least 0'):
            module(class_weight=[1.0, -2.0])
        with pytest.raises(ValueError, match='class_weight is an empty list'):
            module(class_weight=[])


@pytest.mark.parametrize('shape', [(39,), (40, 2), (40, 1, 1), ()])
def test_refuses_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match='must be'):
        focal_loss(torch.zeros(40, 3), torch.zeros(shape))


def test_refuses_float_labels():
    with pytest.raises(ValueError, match='integer labels'):
        focal_loss(torch.zeros(4, 3), torch.zeros(4))


def test_refuses_scores_of_another_shape_than_labels():
    with pytest.raises(ValueError, match=r'\(4, 1\)'):
        focal_loss(torch.zeros(4, 3), (torch.zeros(4).long(), torch.zeros(4, 1)))
