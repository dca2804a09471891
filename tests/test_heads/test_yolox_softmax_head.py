"""The key that marks the state dict of a head that predicts with a softmax."""

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.config import ConfigDict
from mmengine.runner import load_state_dict
from yolox import SOFTMAX, build, inputs

from mmext.heads.yolox_softmax_head import SOFTMAX_KEY


def test_marks_softmax_heads_alone():
    own, sigmoid, mmdets = build('mmext.YOLOXHead', **SOFTMAX), build('mmext.YOLOXHead'), build('mmdet.YOLOXHead')
    assert list(sigmoid.state_dict()) == list(mmdets.state_dict())
    assert set(own.state_dict()) - set(mmdets.state_dict()) == {SOFTMAX_KEY}


def test_mmdets_head_reports_the_key(log):
    own, mmdets = build('mmext.YOLOXHead', **SOFTMAX), build('mmdet.YOLOXHead')
    with pytest.raises(RuntimeError, match=f'Unexpected key.*{SOFTMAX_KEY}'):
        mmdets.load_state_dict(own.state_dict())
    load_state_dict(mmdets, own.state_dict(), strict=False, logger='current')
    assert SOFTMAX_KEY in log.text


def test_loads_checkpoints_without_the_key():
    """Those of mmdet, and those of mmext from before the key; also into an EMA, as in a resumed training."""
    own, mmdets = build('mmext.YOLOXHead', **SOFTMAX), build('mmdet.YOLOXHead')
    assert not own.load_state_dict(mmdets.state_dict()).missing_keys
    average = ExpMomentumEMA(own, update_buffers=True)
    before = {key: value for key, value in average.state_dict().items() if not key.endswith(SOFTMAX_KEY)}
    assert len(before) == len(average.state_dict()) - 1
    average.load_state_dict(before)
    del before['module.multi_level_conv_cls.0.weight']
    with pytest.raises(RuntimeError, match=r'Missing key.*multi_level_conv_cls\.0\.weight'):
        average.load_state_dict(before)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_average_keeps_the_key(update_buffers):
    own = build('mmext.YOLOXHead', **SOFTMAX)
    average = ExpMomentumEMA(own, update_buffers=update_buffers)
    for _ in range(3):
        average.update_parameters(own)
    assert average.module.state_dict()[SOFTMAX_KEY] == 1


def test_predicts_as_mmexts_head():
    own, published = build('mmext.YOLOXHead', **SOFTMAX), build('mmdet.YOLOXSoftmaxHead', seed=3)
    published.load_state_dict(own.state_dict())
    features, _, metas = inputs()
    config = ConfigDict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.65))
    with torch.no_grad():
        for ours, theirs in zip(
            *(head.predict_by_feat(*head(features), metas, cfg=config) for head in (own, published))
        ):
            assert len(ours) and torch.equal(ours.scores, theirs.scores) and torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.bboxes, theirs.bboxes)
