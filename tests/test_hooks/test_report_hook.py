"""The report, in parts; tests/test_tools/test_train.py runs it for real."""

import json

import pytest
from mmengine.structures import BaseDataElement

from mmext.hooks import ReportHook
from mmext.hooks.report_hook import read_scalars, summarize


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


def test_scalars_of_a_resumed_run(tmp_path):
    for number, name in enumerate(('20260101_000000', '20260102_000000')):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(json.dumps({'step': number, 'loss': 1.0}) + '\n')
    last = tmp_path / '20260102_000000'
    assert [record['step'] for record in read_scalars(last, resumed=False)] == [1]
    assert [record['step'] for record in read_scalars(last, resumed=True)] == [0, 1]
    assert read_scalars(tmp_path / 'none', resumed=False) == []


def test_scalars_of_a_killed_run(tmp_path):
    for name, text in (
        ('1_killed', '{"step": 1, "loss": 2.5}\n{"step": 2, "lo'),
        ('2_resumed', '{"step": 2, "loss": 1}\n'),
    ):
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(text)
    assert [record['loss'] for record in read_scalars(tmp_path / '2_resumed', resumed=True)] == [2.5, 1]


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
