"""The checks of mmyolo's and mmpose's heads, on stand-ins with their names; tests/test_projects has the real ones."""

import pytest
from torch import nn

from mmext.audit import check_wiring
from mmext.audit.projects import HEADS
from mmext.registry import MODELS

BOXES = dict(type='mmext.IoULoss')
CLASSES = dict(type='mmext.QualityFocalLoss')
OBJECTNESS = dict(type='mmext.YOLOv5ObjectnessLoss', loss=CLASSES)
GRID_BOXES = dict(type='mmext.YOLOv5BoxLoss', loss=BOXES)
# The losses that each head takes, by mmext's own configs.
RIGHT = {
    'mmpose.RTMOHead': dict(loss_cls=dict(CLASSES, reduction='sum'), loss_bbox=dict(BOXES, reduction='sum')),
    'mmpose.YOLOXPoseHead': dict(loss_obj=dict(CLASSES, reduction='sum'), loss_bbox=dict(BOXES, reduction='sum')),
    'mmyolo.YOLOXHead': dict(loss_obj=dict(CLASSES, reduction='sum'), loss_bbox=dict(BOXES, reduction='sum')),
    'mmyolo.YOLOv5Head': dict(loss_cls=CLASSES, loss_obj=OBJECTNESS, loss_bbox=GRID_BOXES),
    'mmyolo.YOLOv7Head': dict(loss_cls=CLASSES, loss_obj=OBJECTNESS, loss_bbox=GRID_BOXES),
    'mmyolo.YOLOv6Head': dict(loss_cls=dict(CLASSES, reduction='sum'), loss_bbox=BOXES),
    'mmyolo.YOLOv8Head': dict(loss_cls=dict(CLASSES, reduction='none'), loss_bbox=dict(BOXES, reduction='sum')),
    'mmyolo.PPYOLOEHead': dict(loss_cls=dict(CLASSES, reduction='sum'), loss_bbox=BOXES),
    'mmyolo.RTMDetHead': dict(loss_cls=CLASSES, loss_bbox=BOXES),
}


def errors(name, **losses):
    """What the checks refuse in a head of this name, which a user's class extends."""
    project, _, kind = name.partition('.')
    head = type(kind, (nn.Module,), {'__module__': f'{project}.models.heads'})
    head = type('OwnHead', (head,), {'__module__': 'my_project'})()
    for part, loss in {**RIGHT[name], **losses}.items():
        setattr(head, part, MODELS.build(loss))
    model = nn.Module()
    model.bbox_head = head
    return [(finding.key.removeprefix('model.bbox_head.'), finding) for finding in check_wiring(model)]


def test_each_known_head_is_here():
    assert set(RIGHT) == set(HEADS)


@pytest.mark.parametrize('name', HEADS)
def test_the_right_losses_are_accepted(name):
    assert not errors(name)


@pytest.mark.parametrize('name', ['mmpose.RTMOHead', 'mmpose.YOLOXPoseHead', 'mmyolo.YOLOXHead', 'mmyolo.YOLOv8Head'])
def test_a_mean_is_refused_where_the_head_divides(name):
    ((key, finding),) = errors(name, loss_bbox=BOXES)
    assert key == 'loss_bbox.reduction' and 'divided twice' in finding.message
    assert finding.remedy == "Set model.bbox_head.loss_bbox.reduction='sum'"


@pytest.mark.parametrize('name', ['mmyolo.YOLOv6Head', 'mmyolo.PPYOLOEHead'])
def test_a_sum_is_refused_where_the_head_does_not_divide(name):
    ((key, finding),) = errors(name, loss_bbox=dict(BOXES, reduction='sum'))
    assert key == 'loss_bbox.reduction' and finding.remedy.endswith("reduction='mean'")


def test_the_reduction_of_an_adapted_loss_is_refused_by_its_own_key():
    ((key, _),) = errors('mmyolo.YOLOv5Head', loss_bbox=dict(GRID_BOXES, loss=dict(BOXES, reduction='sum')))
    assert key == 'loss_bbox.loss.reduction'


@pytest.mark.parametrize('part, loss', [('loss_bbox', BOXES), ('loss_obj', CLASSES)])
def test_a_loss_without_its_adapter_is_refused(part, loss):
    ((key, finding),) = errors('mmyolo.YOLOv5Head', **{part: loss})
    assert key == part and 'mmext.YOLOv5' in finding.remedy


@pytest.mark.parametrize('part, loss', [('loss_bbox', GRID_BOXES), ('loss_cls', OBJECTNESS)])
def test_an_adapter_is_refused_in_another_head(part, loss):
    ((key, finding),) = errors('mmyolo.RTMDetHead', **{part: loss})
    assert key == part and "is for mmyolo's YOLOv5Head" in finding.message


@pytest.mark.parametrize('name', ['mmyolo.YOLOv6Head', 'mmyolo.YOLOv8Head', 'mmyolo.PPYOLOEHead'])
def test_a_length_is_refused_in_units_of_the_stride(name):
    nwd = dict(type='mmext.NWDLoss', reduction=RIGHT[name]['loss_bbox'].get('reduction', 'mean'))
    ((key, finding),) = errors(name, loss_bbox=nwd)
    assert key == 'loss_bbox' and 'units of the stride' in finding.message


@pytest.mark.parametrize('name', ['mmyolo.YOLOXHead', 'mmyolo.RTMDetHead', 'mmpose.RTMOHead'])
def test_a_length_is_in_pixels_in_the_others(name):
    assert not errors(name, loss_bbox=dict(RIGHT[name]['loss_bbox'], type='mmext.NWDLoss'))


def test_a_loss_for_hard_targets_is_reported_where_they_are_soft():
    focal = dict(type='mmext.YOLOv5ObjectnessLoss', loss=dict(type='mmext.FocalLoss'))
    ((key, finding),) = errors('mmyolo.YOLOv5Head', loss_obj=focal)
    assert key == 'loss_obj' and finding.level == 'warning' and 'FocalLoss has its minimum' in finding.message
    assert not errors('mmyolo.YOLOv5Head', loss_cls=dict(type='mmext.FocalLoss'))
