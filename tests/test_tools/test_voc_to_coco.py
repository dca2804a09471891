import importlib.util
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

PATH = Path(__file__).parents[2] / 'tools' / 'voc_to_coco.py'


def load_tool():
    spec = importlib.util.spec_from_file_location('voc_to_coco', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


voc_to_coco = load_tool()


def write_image(root, stem, objects, file_name=None, size=(100, 80)):
    """Write an image of 100 x 80 px and its xml; an object is (name, box, difficult)."""
    nodes = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>'
        f'<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>'
        '</bndbox></object>'
        for name, box, difficult in objects
    )
    size_node = '' if size is None else (f'<size><width>{size[0]}</width><height>{size[1]}</height></size>')
    (root / 'Annotations' / f'{stem}.xml').write_text(
        f'<annotation><filename>{file_name or stem + ".jpg"}</filename>{size_node}{nodes}</annotation>'
    )
    cv2.imwrite(str(root / 'JPEGImages' / f'{stem}.jpg'), np.zeros((80, 100, 3), np.uint8))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / 'voc'
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    write_image(root, 'b', [('WBC', (1, 1, 100, 80), 0), ('RBC', (11, 21, 30, 60), 0)])
    write_image(root, 'a', [('RBC', (0, 70, 120, 90), 1)], file_name='a')
    write_image(root, 'c', [('Platelets', (5, 6, 5, 6), 0)])
    (root / 'ImageSets/Main/train.txt').write_text('b\na\n')
    (root / 'ImageSets/Main/val.txt').write_text('c\n')
    return root


def run(root, *options):
    out_json = root.parent / 'out' / 'data.json'
    voc_to_coco.main([str(root), str(out_json), *options])
    return json.loads(out_json.read_text())


def fail(root, capsys, *options):
    with pytest.raises(SystemExit):
        run(root, *options)
    assert not (root.parent / 'out').exists()
    return capsys.readouterr().err


def test_split(root, capsys):
    data = run(root, '--split', 'train', '--classes', 'RBC', 'WBC', 'Platelets')
    assert data == {
        'images': [
            {'id': 1, 'file_name': 'b.jpg', 'width': 100, 'height': 80},
            {'id': 2, 'file_name': 'a.jpg', 'width': 100, 'height': 80},
        ],
        'annotations': [
            {
                'id': 1,
                'image_id': 1,
                'category_id': 2,
                'bbox': [0, 0, 100, 80],
                'area': 8000,
                'iscrowd': 0,
                'ignore': 0,
            },
            {
                'id': 2,
                'image_id': 1,
                'category_id': 1,
                'bbox': [10, 20, 20, 40],
                'area': 800,
                'iscrowd': 0,
                'ignore': 0,
            },
            {
                'id': 3,
                'image_id': 2,
                'category_id': 1,
                'bbox': [0, 69, 100, 11],
                'area': 1100,
                'iscrowd': 0,
                'ignore': 1,
            },
        ],
        'categories': [{'id': 1, 'name': 'RBC'}, {'id': 2, 'name': 'WBC'}, {'id': 3, 'name': 'Platelets'}],
    }
    out_json = root.parent / 'out' / 'data.json'
    assert capsys.readouterr().out == f'2 images, boxes: 2 RBC, 1 WBC, 0 Platelets; {out_json}\n'


def test_without_split_all_files_are_sorted(root):
    data = run(root)
    assert [image['file_name'] for image in data['images']] == ['a.jpg', 'b.jpg', 'c.jpg']
    assert data['annotations'][-1]['bbox'] == [4, 5, 1, 1]


def test_class_ids_do_not_depend_on_the_split(root):
    names = [{'id': 1, 'name': 'Platelets'}, {'id': 2, 'name': 'RBC'}, {'id': 3, 'name': 'WBC'}]
    assert run(root, '--split', 'train')['categories'] == names
    assert run(root, '--split', 'val')['categories'] == names


def test_boxes_without_area_are_dropped(root, caplog):
    write_image(
        root,
        'c',
        [('RBC', (0, 0, 0, 0), 0), ('RBC', (30, 5, 20, 9), 0), ('RBC', (101, 5, 110, 9), 0), ('RBC', (2, 0, 2, 4), 0)],
    )
    with caplog.at_level(logging.WARNING):
        data = run(root, '--split', 'val')
    assert [item['bbox'] for item in data['annotations']] == [[1, 0, 1, 4]]
    assert 'dropped 3 boxes without area' in caplog.text


@pytest.mark.parametrize('size', [None, (0, 0), ('', '')])
def test_size_is_read_from_the_image(root, size):
    write_image(root, 'c', [], size=size)
    assert run(root, '--split', 'val')['images'] == [{'id': 1, 'file_name': 'c.jpg', 'width': 100, 'height': 80}]


def test_unreadable_image_without_size(root, capsys):
    write_image(root, 'c', [], size=None)
    (root / 'JPEGImages' / 'c.jpg').write_text('no image')
    assert 'c.jpg is not a readable image' in fail(root, capsys)


def test_unknown_class(root, capsys):
    error = fail(root, capsys, '--classes', 'RBC', 'Platelets')
    assert "class 'WBC' in" in error and 'b.xml is not one of RBC Platelets' in error


def write_config(root, dataset):
    file = root.parent / 'mine.py'
    file.write_text(f'train_dataloader = dict(dataset={dataset})\n')
    return str(file)


LEAF = "dict(type='CocoDataset', metainfo=dict(classes=('WBC', 'Platelets', 'RBC')))"


@pytest.mark.parametrize('dataset', [LEAF, f"dict(type='RepeatDataset', dataset={LEAF})"])
def test_order_of_a_config(root, dataset):
    data = run(root, '--split', 'train', '--config', write_config(root, dataset))
    assert [category['name'] for category in data['categories']] == ['WBC', 'Platelets', 'RBC']
    assert [item['category_id'] for item in data['annotations']] == [1, 3, 3]


def test_order_of_a_shipped_config(root):
    data = run(root, '--config', 'mmext::yolox/yolox_nano_1xb8-60e_bccd.py')
    assert [category['name'] for category in data['categories']] == ['RBC', 'WBC', 'Platelets']


@pytest.mark.parametrize(
    'dataset', ["dict(type='CocoDataset')", 'None', f"dict(datasets=[{LEAF}, dict(metainfo=dict(classes=('RBC',)))])"]
)
def test_config_without_an_order(root, dataset, capsys):
    error = fail(root, capsys, '--config', write_config(root, dataset))
    assert 'no single train_dataloader.dataset.metainfo.classes' in error and '--classes' in error


def test_config_or_classes(root, capsys):
    assert 'not allowed with' in fail(root, capsys, '--config', 'mine.py', '--classes', 'RBC')


def test_no_such_config(root, capsys):
    assert "no config 'none.py'" in fail(root, capsys, '--config', 'none.py')


def test_missing_split(root, capsys):
    assert 'test.txt is missing; available splits: train, val' in fail(root, capsys, '--split', 'test')


def test_missing_folder(root, capsys):
    assert 'Annotations is missing; VOC_ROOT must be' in fail(root / 'JPEGImages', capsys)


def test_missing_annotation_file(root, capsys):
    (root / 'Annotations' / 'a.xml').unlink()
    assert 'a.xml is missing, but' in fail(root, capsys, '--split', 'train')


def test_missing_image(root, capsys):
    (root / 'JPEGImages' / 'a.jpg').unlink()
    assert "holds neither 'a' nor 'a.jpg'" in fail(root, capsys)


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('</annotation>', '', 'c.xml is not valid xml'),
        ('<xmin>5</xmin>', '', 'c.xml: an object lacks <bndbox/xmin>'),
        ('<xmin>5</xmin>', '<xmin>five</xmin>', "c.xml: <bndbox/xmin> is 'five'"),
        ('<name>Platelets</name>', '', 'c.xml: an object lacks <name>'),
    ],
)
def test_broken_xml(root, old, new, message, capsys):
    path = root / 'Annotations' / 'c.xml'
    path.write_text(path.read_text().replace(old, new))
    assert message in fail(root, capsys)


def test_entities_that_expand_without_end(root, capsys):
    entities = '\n'.join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    xml = f'<!DOCTYPE annotation [<!ENTITY e0 "{"x" * 100}">{entities}]><annotation>&e12;</annotation>'
    (root / 'Annotations' / 'c.xml').write_text(xml)
    assert 'c.xml is not valid xml (limit on input amplification factor' in fail(root, capsys)


def test_entities_that_name_a_file(root, capsys, tmp_path):
    (tmp_path / 'secret').write_text('secret')
    path = root / 'Annotations' / 'c.xml'
    xml = path.read_text().replace('<name>Platelets', '<name>&file;')
    path.write_text(f'<!DOCTYPE annotation [<!ENTITY file SYSTEM "file://{tmp_path}/secret">]>{xml}')
    assert 'c.xml is not valid xml (undefined entity &file;' in fail(root, capsys)
