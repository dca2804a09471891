"""A loss, an assigner or an operator that does not fit its head is refused, with the remedy."""

import re

import pytest
from mmcv.ops import RoIAlign
from mmdet.models.losses import FocalLoss
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmext.audit import wiring
from mmext.audit.wiring import check_assigner, check_losses, check_operators, check_reduction

ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], scales=[8], strides=[8, 16])
ALIGNED = dict(initial_epoch=4, alpha=1, beta=6, initial_assigner=dict(type='ATSSAssigner', topk=9))
# Arguments that a head needs besides its number of classes and channels.
NEEDS = {
    'RTMDetHead': dict(anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16])),
    'TOODHead': dict(stacked_convs=1, train_cfg=dict(**ALIGNED, assigner=dict(type='TaskAlignedAssigner', topk=13))),
    'GFLHead': dict(anchor_generator=ANCHORS),
    'Shared2FCBBoxHead': dict(fc_out_channels=8),
    'mmext.YOLOXHead': dict(feat_channels=8),
}
SIGMOID = {'type': 'mmext.QualityFocalLoss', 'use_sigmoid': True}
PROBABILITIES = {**SIGMOID, 'activated': True}
SOFTMAX = {'type': 'mmext.SoftmaxFocalLoss', 'background_index': -1}
WISE = {'type': 'mmext.IoULoss', 'focus': {'type': 'mmext.WiseFocus'}}


def refused(findings, pattern, level='error'):
    """Whether there is one finding of this level, with these words."""
    (finding,) = [each for each in findings if each.level == level]
    return re.search(pattern, str(finding)) is not None


def model_with(kind, **losses):
    """A model with this head and these losses."""
    arguments = dict(type=kind, num_classes=3, in_channels=32, **NEEDS.get(kind, {}), **losses)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return nn.ModuleDict({'bbox_head': MODELS.build(ConfigDict(arguments))})


@pytest.mark.parametrize(
    'kind, losses',
    [
        *((kind, {'loss_cls': SIGMOID}) for kind in ('RetinaHead', 'FCOSHead', 'VFNetHead', 'GFLHead', 'RTMDetHead')),
        *((kind, {'loss_cls': SOFTMAX}) for kind in ('RetinaHead', 'FCOSHead', 'ATSSHead', 'Shared2FCBBoxHead')),
        ('RetinaHead', {'loss_cls': {**SOFTMAX, 'alpha': 0.5, 'background_index': 3}}),
        ('mmext.YOLOXHead', {'loss_cls': {'type': 'mmext.SoftmaxFocalLoss'}, 'cls_target': 'label'}),
        ('TOODHead', {'loss_cls': PROBABILITIES, 'initial_loss_cls': PROBABILITIES}),
    ],
)
def test_a_loss_that_fits_its_head_passes(kind, losses):
    assert not check_losses(model_with(kind, **losses))


@pytest.mark.parametrize('kind', ['RetinaHead', 'FCOSHead', 'VFNetHead'])
def test_refuses_a_sigmoid_without_use_sigmoid(kind):
    """The head reads the config, not the loss: it would predict with a softmax, the last class as background."""
    model = model_with(kind, loss_cls={'type': 'mmext.FocalLoss'})
    assert model.bbox_head.use_sigmoid_cls is False
    assert refused(check_losses(model), rf'FocalLoss.*{kind}.*Set model.bbox_head.loss_cls.use_sigmoid=True')


def test_refuses_a_sigmoid_in_a_box_head():
    assert refused(
        check_losses(model_with('Shared2FCBBoxHead', loss_cls=SIGMOID)),
        r'QualityFocalLoss.*Shared2FCBBoxHead.*Use mmext\.SoftmaxFocalLoss',
    )


@pytest.mark.parametrize('kind', ['GFLHead', 'VFNetHead', 'RTMDetHead', 'TOODHead', 'YOLOXHead'])
def test_refuses_a_softmax_over_soft_targets(kind):
    remedy = 'mmext.YOLOXHead' if kind == 'YOLOXHead' else 'mmext.QualityFocalLoss'
    assert refused(
        check_losses(model_with(kind, loss_cls=SOFTMAX)),
        rf'model.bbox_head.loss_cls: SoftmaxFocalLoss .*{kind}.*{remedy}',
    )


def test_refuses_the_wrong_background():
    assert refused(
        check_losses(model_with('RetinaHead', loss_cls={'type': 'mmext.SoftmaxFocalLoss', 'alpha': 0.5})),
        r'background_index: it is 0 .*RetinaHead.*background_index=-1',
    )


@pytest.mark.parametrize(
    'kind, losses, message',
    [
        (
            'TOODHead',
            {'loss_cls': SIGMOID},
            r'loss_cls.activated: it is False.*probabilities.*Set model.bbox_head.loss_cls.activated=True',
        ),
        (
            'TOODHead',
            {'loss_cls': PROBABILITIES, 'initial_loss_cls': SIGMOID},
            r'initial_loss_cls.*Set model.bbox_head.initial_loss_cls.activated=True',
        ),
        (
            'RTMDetHead',
            {'loss_cls': PROBABILITIES},
            r'activated: it is True.*logits.*Set model.bbox_head.loss_cls.activated=False',
        ),
        (
            'mmext.YOLOXHead',
            {'loss_obj': PROBABILITIES},
            r'loss_obj.*logits.*Set model.bbox_head.loss_obj.activated=False',
        ),
    ],
)
def test_refuses_logits_for_probabilities(kind, losses, message):
    assert refused(check_losses(model_with(kind, **losses)), message)


@pytest.mark.parametrize('loss, warns', [('mmext.FocalLoss', True), ('mmext.VarifocalLoss', False)])
def test_warns_of_a_hard_label_loss_for_soft_targets(loss, warns):
    found = check_losses(model_with('RTMDetHead', loss_cls={**SIGMOID, 'type': loss}))
    assert bool(found) is warns
    if warns:
        assert refused(found, r'^model\.bbox_head\.loss_cls: FocalLoss has its minimum in the wrong place', 'warning')


@pytest.mark.parametrize('kind', ['YOLOXHead', 'mmext.YOLOXHead'])
@pytest.mark.parametrize('loss', ['mmdet.FocalLoss', 'mmext.FocalLoss'])
def test_warns_of_a_focal_loss_for_the_ious_of_yolox(kind, loss):
    model = model_with(kind, loss_cls={'type': loss, 'reduction': 'sum'})
    assert refused(check_losses(model), r"cls_target='hard'.*mmext\.VarifocalLoss", 'warning')


def test_a_focal_loss_for_hard_targets_passes():
    focal = {'type': 'mmext.FocalLoss'}
    assert not check_losses(model_with('mmext.YOLOXHead', cls_target='hard', loss_cls=focal, loss_obj=focal))


def test_refuses_a_mean_that_is_divided_again():
    mean = {'type': 'mmext.QualityFocalLoss', 'reduction': 'mean'}
    pattern = r"^model\.bbox_head\.loss_cls\.reduction: it is 'mean'.*divided twice.*Set reduction='sum'"
    assert refused(check_reduction(model_with('YOLOXHead', loss_cls=mean)), pattern)
    assert not check_reduction(model_with('mmext.YOLOXHead', loss_cls=mean))


@pytest.mark.parametrize('kind', ['RetinaHead', 'Shared2FCBBoxHead'])
def test_refuses_offsets_for_boxes(kind):
    loss = {'loss_bbox': {'type': 'mmext.IoULoss'}}
    assert refused(
        check_losses(model_with(kind, **loss)),
        rf'loss_bbox.*{kind}.*offsets.*Set model\.bbox_head\.reg_decoded_bbox=True',
    )
    check_losses(model_with(kind, reg_decoded_bbox=True, **loss))


@pytest.mark.parametrize(
    'kind, world_size, focus, passes',
    [
        ('FCOSHead', 1, {}, True),
        ('FCOSHead', 2, {}, False),
        ('FCOSHead', 2, {'sync': False}, True),
        ('FCOSHead', 2, {'version': 1}, True),
        ('VFNetHead', 2, {}, False),
        ('Shared2FCBBoxHead', 2, {}, False),
        ('RetinaHead', 2, {}, True),
        ('mmext.YOLOXHead', 2, {}, True),
    ],
)
def test_refuses_a_focus_that_would_hang(kind, world_size, focus, passes, monkeypatch):
    monkeypatch.setattr(wiring, 'get_world_size', lambda: world_size)
    name = 'loss_bbox_refine' if kind == 'VFNetHead' else 'loss_bbox'
    decoded = dict(reg_decoded_bbox=True) if kind in ('RetinaHead', 'Shared2FCBBoxHead') else {}
    model = model_with(kind, **{name: {**WISE, 'focus': {**WISE['focus'], **focus}}}, **decoded)
    if passes:
        check_losses(model)
    else:
        assert refused(check_losses(model), rf'2 ranks.*{kind}.*Set model.bbox_head.{name}.focus.sync=False')


class TestOperators:
    """On a machine without a GPU, which is pretended."""

    nms = dict(type='nms', iou_threshold=0.65)

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch):
        monkeypatch.setattr(wiring, '_is_on_cuda', lambda model: True)
        monkeypatch.setattr('mmext.heads.nms.lacks_cuda_ops', lambda: True)

    def detector(self, kind, *parts, **test_cfg):
        model = model_with(kind)
        for index, part in enumerate(parts):
            model.add_module(f'part{index}', part)
        model.test_cfg = ConfigDict(test_cfg)
        return model

    @pytest.mark.parametrize('kind', ['YOLOXHead', 'RetinaHead'])
    def test_refuses_the_nms_of_mmdet(self, kind):
        assert refused(
            check_operators(self.detector(kind, nms=self.nms)),
            r'needs .*batched_nms of mmcv.*`make ops`.*mmext\.YOLOXHead',
        )

    def test_refuses_the_nms_of_a_second_stage(self):
        assert refused(
            check_operators(self.detector('Shared2FCBBoxHead', rpn={'nms_pre': 1}, rcnn={'nms': self.nms})),
            'batched_nms',
        )

    def test_refuses_the_focal_loss_of_mmdet(self):
        """With labels on a GPU it calls mmcv's operator."""
        assert refused(check_operators(self.detector('RetinaHead', FocalLoss())), 'needs sigmoid_focal_loss of mmcv')

    def test_refuses_an_operator_in_any_part(self):
        """YOLOXHead has an NMS of its own, but a RoIAlign elsewhere in its model has no substitute."""
        model = self.detector('mmext.YOLOXHead', RoIAlign(7), nms=self.nms)
        assert refused(check_operators(model), 'needs RoIAlign of mmcv')

    @pytest.mark.parametrize('kind, nms', [('mmext.YOLOXHead', nms), ('GFLHead', None)])
    def test_accepts_a_model_that_needs_none(self, kind, nms):
        check_operators(self.detector(kind, nms=nms))

    @pytest.mark.parametrize('target', ['mmext.audit.wiring._is_on_cuda', 'mmext.heads.nms.lacks_cuda_ops'])
    def test_accepts_a_cpu_and_an_mmcv_that_has_them(self, target, monkeypatch):
        monkeypatch.setattr(target, lambda *model: False)
        check_operators(self.detector('RetinaHead', nms=self.nms))


def test_a_model_on_a_cpu_is_not_on_cuda():
    assert not wiring._is_on_cuda(model_with('RetinaHead'))


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_on_cuda():
    assert wiring._is_on_cuda(model_with('RetinaHead').cuda())


def test_refuses_an_assigner_that_takes_logits():
    def model(kind):
        return model_with('YOLOXHead', train_cfg=dict(assigner=dict(type=kind)))

    check_assigner(model('SimOTAAssigner'))
    assert refused(
        check_assigner(model('DynamicSoftLabelAssigner')),
        r'DynamicSoftLabelAssigner.*takes class logits.*mmext\.BatchSimOTAAssigner',
    )


def test_accepts_an_assigner_that_takes_logits_in_another_head():
    check_assigner(model_with('RTMDetHead', train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner'))))
