"""Reading what mmengine logs."""

import json

from mmext.visualization.scalars import loss_names, metrics_of, points_of, read_scalars


def test_of_two_records_of_one_step_the_later_counts():
    records = [{'step': 2, 'loss': 3.0}, {'step': 1, 'loss': 4.0}, {'step': 2, 'loss': 5.0}, {'step': 3, 'lr': 1.0}]
    assert points_of(records, 'loss') == [(1, 4.0), (2, 5.0)]


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


def test_a_line_that_is_no_record_is_skipped_with_a_warning(tmp_path, log):
    """A process killed while it wrote leaves half a line; a full disk may leave one in the middle."""
    folder = tmp_path / '1' / 'vis_data'
    folder.mkdir(parents=True)
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "lo', '[1]', '{"loss": 2.0}', '{"step": 5, "loss": 1.0}']
    (folder / 'scalars.json').write_text('\n'.join(lines))
    assert [record['step'] for record in read_scalars(tmp_path / '1', resumed=False)] == [1, 5]
    warnings = [record.getMessage() for record in log.records]
    assert len(warnings) == 3
    assert 'scalars.json, line 2 is skipped: it is not a record of a step: \'{"step": 2, "lo\'' in warnings[0]


def test_metrics_have_their_usual_names():
    records = [
        {'loss': 1.0, 'step': 2},
        {'coco/bbox_mAP': 0.5, 'coco/cat_precision': 0.4, 'coco/bbox_mAP_copypaste': '0.5', 'time': 1.0, 'step': 1},
    ]
    assert metrics_of(records) == [{'step': 1, 'AP': 0.5, 'AP cat': 0.4}]


def test_the_parts_of_the_loss():
    records = [{'loss': 3.0, 'loss_cls': 1.0, 'd0.loss_bbox': 2.0, 'share/loss_cls': 0.3, 'lr': 0.1, 'step': 1}]
    assert loss_names(records) == ['loss_cls', 'd0.loss_bbox']
