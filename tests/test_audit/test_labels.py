"""Labels mean what the config says, or the check names both orders and the line to write."""

import json

import pytest
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmext.audit import (
    check_num_classes,
    check_order,
    label_orders,
    label_orders_of_config,
    labels,
    leaves,
    read_categories,
)

ORDER, OTHER = ('cat', 'dog', 'eel'), ('dog', 'cat', 'eel')


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def write(folder, names, name='train', **others):
    """An annotation file with these categories, and one box of each."""
    file = folder / f'{name}.json'
    images = [dict(id=1, file_name='1.jpg', width=100, height=100)]
    boxes = [
        dict(id=index, image_id=1, category_id=index, bbox=[10, 10, 20, 20], area=400, iscrowd=0)
        for index in range(1, len(names) + 1)
    ]
    categories = [dict(id=index, name=name) for index, name in enumerate(names, start=1)]
    file.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories) | others))
    return file


def config(file, classes=ORDER, **others):
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    return ConfigDict(
        dict(type='CocoDataset', ann_file=str(file), data_prefix=dict(img=''), pipeline=[], **metainfo) | others
    )


def orders_of(configs):
    return [order for place, each in configs.items() for order in label_orders(DATASETS.build(each), place)]


def fail(**configs):
    with pytest.raises(ValueError, match='class') as error:
        check_order(orders_of(configs))
    return str(error.value)


def test_the_order_is_that_of_mmdet(tmp_path):
    """Of the classes named, in the order of the file."""
    dataset = DATASETS.build(config(write(tmp_path, OTHER), ('eel', 'cat')))
    (order,) = label_orders(dataset, 'here')
    assert order.names == ('cat', 'eel')
    # The boxes are those of dog, cat and eel.
    assert [instance['bbox_label'] for instance in dataset.get_data_info(0)['instances']] == [0, 1]


def test_accepts_one_order_everywhere(tmp_path):
    file = write(tmp_path, ORDER)
    check_order(orders_of({'train': config(file), 'val': config(file), 'test': config(file, ('dog',))}))


def test_refuses_another_order_in_metainfo(tmp_path):
    file = write(tmp_path, OTHER)
    message = fail(train=config(file), val=config(file))
    assert str(ORDER) in message and str(OTHER) in message and str(file) in message
    assert f'Set metainfo=dict(classes={OTHER}) in train and val,' in message


def test_refuses_it_in_the_validation_data_alone(tmp_path):
    file = write(tmp_path, ORDER)
    assert f'Set metainfo=dict(classes={ORDER}) in val,' in fail(train=config(file), val=config(file, OTHER))


@pytest.mark.parametrize('classes', [ORDER, OTHER])
def test_refuses_files_that_disagree_whatever_metainfo_says(tmp_path, classes):
    """Label 0 is a cat in training and a dog in validation: no metainfo can mend it, and none is proposed."""
    train, val = write(tmp_path, ORDER), write(tmp_path, OTHER, 'val')
    message = fail(train=config(train), val=config(val, classes))
    assert f'train ({train}) has {ORDER}, val ({val}) has {OTHER}' in message
    assert 'Set metainfo' not in message


def test_validation_data_may_have_other_classes(tmp_path):
    train, val = config(write(tmp_path, ORDER)), config(write(tmp_path, ('a', 'b'), 'val'), ('a', 'b'))
    check_order(orders_of({'train': train, 'val': val}))


def test_looks_below_wrappers(tmp_path):
    right, wrong = config(write(tmp_path, ORDER)), config(write(tmp_path, ORDER, 'two'), OTHER)
    dataset = dict(
        type='MultiImageMixDataset',
        pipeline=[],
        dataset=dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(
                type='ConcatDataset',
                ignore_keys='classes',
                datasets=[right, dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=wrong)],
            ),
        ),
    )
    place = 'train.dataset.dataset.datasets[1].dataset'
    assert list(leaves(ConfigDict(dataset), 'train')) == ['train.dataset.dataset.datasets[0]', place]
    assert f'Set metainfo=dict(classes={ORDER}) in {place},' in fail(train=dataset)


def test_refuses_a_missing_class(tmp_path):
    """The labels of the classes after it would be one less than in the training data."""
    message = fail(val=config(write(tmp_path, ('cat', 'eel'))))
    assert "has no class 'dog', which val names; it has 'cat', 'eel'" in message
    assert "Set metainfo=dict(classes=('cat', 'eel')) in val" in message


def test_refuses_a_config_without_classes(tmp_path):
    message = fail(train=config(write(tmp_path, ORDER[1:]), None))
    assert "has no class 'person'" in message and "Set metainfo=dict(classes=('dog', 'eel')) in train" in message
    assert '80 classes of COCO' in message


def test_refuses_a_string_for_a_tuple(tmp_path):
    assert "Write a tuple, classes=('cat',)" in fail(train=config(write(tmp_path, ['cat']), 'cat'))


def test_refuses_two_categories_of_one_name(tmp_path):
    assert "more than one class named 'cat'" in fail(train=config(write(tmp_path, ('cat', 'cat', 'dog', 'eel'))))


def test_ignores_data_sets_that_number_otherwise(tmp_path):
    """LVIS takes all categories of its file, Objects365 sorts them, VOC takes the order of metainfo."""
    file = write(tmp_path, ORDER)
    assert label_orders_of_config(config(file, OTHER), 'test')
    for kind in ('LVISDataset', 'Objects365V1Dataset', 'VOCDataset'):
        assert label_orders_of_config(config(file, OTHER, type=kind), 'test') == []


class TestOfConfig:
    def test_reads_no_annotations(self, tmp_path):
        # A box of this file has no image.
        file = write(tmp_path, OTHER, images=[])
        (order,) = label_orders_of_config(config(file), 'test')
        assert (order.classes, order.names) == (ORDER, OTHER)

    def test_leaves_out_a_file_that_does_not_exist(self, tmp_path):
        file = write(tmp_path, OTHER)
        dataset = ConfigDict(type='ConcatDataset', datasets=[config('nowhere.json'), config(file)])
        assert [order.place for order in label_orders_of_config(dataset, 'test')] == ['test.datasets[1]']


class TestCategories:
    @pytest.fixture
    def parsed(self, monkeypatch):
        """The files that are parsed as a whole."""
        paths, parse = [], labels._parse
        monkeypatch.setattr(labels, '_parse', lambda path, local: paths.append(path) or parse(path, local))
        return paths

    @pytest.mark.parametrize('count', [3, 5000])
    @pytest.mark.parametrize('first', [True, False])
    def test_parses_the_categories_alone(self, count, first, tmp_path, parsed):
        """Wherever they are in the file, and however long the list is."""
        content = json.loads(write(tmp_path, [f'Größe "[{index}]" é' for index in range(count)]).read_text())
        keys = sorted(content, key=lambda key: (key == 'categories') is not first)
        file = tmp_path / 'sorted.json'
        file.write_text(json.dumps({key: content[key] for key in keys}, indent=1, ensure_ascii=False), 'utf-8')
        expected = {each['id']: each['name'] for each in content['categories']}
        assert read_categories(str(file)) == expected
        assert list(read_categories(str(file))) == list(expected)
        assert parsed == []

    def test_parses_all_of_an_ambiguous_file(self, tmp_path, parsed):
        file = write(tmp_path, ORDER, info={'categories': [{'id': 1, 'name': 'wrong'}]})
        assert tuple(read_categories(str(file)).values()) == ORDER
        assert parsed == [str(file)]

    @pytest.mark.parametrize('text', ['', '{"images": [], "annotations": [], "categories": [{"id": 1', '[1]'])
    def test_refuses_what_is_not_coco(self, text, tmp_path):
        file = tmp_path / 'mine.json'
        file.write_text(text)
        with pytest.raises(ValueError, match=r'mine\.json is not (JSON|a COCO annotation file)'):
            read_categories(str(file))


class TestNumberOfClasses:
    @pytest.mark.parametrize('name', ['bbox_head', 'second'])
    def test_refuses_another_number_in_any_head(self, name):
        head = nn.Module()
        head.num_classes, head.loss_cls = 80, nn.Identity()
        with pytest.raises(ValueError, match=rf'model.{name}.num_classes is 80.*set model.{name}.num_classes=3'):
            check_num_classes(nn.ModuleDict({name: head}), ORDER, 'train')
        head.num_classes = 3
        check_num_classes(nn.ModuleDict({name: head}), ORDER, 'train')

    def test_accepts_the_one_class_of_an_rpn(self):
        head = nn.Module()
        head.num_classes, head.loss_cls = 1, nn.Identity()
        check_num_classes(nn.ModuleDict({'rpn_head': head}), ORDER, 'train')
