"""Bad ground truth and bad outputs: what is refused, and where NaN shows. No check reads a value: see test_meta.py."""

import copy
import math

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from yolox import BATCH, CLASSES, OWN, SOFTMAX, build, inputs

NAN, INF = math.nan, math.inf
ASSIGNERS = [{}, {'train_cfg': BATCH}]


def step(outputs=None, truth=None, **arguments):
    """The losses and the gradients of the outputs, once two functions have changed outputs and ground truth."""
    head = build('mmext.YOLOXHead', **copy.deepcopy(arguments))
    features, instances, metas = inputs()
    levels = [[level.detach().requires_grad_() for level in levels] for levels in head(features)]
    with torch.no_grad():
        if outputs:
            outputs(*levels)
    losses = head.loss_by_feat(*levels, truth(instances) if truth else instances, metas)
    gradients = torch.autograd.grad(sum(losses.values()), [level for each in levels for level in each])
    return {name: loss.item() for name, loss in losses.items()}, gradients


def changed(**changes):
    """Changes boxes and labels of each image."""

    def change(instances):
        unchanged = dict.fromkeys(('bboxes', 'labels'), torch.clone)
        functions = {**unchanged, **changes}
        return [
            InstanceData(**{name: function(each[name]) for name, function in functions.items()}) for each in instances
        ]

    return change


def set_first(value, *index):
    """Sets a number of the first box of the first image that has one."""

    def function(tensor):
        tensor = tensor.clone()
        if len(tensor) == 5:
            tensor[(0, *index)] = value
        return tensor

    return function


@pytest.mark.parametrize('arguments', ASSIGNERS)
@pytest.mark.parametrize(
    ('truth', 'error', 'message'),
    [
        (lambda instances: instances[:2], ValueError, 'outputs are of 3 images, but the ground truth is of 2'),
        (changed(labels=torch.Tensor.float), TypeError, r'labels of image 0 .* use labels\.long\(\)'),
        (changed(labels=lambda labels: labels.to('meta')), ValueError, r'labels of image 0 .* on meta'),
        (
            changed(bboxes=lambda boxes: boxes.to('meta')),
            ValueError,
            r'bboxes of image 0 .* use instances\.to\(device\)',
        ),
        (changed(bboxes=lambda boxes: boxes[:, :3]), ValueError, r'must have shape \(5, 4\), but has \(5, 3\)'),
        (changed(labels=lambda labels: labels.unsqueeze(-1)), ValueError, r'must have shape \(5,\), but has \(5, 1\)'),
        (
            changed(bboxes=HorizontalBoxes),
            TypeError,
            'HorizontalBoxes; for a box type of mmdet set boxtype2tensor=True',
        ),
        (changed(bboxes=torch.Tensor.tolist), TypeError, 'must be a tensor, but is list'),
        (lambda instances: [InstanceData(labels=each.labels) for each in instances], TypeError, 'bboxes .* NoneType'),
    ],
)
def test_refused(truth, error, message, arguments):
    with pytest.raises(error, match=message):
        step(truth=truth, **arguments)


@pytest.mark.parametrize('arguments', ASSIGNERS)
@pytest.mark.parametrize('label', [CLASSES, 255, -1])
def test_a_label_that_does_not_exist(label, arguments):
    """On a CPU torch says so; on a GPU it is an assertion of the device."""
    with pytest.raises(RuntimeError, match=rf'index {label} is out of bounds|[Cc]lass values must be'):
        step(truth=changed(labels=set_first(label)), **arguments)


@pytest.mark.parametrize('losses', [{}, OWN, SOFTMAX])
class TestNaNShows:
    """A batch with NaN never looks like a batch without objects."""

    def test_in_a_box_of_the_ground_truth(self, losses):
        for column in range(4):
            values, _ = step(truth=changed(bboxes=set_first(NAN, column)), train_cfg=BATCH, **losses)
            assert math.isnan(values['loss_bbox'])

    @pytest.mark.parametrize(
        ('output', 'shows_in'), [(0, 'loss_cls'), (1, 'loss_bbox'), (2, 'loss_obj')], ids=['cls', 'bbox', 'obj']
    )
    def test_in_an_output(self, losses, output, shows_in):
        """As when the weights of one convolution are NaN."""
        spoil = lambda *levels: [level.fill_(NAN) for level in levels[output]]  # noqa: E731
        values, gradients = step(spoil, train_cfg=BATCH, **losses)
        assert math.isnan(values[shows_in])
        assert any(gradient.isnan().any() for gradient in gradients[3 * output : 3 * output + 3])


@pytest.mark.parametrize('losses', [{}, OWN, SOFTMAX])
@pytest.mark.parametrize('output', [0, 1])
@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_a_prior_that_is_no_candidate_may_hold_anything(losses, output, value):
    """The last prior is outside of all boxes."""

    def spoil(*levels):
        levels[output][0][..., -1, -1] = value

    values, gradients = step(spoil, train_cfg=BATCH, **losses)
    assert all(map(math.isfinite, values.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('losses', [{}, OWN, SOFTMAX])
@pytest.mark.parametrize('value', [INF, -INF, -50.0, 1e20])
def test_finite_for_infinite_and_inverted_boxes(losses, value):
    for column in range(4):
        values, gradients = step(truth=changed(bboxes=set_first(value, column)), train_cfg=BATCH, **losses)
        assert all(map(math.isfinite, values.values()))
        assert all(gradient.isfinite().all() for gradient in gradients)
