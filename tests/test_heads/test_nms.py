"""NMS where mmcv has no operators for the device: through torchvision, or on the CPU."""

import importlib.util
import sys

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from yolox import build, inputs

from mmext.heads import nms, yolox_head

PLAIN = ConfigDict(type='nms', iou_threshold=0.65)
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"
# Greedy NMS written out, independent of mmcv's and torchvision's.
STUB = """
import torch

calls = []


def batched_nms(boxes, scores, idxs, iou_threshold):
    calls.append(len(boxes))
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    overlap, area = (high - low).clamp(min=0).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    suppresses = (overlap > iou_threshold * (area[:, None] + area - overlap)) & (idxs[:, None] == idxs)
    alive, kept = torch.ones_like(idxs, dtype=torch.bool), []
    for index in scores.argsort(descending=True).tolist():
        if alive[index]:
            kept.append(index)
            alive &= ~suppresses[index]
    return torch.tensor(kept, device=boxes.device)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package `torchvision` with this code in its `ops`; None: make sure that there is none."""

    def make(code):
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(nms, 'find_spec', (lambda name: None) if code is None else importlib.util.find_spec)
        if code is not None:
            (tmp_path / 'torchvision').mkdir()
            (tmp_path / 'torchvision' / '__init__.py').write_text('')
            (tmp_path / 'torchvision' / 'ops.py').write_text(code)
            monkeypatch.syspath_prepend(tmp_path)
            importlib.invalidate_caches()
        nms.torchvision_nms.cache_clear()

    yield make
    nms.torchvision_nms.cache_clear()
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
        del sys.modules[name]


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(nms, 'print_log', lambda message, **_: messages.append(message))
    return messages


def results():
    generator = torch.Generator().manual_seed(0)
    top_left = torch.rand(60, 2, generator=generator) * 50
    return InstanceData(
        bboxes=torch.cat([top_left, top_left + 20], 1),
        scores=torch.rand(60, generator=generator),
        labels=torch.randint(0, 3, (60,), generator=generator),
    )


def assert_same(ours, theirs):
    for key in ('bboxes', 'scores', 'labels'):
        torch.testing.assert_close(ours[key], theirs[key])


class TestBatchedNMS:
    def test_by_torchvision(self, install, monkeypatch):
        """On the device: nothing is copied to the CPU, and the result is mmcv's."""
        install(None)
        expected = nms.batched_nms(results(), PLAIN)
        assert 0 < len(expected) < 60
        install(STUB)
        monkeypatch.setattr(torch.Tensor, 'cpu', None)
        assert_same(nms.batched_nms(results(), PLAIN), expected)
        assert sys.modules['torchvision.ops'].calls == [60]

    def test_without_torchvision(self, install, warnings):
        install(None)
        ours = nms.batched_nms(results(), PLAIN)
        found = results()
        detections, keep = nms.mmcv_batched_nms(found.bboxes, found.scores, found.labels, PLAIN)
        assert_same(ours, found[keep])
        assert torch.equal(ours.scores, detections[:, -1])
        assert not warnings

    @pytest.mark.parametrize('code', [BROKEN, "raise ImportError('undefined symbol')"])
    def test_with_a_torchvision_for_another_torch(self, code, install, warnings):
        """It raises a RuntimeError on import: NMS runs on the CPU, and one message says why."""
        install(code)
        kept = [nms.batched_nms(results(), PLAIN) for _ in range(2)]
        install(None)
        for each in kept:
            assert_same(each, nms.batched_nms(results(), PLAIN))
        assert len(warnings) == 1
        assert code.split("'")[1] in warnings[0]
        assert 'torchvision' in warnings[0]

    @pytest.mark.parametrize(
        'config',
        [{'type': 'soft_nms', 'iou_threshold': 0.3}, {**PLAIN, 'max_num': 2}, {**PLAIN, 'class_agnostic': True}],
    )
    def test_other_kinds_are_left_to_mmcv(self, config, install):
        install(STUB)
        ours = nms.batched_nms(results(), ConfigDict(config))
        found = results()
        detections, keep = nms.mmcv_batched_nms(found.bboxes, found.scores, found.labels, ConfigDict(config))
        assert torch.equal(ours.bboxes, found.bboxes[keep])
        assert torch.equal(ours.scores, detections[:, -1])
        assert not nms.torchvision_nms().__globals__['calls']
        if 'max_num' in config:
            assert len(ours) == 2

    def test_none_sorts(self, install):
        install(STUB)
        assert torch.equal(nms.batched_nms(results(), None).scores, results().scores.sort(descending=True).values)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('torchvision', [None, BROKEN, STUB, 'as installed'])
@pytest.mark.parametrize('config', [PLAIN, None])
def test_the_head_predicts_without_operators(device, torchvision, config, install, monkeypatch):
    """The same boxes as with mmcv's operators."""
    head = build('mmext.YOLOXHead')
    head.test_cfg.nms = config
    features, _, metas = inputs()
    expected = head.predict_by_feat(*head(features), metas, rescale=True)
    assert all(len(result) > 10 for result in expected)
    calls = []
    monkeypatch.setattr(yolox_head, 'lacks_ops', lambda boxes: True)
    monkeypatch.setattr(yolox_head, 'batched_nms', lambda *args: calls.append(args) or nms.batched_nms(*args))
    if torchvision != 'as installed':
        install(torchvision)
    found = head.to(device).predict_by_feat(*head([each.to(device) for each in features]), metas, rescale=True)
    assert len(calls) == len(found)
    for ours, theirs in zip(found, expected):
        assert ours.bboxes.device.type == device
        torch.testing.assert_close(ours.scores.cpu(), theirs.scores, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(ours.bboxes.cpu(), theirs.bboxes, rtol=1e-3, atol=1e-2)


def test_mmcv_has_operators_for_the_cpu():
    assert not nms.lacks_ops(torch.zeros(1))
    assert nms.lacks_cuda_ops() is (nms.get_compiling_cuda_version() == 'not available')
