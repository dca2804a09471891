"""mmext's losses as `loss_decode` of mmsegmentation, and equal to its own where both are defined."""

import inspect

import pytest
import torch
from mmengine.registry import DefaultScope
from projects import require

from mmext import losses
from mmext.losses.base import BoxLoss, ElementwiseLoss
from mmext.registry import MODELS

CLASSES = 4
IGNORED = 255
# Every classification loss; each has defaults for all arguments.
LOSSES = [
    name
    for name in losses.__all__
    if inspect.isclass(kind := getattr(losses, name)) and issubclass(kind, ElementwiseLoss)
    if not issubclass(kind, BoxLoss)
]


@pytest.fixture(autouse=True)
def mmseg():
    """The package, in its scope, which ends with each test."""
    package = require('mmseg')
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield package


def inputs(channels=CLASSES):
    """Logits (2, C, 6, 5), and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 6, 5, generator=generator)
    labels = torch.randint(max(2, channels), (2, 6, 5), generator=generator)
    labels[0, :2], labels[1, 3, 1:4] = IGNORED, IGNORED
    return logits.requires_grad_(), labels


def ours(**config):
    settings = {name: config.pop(name) for name in ('avg_non_ignore', 'loss_name') if name in config}
    return MODELS.build(dict(type='mmext.SegmentationLoss', loss=config, **settings))


def of_mmseg(**config):
    from mmseg.registry import MODELS as MMSEG

    return MMSEG.build(config)


def loss_and_gradient(loss, logits, *args, **kwargs):
    value = loss(logits, *args, ignore_index=IGNORED, **kwargs)
    (gradient,) = torch.autograd.grad(value, logits)
    return value, gradient


def fcn(loss_decode, **head):
    """The smallest FCN."""
    from mmengine import Config
    from mmseg.registry import MODELS as MMSEG
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    norm = dict(type='BN')
    decode_head = dict(
        type='FCNHead',
        in_channels=512,
        in_index=3,
        channels=8,
        dropout_ratio=0,
        num_convs=1,
        num_classes=CLASSES,
        norm_cfg=norm,
        **head,
    )
    return MMSEG.build(
        Config(
            dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
                backbone=dict(type='ResNetV1c', depth=18, norm_cfg=norm),
                decode_head=dict(decode_head, loss_decode=loss_decode),
                test_cfg=dict(mode='whole'),
            )
        )
    ).train()


def batch():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for image in range(2):
        labels = torch.randint(CLASSES, (1, 32, 32), generator=torch.Generator().manual_seed(image))
        labels[:, :8] = IGNORED
        sample = SegDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(32, 32), pad_shape=(32, 32)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)), samples


def train_step(model):
    from mmengine.optim import OptimWrapper

    images, samples = batch()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), training=True)
    with optimizer.optim_context(model):
        logged = model(**data, mode='loss')
    total, logged = model.parse_losses(logged)
    optimizer.update_params(total)
    return logged


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_trains_an_fcn(name):
    loss = dict(type='mmext.SegmentationLoss', loss=dict(type=f'mmext.{name}'), loss_name='loss_ours')
    model = fcn(loss)
    before = model.decode_head.conv_seg.weight.clone()
    logged = train_step(model)
    assert 0 < logged['decode.loss_ours'] < 10 and logged['loss'] == logged['decode.loss_ours']
    assert (model.decode_head.conv_seg.weight != before).all()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_ignored_pixels_have_no_influence(name, avg_non_ignore):
    """Neither their labels nor their logits, NaN included, and their gradient is 0."""
    logits, labels = inputs()
    loss = ours(type=f'mmext.{name}', avg_non_ignore=avg_non_ignore)
    value, gradient = loss_and_gradient(loss, logits, labels)
    ignored = (labels == IGNORED).unsqueeze(1).expand_as(logits)
    assert value > 0 and not gradient[ignored].any() and gradient[~ignored].any()
    broken = logits.detach().masked_fill(ignored, float('nan')).requires_grad_()
    torch.testing.assert_close(loss_and_gradient(loss, broken, labels), (value, gradient))


@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss_without_focus_equals_cross_entropy(avg_non_ignore, weighted):
    logits, labels = inputs()
    weight = torch.rand(labels.shape) if weighted else None
    loss = ours(type='mmext.SoftmaxFocalLoss', gamma=0.0, loss_weight=0.4, avg_non_ignore=avg_non_ignore)
    own = of_mmseg(type='CrossEntropyLoss', loss_weight=0.4, avg_non_ignore=avg_non_ignore)
    torch.testing.assert_close(
        loss_and_gradient(loss, logits, labels, weight=weight), loss_and_gradient(own, logits, labels, weight=weight)
    )


@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize('channels', [1, CLASSES])
def test_focal_loss_without_focus_equals_binary_cross_entropy(avg_non_ignore, channels):
    """With one channel label 1 is the foreground: binary segmentation."""
    logits, labels = inputs(channels)
    loss = ours(type='mmext.FocalLoss', alpha=0.5, gamma=0.0, loss_weight=2.0, avg_non_ignore=avg_non_ignore)
    own = of_mmseg(type='CrossEntropyLoss', use_sigmoid=True, avg_non_ignore=avg_non_ignore)
    torch.testing.assert_close(loss_and_gradient(loss, logits, labels), loss_and_gradient(own, logits, labels))


@pytest.mark.parametrize('class_weight', [None, [0.5, 1.0, 2.0, 0.0]])
def test_focal_loss_equals_that_of_mmsegmentation(class_weight):
    """Its targets are one-hot here: the loss of onedl-mmsegmentation 1.4.2 fails with labels on a CPU."""
    logits, labels = inputs()
    one_hot = torch.nn.functional.one_hot(labels.where(labels != IGNORED, 0), CLASSES).movedim(-1, 1)
    counted = (labels != IGNORED).flatten()
    settings = dict(alpha=0.25, gamma=2.0, class_weight=class_weight)
    own = of_mmseg(type='FocalLoss', **settings)
    torch.testing.assert_close(
        loss_and_gradient(ours(type='mmext.FocalLoss', **settings), logits, labels),
        loss_and_gradient(own, logits, one_hot, weight=counted),
    )


@pytest.mark.parametrize('thresh', [None, 0.7])
def test_hard_examples_are_mined(thresh):
    """OHEM takes the loss of each pixel, or a weight from the softmax."""
    loss = dict(type='mmext.SegmentationLoss', loss=dict(type='mmext.FocalLoss'))
    sampler = dict(type='OHEMPixelSampler', thresh=thresh, min_kept=50)
    assert train_step(fcn(loss, sampler=sampler))['decode.loss_seg'] > 0


def test_several_losses_are_logged_by_name():
    ours = dict(type='mmext.SegmentationLoss', loss=dict(type='mmext.FocalLoss'), loss_name='loss_focal')
    logged = train_step(fcn([ours, dict(type='DiceLoss', loss_name='loss_dice')]))
    assert {'decode.loss_focal', 'decode.loss_dice'} <= set(logged)
