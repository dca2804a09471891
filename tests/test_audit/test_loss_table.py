"""The table of losses against the head's own losses, and against gradients that are computed here."""

import re
from copy import deepcopy
from math import isnan

import pytest
import torch
from mmdet.models.losses import L1Loss
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from test_heads.test_other_heads import ROWS, build
from test_heads.yolox import FOCAL, OWN, SIZE, SOFTMAX

from mmext.audit.losses import loss_findings, measure
from mmext.losses import IoULoss

BOXES = [[[8, 8, 40, 30], [50, 20, 100, 80], [20, 60, 44, 100]], [[30, 30, 90, 110]]]


def batch(boxes=BOXES, size=SIZE):
    """A batch as the data loader gives it."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (size, size))
    samples = []
    for own in boxes:
        sample = DetDataSample(metainfo={**shapes, 'scale_factor': (1.0, 1.0)})
        own = torch.tensor(own, dtype=torch.float).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=own, labels=torch.arange(len(own)) % 3)
        samples.append(sample)
    images = torch.randint(0, 256, (len(boxes), 3, size, size), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def yolox(kind='mmext.YOLOXHead', assigner='mmext.BatchSimOTAAssigner', **head):
    """A tiny YOLOX."""
    config = dict(
        type='YOLOX',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='CSPDarknet', widen_factor=0.125, deepen_factor=0.33),
        neck=dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=8, num_csp_blocks=1),
        bbox_head=dict(type=kind, num_classes=3, in_channels=8, feat_channels=8, **head),
        train_cfg=dict(assigner=dict(type=assigner, center_radius=2.5)),
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config)
    model.init_weights()
    return model


def independent(model, raw):
    """The losses and the norms of their gradients at the feature maps: one pass for each loss, with `backward`."""
    values, norms = {}, {}
    for name in ('loss_cls', 'loss_bbox', 'loss_obj'):
        # A focus may have a running mean.
        fresh = deepcopy(model)
        features, samples = features_of(fresh, raw)
        loss = fresh.bbox_head.loss(features, samples)[name]
        loss.backward()
        values[name] = loss.item()
        norms[name] = sum(feature.grad.square().sum().item() for feature in features if feature.grad is not None) ** 0.5
    return values, norms


def features_of(model, raw):
    data = model.data_preprocessor(raw, True)
    # The running statistics of the batch norms are not used in training.
    features = [feature.detach().requires_grad_() for feature in model.train().extract_feat(data['inputs'])]
    return features, data['data_samples']


@pytest.mark.parametrize(
    'arguments',
    [{}, OWN, FOCAL, SOFTMAX, {'kind': 'mmdet.YOLOXHead', 'assigner': 'mmdet.SimOTAAssigner'}],
    ids=['stock', 'own', 'focal', 'softmax', 'mmdet'],
)
def test_values_and_gradients_are_those_of_the_head(arguments):
    model = yolox(**arguments)
    rows = measure(model, [batch()])
    values, norms = independent(model, batch())
    assert [row.name for row in rows] == list(values) == ['loss_cls', 'loss_bbox', 'loss_obj']
    for row in rows:
        assert row.value == pytest.approx(values[row.name], rel=1e-5)
        assert row.gradient == pytest.approx(norms[row.name], rel=1e-4)
        assert row.share == pytest.approx(values[row.name] / sum(values.values()), rel=1e-5)
        assert row.gradient_share == pytest.approx(norms[row.name] / sum(norms.values()), rel=1e-4)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert not loss_findings(rows, 'now')


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_divides_by_the_number_of_positives(reduction, monkeypatch):
    model = yolox(loss_obj={'type': 'mmext.VarifocalLoss', 'reduction': reduction})
    assign, positives = type(model.bbox_head.assigner).assign_batch, []

    def spy(assigner, *inputs):
        result = assign(assigner, *inputs)
        positives.append(result.positive.sum().item())
        return result

    monkeypatch.setattr(type(model.bbox_head.assigner), 'assign_batch', spy)
    rows = measure(model, [batch()])
    assert positives[0] > 1
    assert [row.divisor for row in rows] == pytest.approx([positives[0]] * 3, rel=1e-5)
    assert [row.divisions for row in rows] == [1] * 3


def test_describes_the_losses():
    rows = {row.name: row for row in measure(yolox(**OWN), [batch()])}
    assert {name: (row.key, row.package, row.kind, row.target) for name, row in rows.items()} == {
        'loss_cls': ('model.bbox_head.loss_cls', 'mmext', 'QualityFocalLoss', 'one-hot x IoU'),
        'loss_bbox': ('model.bbox_head.loss_bbox', 'mmext', 'IoULoss', 'boxes'),
        'loss_obj': ('model.bbox_head.loss_obj', 'mmext', 'VarifocalLoss', '0 or 1'),
    }
    stock = measure(yolox('mmdet.YOLOXHead', 'mmdet.SimOTAAssigner'), [batch()])
    assert [(row.package, row.reduction, row.weight) for row in stock] == [
        ('mmdet', 'sum', 1),
        ('mmdet', 'sum', 5),
        ('mmdet', 'sum', 1),
    ]


@pytest.mark.parametrize(
    'arguments, targets',
    [
        ({'cls_target': 'hard', 'obj_target': 'iou'}, ('one-hot', 'IoU')),
        (SOFTMAX, ('label', '0 or 1')),
    ],
)
def test_names_the_targets_of_yolox(arguments, targets):
    rows = {row.name: row for row in measure(yolox(**arguments), [batch()])}
    assert (rows['loss_cls'].target, rows['loss_obj'].target) == targets


def test_averages_over_batches_and_keeps_the_model():
    model = yolox(loss_bbox={'type': 'mmext.IoULoss', 'focus': {'type': 'mmext.WiseFocus'}})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = batch(), batch(BOXES[::-1])
    single = [measure(model, [each]) for each in (first, second)]
    both = measure(model, [first, second])
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for row, *apart in zip(both, *single):
        # WiseFocus moves its mean after the first batch.
        assert row.value == pytest.approx(sum(each.value for each in apart) / 2, rel=2e-2)


def test_batches_without_boxes_have_no_gradient_but_for_the_objectness():
    rows = measure(yolox(), [batch([[], []])])
    assert [row.gradient > 0 for row in rows] == [False, False, True]
    keys = [finding.key for finding in loss_findings(rows, 'now')]
    assert keys == ['model.bbox_head.loss_cls', 'model.bbox_head.loss_bbox']


@pytest.mark.parametrize('name', ROWS)
def test_measures_the_other_heads(name):
    """Of all shipped configs: each loss is found in its head, divided once, and has a gradient."""
    model = build(ROWS[name])
    rows = measure(model, [batch(size=128)])
    assert rows
    for row in rows:
        assert row.key.rpartition('.')[2].startswith(('loss_', 'initial_loss_'))
        assert row.divisions == 1
        assert row.gradient > 0
    assert [finding for finding in loss_findings(rows, 'now') if finding.level == 'error'] == []


class Division(torch.nn.Module):
    """A head that divides in ways that are given."""

    def __init__(self, reduction, avg_factor, divisor):
        super().__init__()
        self.loss_bbox = L1Loss(reduction=reduction)
        self.given, self.divisor = avg_factor, divisor

    def loss(self, feature):
        given = {} if self.given is None else {'avg_factor': self.given}
        rows = feature.permute(0, 2, 3, 1).reshape(-1, 4)
        return {'loss_bbox': self.loss_bbox(rows, torch.zeros_like(rows), **given) / self.divisor}


class Detector(BaseModel):
    """A detector with this head and feature maps with 4 channels, of 10 rows."""

    with_neck = False

    def __init__(self, head):
        super().__init__()
        self.backbone, self.bbox_head = torch.nn.Conv2d(3, 4, 1), head

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.bbox_head.loss(self.backbone(torch.stack(inputs)))


def rows_of_ten():
    return {**batch(), 'inputs': [torch.rand(3, 2, 5)]}


@pytest.mark.parametrize(
    'reduction, avg_factor, divisor, found, words',
    [
        ('sum', None, 7.0, 7, None),
        ('mean', None, 1.0, 40, None),
        ('mean', 5.0, 1.0, 5, None),
        # By the number of elements and again by the head.
        ('mean', None, 7.0, 280, r"divided twice: by 40 in L1Loss, and by 7 in the head.*Set reduction='sum'"),
        # By the factor that it gave, and again by the same.
        ('mean', 5.0, 5.0, 25, 'divided twice: by 5 in L1Loss, and by 5 in the head'),
        # Weighted by its stage, as in a cascade.
        ('mean', 5.0, 4.0, 20, None),
        ('sum', None, 1.0, 1, r"neither L1Loss nor the head divides.*Set reduction='mean'"),
        # What it divides by is 1.
        ('mean', 1.0, 1.0, 1, None),
    ],
)
def test_counts_the_divisions(reduction, avg_factor, divisor, found, words):
    torch.manual_seed(0)
    model = Detector(Division(reduction, avg_factor, divisor))
    (row,) = measure(model, [rows_of_ten()])
    assert row.divisor == pytest.approx(found, rel=1e-5)
    errors = [each for each in loss_findings([row], 'now') if each.level == 'error']
    if words is None:
        assert not errors
    else:
        (error,) = errors
        assert error.key == 'model.bbox_head.loss_bbox.reduction'
        assert re.search(words, str(error))


def test_a_loss_without_a_reduction_has_no_divisor():
    class Plain(torch.nn.Module):
        def forward(self, pred, target):
            return (pred - target).abs().mean()

    head = Division('sum', None, 1.0)
    head.loss_bbox = Plain()
    (row,) = measure(Detector(head), [rows_of_ten()])
    assert isnan(row.divisor)
    assert row.divisions is None
    assert (row.kind, row.reduction) == ('Plain', '')


def test_iou_losses_get_boxes():
    assert measure(yolox(loss_bbox={'type': 'mmext.IoULoss', 'variant': 'ciou'}), [batch()])[1].kind == IoULoss.__name__
