"""The report, in parts; tests/test_tools/test_train.py runs it for real."""

import pytest
from mmengine.structures import BaseDataElement

from mmext.hooks import ReportHook
from mmext.hooks.report_hook import summarize


def test_summary_of_coco_metrics():
    metrics = {
        'coco/circle_precision': 0.3,
        'coco/bbox_mAP': 0.1,
        'coco/bbox_mAP_50': 0.2,
        'coco/bbox_mAP_75': 0.05,
        'coco/bbox_mAP_s': 0.01,
        'coco/bbox_mAP_copypaste': '0.1 0.2',
    }
    assert summarize(metrics) == {'AP': 0.1, 'AP50': 0.2, 'AP75': 0.05, 'AP circle': 0.3}
    assert next(iter(summarize(metrics))) == 'AP'


def test_summary_of_other_metrics():
    assert summarize({'pascal_voc/mAP': 0.4, 'pascal_voc/AP50': 0.4}) == {'mAP': 0.4, 'AP50': 0.4}


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
