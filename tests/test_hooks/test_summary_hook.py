"""The header of a run; tests/test_cli/test_mistakes.py trains with it."""

from types import SimpleNamespace

import torch

from mmext.hooks.summary_hook import data_text, losses_text, model_text
from mmext.losses import IoULoss


class Data(list):
    metainfo = {'classes': ('cat', 'dog')}


def test_data():
    loader = SimpleNamespace(dataset=Data(range(5)), batch_size=2)
    assert data_text(loader) == '5 images, 2 classes (cat, dog), batch size 2'
    loader.dataset.metainfo = {'classes': tuple(map(str, range(80)))}
    assert data_text(loader) == '5 images, 80 classes, batch size 2'
    # mmdet's AspectRatioBatchSampler leaves the size of a batch to the sampler.
    loader = SimpleNamespace(dataset=[0], batch_size=None, batch_sampler=SimpleNamespace(batch_size=4))
    assert data_text(loader) == '1 images, batch size 4'


def test_model_and_losses():
    head = torch.nn.Module()
    head.loss_bbox, head.loss_cls = IoULoss('ciou'), torch.nn.L1Loss()
    model = torch.nn.Sequential(torch.nn.Linear(99, 100), head)
    assert model_text(model) == 'Sequential, 0.01 million weights'
    assert losses_text(model) == 'loss_bbox mmext.IoULoss, loss_cls torch.L1Loss'
