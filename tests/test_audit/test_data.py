"""Each fault of the data is found, and training with an error does not start."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from planted import EVERY, FAULTS, IMAGE_FAULTS, Data, change, evaluate_with, one_pixel, turn, without_step

from mmext.audit import data_findings, raise_errors
from mmext.audit.findings import errors
from mmext.audit.records import read_records
from mmext.cli import common
from mmext.cli import train as cli_train
from mmext.cli.common import read_config
from mmext.errors import UserError


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def hits(findings, fault):
    return [
        each
        for each in findings
        if each.level == fault.level
        and each.key.endswith(fault.key)
        and all(word in f'{each.message}. {each.remedy}' for word in fault.words)
    ]


def test_right_data_have_no_findings(data):
    assert data_findings(data.write()) == []


@pytest.mark.parametrize('fault', [*FAULTS, *IMAGE_FAULTS], ids=lambda fault: fault.name)
def test_finds(fault, data):
    fault.plant(data)
    config = data.write()
    findings = data_findings(config, images=fault in IMAGE_FAULTS)
    assert len(hits(findings, fault)) == 1, '\n'.join(map(str, findings))
    # A warning or a note does not stop a training for another reason.
    assert bool(errors(findings)) is (fault.level == 'error'), '\n'.join(map(str, findings))
    # Images are opened on demand alone.
    assert fault not in IMAGE_FAULTS or not errors(data_findings(config, images=False))


@pytest.mark.parametrize('fault', [each for each in FAULTS if each.level == 'error'], ids=lambda fault: fault.name)
def test_training_does_not_start(fault, data, monkeypatch):
    fault.plant(data)
    monkeypatch.setattr(common, 'read_config', lambda name: data.write())
    monkeypatch.setattr(cli_train, 'build_runner', lambda config: pytest.fail('the training starts'))
    with pytest.raises(UserError) as error:
        cli_train.main(['mine.py', '--work-dir', str(data.folder)])
    assert all(word in str(error.value) for word in fault.words)


def test_names_the_first_ten_errors(data, monkeypatch):
    for key in ('bbox', 'area', 'image_id', 'category_id'):
        for split in ('train', 'val'):
            change(split, **{key: 'x'})(data)
            change(split, index=1, **{key: None})(data)
    findings = data_findings(data.write(), images=False)
    with pytest.raises(UserError) as error:
        raise_errors(findings, 'Advice.')
    first, *lines, more, advice = str(error.value).splitlines()
    assert first == f'{len(errors(findings))} errors:' and len(errors(findings)) > 10
    assert [line.split('.')[0] for line in lines] == [str(number) for number in range(1, 11)]
    assert (more, advice) == (f'... and {len(errors(findings)) - 10} more', 'Advice.')


def test_groups_equal_faults_of_100_000_annotations_in_seconds(data):
    """Not a line for each of 50,000 boxes. The time is that of the process: the machine may be busy."""
    data.train['images'] = [dict(id=each, file_name='train_1.jpg', width=96, height=96) for each in range(1000)]
    data.train['annotations'] = [
        dict(id=each, image_id=each % 1000, category_id=1, bbox=[1, 2, 3] if each % 2 else [1, 2, 3, 4], area=12)
        for each in range(100_000)
    ]
    config = data.write()
    start = time.process_time()
    findings = data_findings(config, images=False)
    assert time.process_time() - start < 10
    assert [str(each) for each in findings if '50,000' in str(each)] == [
        f'{data.folder}/train.json: annotations.bbox: bbox has 3 values in 50,000 annotations (with id 1, 3, 5, 7, 9 '
        'and 49,995 more), such as [1, 2, 3]. Write four finite numbers: x, y, width and height in pixels'
    ]
    assert len(findings) < 5


@pytest.mark.parametrize('bad, level', [(1, 'warning'), (10, 'error')])
def test_few_lost_objects_are_a_warning(bad, level, data):
    """COCO's own annotations have boxes of width 0."""
    box = data.train['annotations'][0]
    data.train['annotations'] = [
        dict(box, id=each, image_id=1 + each % 4, bbox=[8, 8, 20 * (each > bad), 9]) for each in range(1, 101)
    ]
    change(index=slice(50, None), category_id=2)(data)
    (finding,) = data_findings(data.write())
    assert (finding.level, 'narrower than 1 px' in finding.message) == (level, True)


def test_images_of_one_pixel_may_be_filtered_out(data):
    one_pixel(data)
    data.config.train_dataloader.dataset.filter_cfg = dict(min_size=2)
    assert data_findings(data.write()) == []


def test_a_pixel_of_rounding_is_no_finding(data):
    change(bbox=[-1, 8, 50, 89])(data)
    assert data_findings(data.write()) == []


def test_large_boxes_are_not_taken_for_corners(data):
    """In portraits every width is above x, and boxes may reach beyond the image a little."""
    change(index=EVERY, bbox=[10, 10, 88, 88], area=88 * 88)(data)
    (finding,) = data_findings(data.write())
    assert finding.level == 'warning' and 'beyond the image' in finding.message


def test_training_data_may_have_what_the_evaluation_may_not(data):
    change(id=0)(data)
    change(index=EVERY, iscrowd=None)(data)
    change(index=1, id='a')(data)
    assert data_findings(data.write()) == []


def test_ids_of_digits_can_be_evaluated(data):
    change('val', id='7')(data)
    assert data_findings(data.write()) == []
    change('val', id='0')(data)
    assert [each.level for each in data_findings(data.write())] == ['warning']


def test_validation_without_a_file_of_its_own_may_too(data):
    """CocoMetric without ann_file numbers the annotations itself."""
    for split in ('val', 'test'):
        del data.config[f'{split}_evaluator']['ann_file']
    change('val', id=0)(data)
    assert data_findings(data.write()) == []


def test_an_evaluator_may_read_a_copy(data):
    evaluate_with(data)
    assert data_findings(data.write()) == []


def test_an_evaluator_reads_the_files_of_all_data_sets(data):
    """Of two data sets one file has the images of one alone, and a merged one those of both."""
    one = data.config.val_dataloader.dataset
    data.config.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, dict(one, ann_file='train.json')])
    (finding,) = data_findings(data.write())
    assert (finding.level, finding.key) == ('error', 'val_evaluator.ann_file')
    assert 'no 4 images (with id 1, 2, 3, 4)' in finding.message
    merged = {key: [*data.val[key], *data.train[key]] for key in ('images', 'annotations')}
    evaluate_with(data, **merged)
    assert data_findings(data.write()) == []


def test_reads_several_evaluators(data):
    metric = data.config.val_evaluator
    data.config.val_evaluator = [metric, dict(metric, ann_file='nowhere.json')]
    (finding,) = data_findings(data.write())
    assert finding.key == 'val_evaluator[1].ann_file'


def test_faults_of_the_test_data_alone_are_warnings(data):
    data.config.test_dataloader = dict(data.config.val_dataloader)
    data.config.test_dataloader.dataset = dict(data.config.val_dataloader.dataset, ann_file='nowhere.json')
    assert {each.level for each in data_findings(data.write())} == {'warning'}


def wrap(inner, outer, *leaves):
    """As YOLOX's configs wrap their data, with these steps in the pipelines of the data sets and of the wrapper."""
    first, *others = (dict(leaf, pipeline=inner) for leaf in leaves)
    balanced = [dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=leaf) for leaf in others]
    both = dict(type='ConcatDataset', datasets=[first, *balanced])
    repeated = dict(type='RepeatDataset', times=2, dataset=both)
    return dict(type='mmdet.MultiImageMixDataset', pipeline=outer, dataset=repeated)


def test_looks_below_wrappers(data):
    leaf = data.config.train_dataloader.dataset
    steps = leaf.pipeline
    data.config.train_dataloader.dataset = wrap(steps[:2], steps[2:], leaf, dict(leaf, ann_file='nowhere.json'))
    (finding,) = data_findings(data.write())
    assert finding.key == f'{data.folder}/nowhere.json'


@pytest.mark.parametrize('count', [1, 2])
def test_boxes_may_be_loaded_below_a_wrapper_or_by_it(count, data):
    leaf = data.config.train_dataloader.dataset
    steps = leaf.pipeline
    data.config.train_dataloader.dataset = wrap(steps[:count], steps[count:], leaf)
    assert data_findings(data.write()) == []
    data.config.train_dataloader.dataset = wrap(steps[:1], steps[2:], leaf, leaf)
    keys = [finding.key for finding in data_findings(data.write())]
    place = 'train_dataloader.dataset.dataset.dataset.datasets'
    assert keys == [f'{place}[0].pipeline', f'{place}[1].dataset.pipeline']


def test_a_transform_of_the_users_may_load_the_boxes(data):
    without_step('LoadAnnotations')(data)

    @TRANSFORMS.register_module(force=True)
    class LoadMine(BaseTransform):
        def transform(self, results):
            return results

    data.config.train_dataloader.dataset.pipeline.append(dict(type='LoadMine'))
    (finding,) = data_findings(data.write())
    assert (finding.level, finding.key) == ('warning', 'train_dataloader.dataset.pipeline')


def test_other_data_sets_are_noted(data):
    data.config.train_dataloader.dataset.update(type='VOCDataset')
    (finding,) = data_findings(data.write())
    assert (finding.level, finding.key) == ('note', 'train_dataloader.dataset')


def test_turned_images_may_be_loaded_as_they_are(data):
    turn(data)
    data.config.train_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    assert data_findings(data.write()) == []


def test_a_whole_image_with_bytes_behind_is_not_truncated(data):
    file = data.image(data.train['images'][0])
    file.write_bytes(file.read_bytes() + b'trailer' * 20)
    assert data_findings(data.write()) == []


@pytest.mark.parametrize('name', ['bccd', 'aquarium', 'hituav', 'shapes'])
def test_shipped_data_have_no_errors(name):
    (config,) = (ROOT / 'configs' / 'yolox').glob(f'yolox_nano_1xb8-*e_{name}.py')
    config = read_config(str(config))
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.data_root = str(ROOT / 'data' / name)
        if split != 'train':
            config[f'{split}_evaluator'].ann_file = str(ROOT / 'data' / name / 'annotations' / 'val.json')
    if not (ROOT / 'data' / name / 'annotations').is_dir():
        pytest.skip(f'data/{name} is not there')
    assert data_findings(config) == []


def test_training_logs_the_warnings(data, monkeypatch, log):
    change('val', id=0)(data)
    runner = SimpleNamespace(train=lambda: None)
    monkeypatch.setattr(common, 'read_config', lambda name: data.write())
    monkeypatch.setattr(cli_train, 'build_runner', lambda config: runner)
    cli_train.main(['mine.py', '--work-dir', str(data.folder)])
    assert 'pycocotools takes a match with the id 0 for none' in log.text


def test_training_in_spite_of_errors(data, monkeypatch):
    change(bbox=[1])(data)
    started = []
    monkeypatch.setattr(common, 'read_config', lambda name: data.write())
    monkeypatch.setattr(cli_train, 'build_runner', lambda config: SimpleNamespace(train=lambda: started.append(1)))
    cli_train.main(['mine.py', '--work-dir', str(data.folder), '--skip-data-checks'])
    assert started


class TestForReal:
    """The command line: a message, a status, and no iteration."""

    def fail(self, data, *command):
        data.write().dump(data.folder / 'mine.py')
        environment = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONPATH=str(ROOT), PORT=str(free_port()))
        environment['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
        result = subprocess.run(
            [word.format(data.folder / 'mine.py') for word in command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        output = result.stdout + result.stderr
        assert result.returncode != 0, output
        assert 'Epoch(train)' not in output
        assert not list(data.folder.glob('work/*/vis_data'))
        return output

    @pytest.fixture
    def bad(self, data):
        change(index=EVERY, iscrowd=1)(data)
        change('val', iscrowd=None)(data)
        data.config.work_dir = str(data.folder / 'work')
        return data

    def test_of_one_process(self, bad):
        output = self.fail(bad, sys.executable, str(ROOT / 'tools' / 'train.py'), '{}')
        assert '2 errors:' in output
        assert '1. ' in output and 'iscrowd is missing' in output
        assert '2. train_dataloader.dataset: none of the 8 annotations is a box to train on (crowd: 8)' in output
        assert '--skip-data-checks' in output

    def test_of_two_ranks_ends_both(self, bad):
        output = self.fail(bad, str(ROOT / 'tools' / 'dist_train.sh'), '{}', '2')
        # The rank that fails first ends the other.
        assert output.count('none of the 8 annotations is a box to train on (crowd: 8)') >= 1


@pytest.mark.parametrize(
    'path, remedy',
    [('data/shapes/annotations/train.json', '`mmext shapes`'), ('data/mine/annotations/train.json', 'Set data_root')],
)
def test_the_remedy_for_missing_data(path, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records, (finding,) = read_records(path)
    assert records is None and finding.key == path
    assert remedy in finding.remedy
