"""What is read from a work dir."""

import json
import os
import shlex
from pathlib import Path

import pytest
import records

from mmext.cli.test import parse_args
from mmext.errors import UserError
from mmext.visualization.work_dir import default_names, load_run

BOX = dict(image_id=10, category_id=7, bbox=[1, 2, 3, 4], score=0.5)


def run_in(folder):
    return load_run(folder, 'mine')


def test_a_run(tmp_path):
    run = run_in(records.work_dir(tmp_path, records.training(epochs=2)))
    assert len(run.losses) == 8
    assert run.loss_names == ['loss_cls', 'loss_bbox', 'loss_obj']
    assert [(point['step'], point['AP']) for point in run.evaluations] == [(1, 0.25), (2, 0.5)]
    assert run.by_epoch


def test_a_resumed_run_is_joined(tmp_path):
    steps = records.training(epochs=2)
    records.work_dir(tmp_path, steps[:6], time='20260101_000000')
    records.work_dir(tmp_path, steps[5:], time='20260102_000000')
    assert run_in(tmp_path).records == steps


@pytest.mark.parametrize(
    ('make', 'given', 'message'),
    [
        (lambda folder: None, 'nowhere', r'there is no folder \S+nowhere: give the work dir of a training'),
        (lambda folder: None, '', r'TIME/vis_data/scalars.json: give the work dir that `mmext train` logs to$'),
        (lambda folder: records.work_dir(folder / 'a', records.training()), '', r'logs to, such as \S+/a$'),
        (
            lambda folder: records.work_dir(folder, records.training()),
            '20260101_000000',
            r'such as \S+refused\S*$',
        ),
        (lambda folder: records.work_dir(folder, []), '', r'scalars\.json has no record yet: wait until'),
        (
            lambda folder: (folder / 'comparison.json').write_text('{}'),
            '',
            r'of its own: `mmext compare --report \S+`\. To plot its runs, give their folders: \S+/\*/seed_\*',
        ),
    ],
)
def test_other_folders_are_refused(make, given, message, tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        run_in(tmp_path / given)


def test_detections_of_a_comparison_count_first(tmp_path):
    records.work_dir(tmp_path, records.training())
    assert run_in(tmp_path).detections() is None
    records.write(tmp_path / 'detections.bbox.json', [])
    assert run_in(tmp_path).detections().boxes == []
    newer = records.write(tmp_path / 'again.bbox.json', [BOX])
    os.utime(newer, (2e9, 2e9))
    found = run_in(tmp_path).detections()
    assert (found.boxes, found.dataloader, found.path) == ([BOX], 'test_dataloader', newer)
    records.write(tmp_path / 'result.json', dict(detections=[BOX, BOX]))
    assert (len(run_in(tmp_path).detections().boxes), run_in(tmp_path).detections().dataloader) == (2, 'val_dataloader')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[{"image', 'is not JSON'),
        ('[{"image_id": 1}]', 'no detections in COCO'),
        ('{"a": 1}', 'no detections in COCO'),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    records.work_dir(tmp_path, records.training())
    (tmp_path / 'detections.bbox.json').write_text(text)
    with pytest.raises(UserError, match=f'detections.bbox.json.*{message}.*evaluate again'):
        run_in(tmp_path).detections()


def test_the_command_that_makes_detections(tmp_path):
    folder = records.work_dir(tmp_path / 'my_run', records.training(), tmp_path / 'annotations' / 'val.json')
    # A later test leaves a config of its own.
    tested = folder / '20260109_000000' / 'vis_data' / 'config.py'
    tested.parent.mkdir(parents=True)
    tested.write_text('load_from = 1')
    for name, time in (('epoch_10.pth', 2e9), ('epoch_9.pth', 1e9)):
        (folder / name).touch()
        os.utime(folder / name, (time, time))
    program, command, *arguments = shlex.split(run_in(folder).command())
    args = parse_args(arguments)
    assert (program, command) == ('mmext', 'test')
    assert args.config == str(folder / '20260101_000000' / 'vis_data' / 'config.py')
    assert (args.checkpoint, args.work_dir) == (str(folder / 'epoch_10.pth'), str(folder))
    assert args.cfg_options == {'test_evaluator.outfile_prefix': str(folder / 'detections')}


def test_names():
    assert default_names([Path('a/giou'), Path('b/ciou')]) == ['giou', 'ciou']
    assert default_names([Path('/x/a/seed_0'), Path('/x/b/seed_0'), Path('/x/c')]) == ['a/seed_0', 'b/seed_0', 'x/c']
    # The same folder twice is for the caller to refuse.
    assert default_names([Path('a'), Path('a')]) == ['a', 'a']


def test_json_of_mmdet_is_read(tmp_path):
    """Its NaN and Infinity are no JSON, but Python's json reads and mmengine writes them."""
    folder = records.work_dir(tmp_path, [])
    (folder / '20260101_000000' / 'vis_data' / 'scalars.json').write_text(json.dumps(dict(step=1, loss=float('nan'))))
    assert run_in(folder).losses[0]['loss'] != run_in(folder).losses[0]['loss']
