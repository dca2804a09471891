"""Test-time augmentation on a GPU for which mmcv has no operators."""

import pytest
from mmdet.models import DetTTAModel as MMDetDetTTAModel

from mmext.heads import DetTTAModel, tta


class Sample:
    """A prediction on a GPU."""

    def cpu(self):
        return 'on the CPU'


@pytest.mark.parametrize('lacks', [False, True])
def test_merges_where_there_are_operators(lacks, monkeypatch):
    """On the CPU where mmcv was built without CUDA, otherwise on the device."""
    given = []
    monkeypatch.setattr(tta, 'lacks_cuda_ops', lambda: lacks)
    monkeypatch.setattr(MMDetDetTTAModel, 'merge_preds', lambda self, samples: given.append(samples) or samples)
    views = [[Sample(), Sample()], [Sample()]]
    assert DetTTAModel.merge_preds(DetTTAModel.__new__(DetTTAModel), views) is given[0]
    assert given[0] == ([['on the CPU'] * 2, ['on the CPU']] if lacks else views)
