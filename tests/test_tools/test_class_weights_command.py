"""`mmext class-weights` counts as mmdet trains, and its lines of config build the losses."""

import json
import sys
from collections import Counter

import pytest
import torch
from conftest import ROOT, run
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmext.cli import class_weights as cli
from mmext.cli.main import main as command
from mmext.losses import class_weights
from mmext.registry import MODELS

CLASSES = ['circle', 'triangle', 'star']


@pytest.fixture(scope='module')
def annotations(shapes):
    return shapes / 'annotations' / 'train.json'


@pytest.fixture(scope='module')
def counts(annotations):
    return count_by_hand(annotations)


def count_by_hand(file):
    found = Counter(item['category_id'] for item in json.loads(file.read_text())['annotations'])
    return {name: found[index] for index, name in enumerate(CLASSES, start=1)}


@pytest.fixture
def config(shapes, tmp_path):
    return write_config(tmp_path, shapes)


def write_config(folder, root, dataset=None):
    """A config on the data set: that of a config that mmext ships, or the dataset given as its text."""
    file = folder / 'mine.py'
    dataset = dataset or f'dict(data_root={str(root)!r})'
    file.write_text(
        f"_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'\ntrain_dataloader = dict(dataset={dataset})\n"
    )
    return file


def write_annotations(folder, categories, annotations, **others):
    """Annotations, each (category id, keys that differ), in an image of 100 x 100 px."""
    file = folder / 'mine.json'
    items = [
        dict(id=index, image_id=1, category_id=category, bbox=[10, 10, 20, 20], area=400, iscrowd=0) | others
        for index, (category, others) in enumerate(annotations, start=1)
    ]
    images = [dict(id=1, file_name='1.jpg', width=100, height=100)]
    categories = [dict(id=index, name=name) for index, name in categories]
    file.write_text(json.dumps(dict(images=images, annotations=items, categories=categories) | others))
    return file


def printed(capsys, source, *options):
    cli.main([str(source), *options])
    return capsys.readouterr().out


def heads(output):
    """The heads of the lines of config that are printed."""
    lines = [line for line in output.splitlines() if line.startswith('model = ')]
    return [Config.fromstring(line, '.py').model.bbox_head for line in lines]


def test_power_and_a_class_without_objects(tmp_path, capsys):
    """Two cats and 18 dogs weigh 5 and 5/9, an eel without objects the mean of both."""
    boxes = [(1, {})] * 2 + [(2, {})] * 18
    file = write_annotations(tmp_path, [(1, 'cat'), (2, 'dog'), (3, 'eel')], boxes)
    assert '[5.0, 0.556, 2.78]' in printed(capsys, file, '--power', '1')


@pytest.mark.parametrize('source', ['annotations', 'config'])
def test_counts_the_classes(source, counts, request, capsys):
    assert cli.count_source(str(request.getfixturevalue(source))) == counts
    output = printed(capsys, request.getfixturevalue(source))
    total = sum(counts.values())
    for name, number in counts.items():
        (row,) = [line for line in output.splitlines() if f'| {name} ' in line]
        assert row.split()[3] == str(number)
        assert row.split()[5] == f'{number / total:.1%}'


@pytest.mark.parametrize('options', [[], ['--method', 'inverse'], ['--method', 'effective', '--beta', '0.9']])
def test_the_lines_build_losses_with_these_weights(options, annotations, counts, capsys):
    softmax, sigmoid = heads(printed(capsys, annotations, *options))
    arguments = dict(zip((option.removeprefix('--') for option in options[::2]), options[1::2]))
    expected = class_weights(
        list(counts.values()), arguments.get('method', 'effective'), float(arguments.get('beta', 0.999))
    )
    assert softmax.cls_target == 'label'
    for head, name in ((softmax, 'alpha'), (sigmoid, 'class_weight')):
        assert head.loss_cls.pop('_delete_')
        loss = MODELS.build(head.loss_cls)
        torch.testing.assert_close(getattr(loss, name), torch.tensor(expected), rtol=5e-3, atol=0)
        labels = torch.arange(3)
        assert loss(torch.zeros(3, 3), labels).item() > 0


def test_counts_what_mmdet_trains_on(tmp_path):
    """No crowds, none to be ignored, none outside of the image, and none of other categories."""
    items = [(3, {}), (3, {'iscrowd': 1}), (3, {'ignore': 1}), (7, {}), (7, {'bbox': [200, 0, 5, 5]}), (7, {}), (9, {})]
    file = write_annotations(tmp_path, [(3, 'cat'), (7, 'dog')], items)
    assert cli.count_source(str(file)) == {'cat': 1, 'dog': 2}


@pytest.mark.parametrize(
    'wrapper',
    [
        "dict(_delete_=True, type='MultiImageMixDataset', pipeline=[], dataset={})",
        "dict(_delete_=True, type='RepeatDataset', times=3, dataset={})",
        "dict(_delete_=True, type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=[{}]))",
    ],
)
def test_looks_below_wrappers(wrapper, shapes, counts, tmp_path):
    leaf = (
        f"dict(type='CocoDataset', data_root={str(shapes)!r}, ann_file='annotations/train.json', "
        f"data_prefix=dict(img='train/'), metainfo=dict(classes={CLASSES}), pipeline=[])"
    )
    assert cli.count_source(str(write_config(tmp_path, shapes, wrapper.format(leaf)))) == counts


def test_adds_concatenated_data_sets(shapes, counts, tmp_path):
    leaf = (
        f"dict(type='CocoDataset', data_root={str(shapes)!r}, ann_file='annotations/{{}}.json', "
        f"data_prefix=dict(img=''), metainfo=dict(classes={CLASSES}))"
    )
    dataset = f"dict(_delete_=True, type='ConcatDataset', datasets=[{leaf.format('train')}, {leaf.format('val')}])"
    of_val = count_by_hand(shapes / 'annotations' / 'val.json')
    expected = {name: counts[name] + of_val[name] for name in CLASSES}
    assert expected != counts
    assert cli.count_source(str(write_config(tmp_path, shapes, dataset))) == expected


def test_classes_of_the_config_choose_and_the_file_orders(tmp_path, caplog):
    file = write_annotations(tmp_path, [(1, 'cat'), (2, 'dog'), (3, 'eel')], [(1, {}), (1, {}), (3, {})])
    leaf = dict(type='CocoDataset', ann_file=str(file), data_prefix={'img': ''}, metainfo={'classes': ('eel', 'cat')})
    counted = cli.count_source(str(write_config(tmp_path, None, f'dict(_delete_=True, **{leaf})')))
    assert list(counted.items()) == [('cat', 2), ('eel', 1)]
    assert "metainfo=dict(classes=('cat', 'eel'))" in caplog.text
    # The labels that mmdet trains on.
    instances = DATASETS.build({**leaf, 'pipeline': []}).get_data_info(0)['instances']
    assert [instance['bbox_label'] for instance in instances] == [0, 0, 1]


class TestNamesTheRemedy:
    def fail(self, source):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            cli.count_source(str(source))
        return str(error.value)

    def test_no_such_file(self, shapes, tmp_path):
        assert "no annotation file 'none.json'" in self.fail('none.json')
        assert "no config 'none.py'" in self.fail('none.py')
        assert 'it ships' in self.fail('mmext::yolox/none.py')
        assert "/nowhere/annotations/train.json'" in self.fail(write_config(tmp_path, '/nowhere'))

    @pytest.mark.parametrize(
        'text, message',
        [
            ('no json', 'is not JSON'),
            ('[]', 'no list of images or annotations or categories'),
            ('{"images": [], "annotations": []}', 'it has no list of categories: convert it'),
            ('{"images": [], "annotations": [], "categories": []}', 'has no categories: add to its "categories"'),
        ],
    )
    def test_no_coco_file(self, text, message, tmp_path):
        file = tmp_path / 'mine.json'
        file.write_text(text)
        assert message in self.fail(file)
        assert str(file) in self.fail(file)

    def test_image_without_a_height(self, tmp_path):
        file = write_annotations(tmp_path, [(1, 'cat')], [(1, {})], images=[dict(id=1, file_name='1.jpg', width=9)])
        assert f"an image or an annotation of {file} has no 'height'" in self.fail(file)

    def test_no_objects(self, tmp_path):
        file = write_annotations(tmp_path, [(1, 'cat'), (2, 'dog')], [(1, {'iscrowd': 1})])
        assert f'{file} has no objects of any class' in self.fail(file)

    def test_class_that_the_file_lacks(self, shapes, tmp_path):
        dataset = f"dict(data_root={str(shapes)!r}, metainfo=dict(classes=('circle', 'square')))"
        message = self.fail(write_config(tmp_path, shapes, dataset))
        assert "train.json has no class 'square', which train_dataloader.dataset names; it has 'circle'," in message

    def test_config_without_training_data(self, tmp_path):
        file = tmp_path / 'mine.py'
        file.write_text('train_dataloader = None\n')
        assert 'no train_dataloader.dataset: give an annotation file' in self.fail(file)

    @pytest.mark.parametrize('options', [['--method', 'log'], ['--beta', 'high']])
    def test_bad_options(self, options, annotations, capsys):
        with pytest.raises(SystemExit):
            cli.main([str(annotations), *options])
        assert repr(options[1]) in capsys.readouterr().err

    def test_beta_outside_its_range(self, annotations):
        with pytest.raises(ValueError, match=r'beta must be in \[0, 1\), but is 1.5'):
            cli.main([str(annotations), '--beta', '1.5'])


def test_the_command_and_the_script_run_the_same(annotations, capsys):
    command(['class-weights', str(annotations), '--method', 'sqrt'])
    output = capsys.readouterr().out
    result = run(sys.executable, ROOT / 'tools' / 'class_weights.py', annotations, '--method', 'sqrt')
    assert result.stdout.endswith(output)
    assert f'counting the objects of {annotations}' in result.stderr
