"""The checks and the report, in parts; tests/test_tools/test_train.py runs them for real."""

import json
from types import SimpleNamespace

import pytest
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from mmext.hooks import CheckHook, ReportHook, check_hook
from mmext.hooks.check_hook import check_losses
from mmext.hooks.report_hook import read_scalars, summarise

ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], scales=[8], strides=[8, 16])
ALIGNED = dict(initial_epoch=4, alpha=1, beta=6, initial_assigner=dict(type='ATSSAssigner', topk=9))
# What a head needs beside its number of classes and channels.
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


def model_with(kind, **losses):
    """A model that has this head, with these losses."""
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
    check_losses(model_with(kind, **losses))


@pytest.mark.parametrize('kind', ['RetinaHead', 'FCOSHead', 'VFNetHead'])
def test_refuses_a_sigmoid_that_the_head_does_not_hear_of(kind):
    """The head reads the config, not the loss: it would predict with a softmax, the last class as background."""
    model = model_with(kind, loss_cls={'type': 'mmext.FocalLoss'})
    assert model.bbox_head.use_sigmoid_cls is False
    with pytest.raises(ValueError, match=rf'FocalLoss.*{kind}.*set model.bbox_head.loss_cls.use_sigmoid=True'):
        check_losses(model)


def test_refuses_a_sigmoid_in_a_box_head():
    runner = SimpleNamespace(model=model_with('Shared2FCBBoxHead', loss_cls=SIGMOID))
    with pytest.raises(ValueError, match=r'QualityFocalLoss.*Shared2FCBBoxHead.*use mmext\.SoftmaxFocalLoss'):
        CheckHook().before_train(runner)


@pytest.mark.parametrize('kind', ['GFLHead', 'VFNetHead', 'RTMDetHead', 'TOODHead', 'YOLOXHead'])
def test_refuses_a_softmax_over_soft_targets(kind):
    remedy = 'mmext.YOLOXHead' if kind == 'YOLOXHead' else 'mmext.QualityFocalLoss'
    with pytest.raises(ValueError, match=rf'model.bbox_head.loss_cls \(SoftmaxFocalLoss\).*{kind}.*{remedy}'):
        check_losses(model_with(kind, loss_cls=SOFTMAX))


def test_refuses_the_wrong_background():
    with pytest.raises(ValueError, match=r'background_index=0.*RetinaHead.*background_index=-1'):
        check_losses(model_with('RetinaHead', loss_cls={'type': 'mmext.SoftmaxFocalLoss', 'alpha': 0.5}))


@pytest.mark.parametrize(
    'kind, losses, message',
    [
        ('TOODHead', {'loss_cls': SIGMOID}, r'loss_cls.*activated=False.*probabilities.*loss_cls.activated=True'),
        (
            'TOODHead',
            {'loss_cls': PROBABILITIES, 'initial_loss_cls': SIGMOID},
            r'initial_loss_cls.*set model.bbox_head.initial_loss_cls.activated=True',
        ),
        (
            'RTMDetHead',
            {'loss_cls': PROBABILITIES},
            r'activated=True.*logits.*set model.bbox_head.loss_cls.activated=False',
        ),
        ('mmext.YOLOXHead', {'loss_obj': PROBABILITIES}, r'loss_obj.*logits.*activated=False'),
    ],
)
def test_refuses_logits_for_probabilities(kind, losses, message):
    with pytest.raises(ValueError, match=message):
        check_losses(model_with(kind, **losses))


@pytest.mark.parametrize('loss, warns', [('mmext.FocalLoss', True), ('mmext.VarifocalLoss', False)])
def test_warns_of_a_loss_of_labels_for_scores(loss, warns, monkeypatch):
    warnings = []
    monkeypatch.setattr(check_hook, 'print_log', lambda message, **_: warnings.append(message))
    check_losses(model_with('RTMDetHead', loss_cls={**SIGMOID, 'type': loss}))
    assert [('FocalLoss' in message and 'RTMDetHead' in message) for message in warnings] == [True] * warns


@pytest.mark.parametrize('kind', ['RetinaHead', 'Shared2FCBBoxHead'])
def test_refuses_offsets_for_boxes(kind):
    loss = {'loss_bbox': {'type': 'mmext.IoULoss'}}
    with pytest.raises(ValueError, match=rf'loss_bbox.*{kind}.*offsets.*set model\.bbox_head\.reg_decoded_bbox=True'):
        check_losses(model_with(kind, **loss))
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
def test_refuses_a_focus_that_would_wait_for_ever(kind, world_size, focus, passes, monkeypatch):
    monkeypatch.setattr(check_hook, 'get_world_size', lambda: world_size)
    name = 'loss_bbox_refine' if kind == 'VFNetHead' else 'loss_bbox'
    decoded = dict(reg_decoded_bbox=True) if kind in ('RetinaHead', 'Shared2FCBBoxHead') else {}
    model = model_with(kind, **{name: {**WISE, 'focus': {**WISE['focus'], **focus}}}, **decoded)
    if passes:
        check_losses(model)
    else:
        with pytest.raises(ValueError, match=rf'2 ranks.*{kind}.*set model.bbox_head.{name}.focus.sync=False'):
            check_losses(model)


def test_summary_of_coco_metrics():
    metrics = {
        'coco/circle_precision': 0.3,
        'coco/bbox_mAP': 0.1,
        'coco/bbox_mAP_50': 0.2,
        'coco/bbox_mAP_75': 0.05,
        'coco/bbox_mAP_s': 0.01,
        'coco/bbox_mAP_copypaste': '0.1 0.2',
    }
    assert summarise(metrics) == {'AP': 0.1, 'AP50': 0.2, 'AP75': 0.05, 'AP circle': 0.3}
    assert next(iter(summarise(metrics))) == 'AP'


def test_summary_of_other_metrics():
    assert summarise({'pascal_voc/mAP': 0.4, 'pascal_voc/AP50': 0.4}) == {'mAP': 0.4, 'AP50': 0.4}


def test_scalars_of_a_resumed_run(tmp_path):
    for number, name in enumerate(('20260101_000000', '20260102_000000')):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(json.dumps({'step': number, 'loss': 1.0}) + '\n')
    last = tmp_path / '20260102_000000'
    assert [record['step'] for record in read_scalars(last, resumed=False)] == [1]
    assert [record['step'] for record in read_scalars(last, resumed=True)] == [0, 1]
    assert read_scalars(tmp_path / 'none', resumed=False) == []


def test_scalars_of_an_abandoned_run_are_left_out(tmp_path):
    for name, steps in (('1_abandoned', range(1, 6)), ('2_afresh', range(1, 3)), ('3_resumed', range(3, 5))):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(''.join(json.dumps({'step': i, 'loss': name}) + '\n' for i in steps))
    records = read_scalars(tmp_path / '3_resumed', resumed=True)
    assert [(record['step'], record['loss'][0]) for record in records] == [(1, '2'), (2, '2'), (3, '3'), (4, '3')]


def test_keeps_the_first_pictures_of_the_last_evaluation():
    hook = ReportHook(num_pictures=3)
    for _ in range(2):
        hook.before_val_epoch(None)
        for batch in range(4):
            hook.after_val_iter(
                None, batch, outputs=[BaseDataElement(metainfo={'number': 2 * batch + i}) for i in range(2)]
            )
    assert [sample.number for sample in hook.samples] == [0, 1, 2]


@pytest.mark.parametrize('arguments', [{'num_pictures': -1}, {'score_thr': 1.5}])
def test_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError, match=str(*arguments.values())):
        ReportHook(**arguments)
