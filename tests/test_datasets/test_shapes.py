import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmext.datasets import shapes
from mmext.errors import UserError

FEW = dict(train=4, val=3)


def read_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return shapes.make_split(tmp_path_factory.mktemp('shapes'), 'train', 200, 192, 0)


def test_same_seed_same_files(tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        shapes.draw(tmp_path / name, FEW, 96, seed)
    first, second, other = (read_files(tmp_path / name) for name in 'abc')
    assert len(first) == 4 + 3 + 2
    assert first == second
    assert all(first[path] != other[path] for path in first)


def test_train_and_val_differ(tmp_path):
    assert shapes.draw(tmp_path, FEW, 96, 0)
    train, val = ({path.read_bytes() for path in (tmp_path / split).iterdir()} for split in ('train', 'val'))
    assert len(train) == 4 and len(val) == 3
    assert not train & val


def test_class_shares(drawn):
    counts = np.bincount([item['category_id'] for item in drawn['annotations']], minlength=4)
    assert [category['name'] for category in drawn['categories']] == list(shapes.CLASSES)
    np.testing.assert_allclose(counts / counts.sum(), [0, 0.85, 0.10, 0.05], atol=0.025)


def test_objects_per_image(drawn):
    counts = np.bincount([item['image_id'] for item in drawn['annotations']], minlength=200)
    assert counts.min() >= 3 and counts.max() <= 9
    assert 6 <= counts.mean() <= 7


def test_sizes(drawn):
    sides = np.sqrt([item['area'] for item in drawn['annotations']])
    assert 0.30 <= np.mean(sides < 32) <= 0.50
    assert sides.max() <= 1.15 * 192 / 3
    assert sides.min() >= 5


def test_hidden_share(drawn):
    visible = np.array([item['visible'] for item in drawn['annotations']])
    assert visible.min() >= 0.6 and visible.max() <= 1
    assert 0.20 <= np.mean(visible < 0.95) <= 0.50


def test_boxes_lie_inside(drawn):
    x, y, width, height = np.array([item['bbox'] for item in drawn['annotations']]).T
    assert min(x.min(), y.min()) == 0
    assert min(width.min(), height.min()) > 0
    assert max((x + width).max(), (y + height).max()) == 192
    assert [item['area'] for item in drawn['annotations']] == (width * height).tolist()


def test_box_fits_the_drawing(monkeypatch):
    monkeypatch.setattr(shapes, 'draw_background', lambda rng, size: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(shapes, 'add_bar', lambda *args: None)
    for seed in range(5):
        image, objects = shapes.draw_image(np.random.default_rng(seed), 192)
        x, y, width, height = np.array([item.bbox for item in objects]).T
        shown = cv2.boundingRect((image.max(axis=2) > 60).astype(np.uint8))
        union = (x.min(), y.min(), (x + width).max() - x.min(), (y + height).max() - y.min())
        np.testing.assert_allclose(shown, union, atol=2)


def test_visible_fraction_of_a_partly_covered_shape():
    seen = np.zeros((20, 20), bool)
    seen[:10, :10] = True
    shape = shapes.Shape('circle', [0, 0, 10, 10], 100, seen)
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 7:] = 255
    assert shapes.cover([shape], mask)
    assert shape.visible == 0.7
    mask[:, 5:] = 255
    assert not shapes.cover([shape], mask)
    assert shape.visible == 0.7


def test_loads_with_pycocotools(tmp_path):
    assert '4 + 3 images' in shapes.draw(tmp_path, FEW, 96, 0)
    coco = COCO(tmp_path / 'annotations' / 'val.json')
    assert len(coco.getImgIds()) == 3
    assert coco.getCatIds(catNms=['star']) == [3]
    assert 0 not in coco.getAnnIds()
    for info in coco.loadImgs(coco.getImgIds()):
        image = cv2.imread(str(tmp_path / 'val' / info['file_name']))
        assert image.shape == (info['height'], info['width'], 3) == (96, 96, 3)


def test_second_run_does_nothing(tmp_path):
    shapes.draw(tmp_path, FEW, 96, 0)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}
    assert shapes.draw(tmp_path, FEW, 96, 0) is None
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}


def test_other_parameters_or_a_lost_image_draw_afresh(tmp_path):
    assert shapes.draw(tmp_path, FEW, 96, 0)
    files = read_files(tmp_path)
    (tmp_path / 'val' / '000001.jpg').unlink()
    assert shapes.draw(tmp_path, FEW, 96, 0)
    assert read_files(tmp_path) == files
    assert shapes.draw(tmp_path, FEW, 96, 1)
    assert json.loads((tmp_path / 'annotations' / 'val.json').read_text())['info']['seed'] == 1


def test_keeps_foreign_annotations(tmp_path):
    path = tmp_path / 'annotations' / 'train.json'
    path.parent.mkdir()
    path.write_text('{"images": []}')
    with pytest.raises(UserError, match=r'train\.json was not written by `mmext shapes`: choose another folder'):
        shapes.draw(tmp_path, FEW, 96, 0)
    assert path.read_text() == '{"images": []}'


def test_smallest_size():
    image, objects = shapes.draw_image(np.random.default_rng(0), 64)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert objects
