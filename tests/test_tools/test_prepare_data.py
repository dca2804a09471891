import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

PATH = Path(__file__).parents[2] / 'tools' / 'prepare_data.py'


def load_tool():
    spec = importlib.util.spec_from_file_location('prepare_data', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare_data = load_tool()


def run(dataset, source, out_dir, *options):
    prepare_data.main([dataset, str(source), str(out_dir), *options])
    return {split: json.loads((out_dir / 'annotations' / f'{split}.json').read_text()) for split in ('train', 'val')}


def fail(capsys, dataset, source, out_dir, *options):
    with pytest.raises(SystemExit):
        run(dataset, source, out_dir, *options)
    assert not (out_dir / 'annotations').exists()
    return capsys.readouterr().err


def boxes(data):
    return [(item['image_id'], item['category_id'], item['bbox'], item['area']) for item in data['annotations']]


class TestAquarium:
    @pytest.fixture
    def source(self, tmp_path):
        source = tmp_path / 'aquarium'
        for folder in ('train', 'valid'):
            for kind in ('images', 'labels'):
                (source / folder / kind).mkdir(parents=True)
        (source / 'data.yaml').write_text("nc: 2\nnames: ['fish', 'shark']\n")
        self.write(source, 'train', 'b', (1024, 768), '1 0.5 0.25 0.25 0.125\n\n0 0.1 0.5 0.4 0.1\n')
        self.write(source, 'train', 'a', (576, 1024), None)
        self.write(source, 'valid', 'c', (1024, 768), '0 0.2734375 0.5 0.33984375 0.125')
        return source

    def write(self, source, folder, stem, size, labels):
        cv2.imwrite(str(source / folder / 'images' / f'{stem}.jpg'), np.full((*size, 3), 128, np.uint8))
        if labels is not None:
            (source / folder / 'labels' / f'{stem}.txt').write_text(labels)

    def test_scales_images_and_boxes(self, source, tmp_path):
        data = run('aquarium', source, tmp_path / 'out')
        assert data['train']['images'] == [
            dict(id=1, file_name='train_000.jpg', width=448, height=252),
            dict(id=2, file_name='train_001.jpg', width=336, height=448),
        ]
        for image in data['train']['images'] + data['val']['images']:
            written = cv2.imread(str(tmp_path / 'out' / 'images' / image['file_name']))
            assert written.shape == (image['height'], image['width'], 3)
        # The second box would begin 33.6 px left of the image.
        assert boxes(data['train']) == [
            (2, 2, [126.0, 84.0, 84.0, 56.0], 4704.0),
            (2, 1, [0, 201.6, 100.8, 44.8], 4515.84),
        ]
        assert boxes(data['val']) == [(1, 1, [34.78, 196.0, 114.19, 56.0], 6394.5)]

    def test_ids_count_from_one_in_the_order_of_the_names(self, source, tmp_path):
        data = run('aquarium', source, tmp_path / 'out')
        assert [item['id'] for item in data['train']['annotations']] == [1, 2]
        assert data['train']['categories'] == data['val']['categories']
        assert data['train']['categories'] == [dict(id=1, name='fish'), dict(id=2, name='shark')]

    @pytest.mark.parametrize(
        ('line', 'message'),
        [
            ('2 0.5 0.5 0.1 0.1', 'line 1: class 2 is not one of the 2'),
            ('0 0.5 0.5', 'is not "class x y width height"'),
        ],
    )
    def test_refuses_labels_that_it_cannot_read(self, source, tmp_path, capsys, line, message):
        (source / 'train' / 'labels' / 'b.txt').write_text(line)
        assert message in fail(capsys, 'aquarium', source, tmp_path / 'out')

    @pytest.mark.parametrize('missing', ['data.yaml', 'valid/images', 'train/labels'])
    def test_names_what_is_missing(self, source, tmp_path, capsys, missing):
        (source / missing).rename(tmp_path / 'away')
        assert f'{source / missing} is missing; check SOURCE' in fail(capsys, 'aquarium', source, tmp_path / 'out')


class TestHituav:
    @pytest.fixture
    def source(self, tmp_path):
        source = tmp_path / 'hituav'
        (source / 'annotations').mkdir(parents=True)
        # The images are listed in another order than that of their names.
        train = {
            '1_b.jpg': [(0, [300, 100, 40, 10]), (1, [330, 300, 20, 30])],
            '0_a.jpg': [(4, [10, 10, 50, 50]), (3, [10, 250, 10, 10]), (0, [400, 20, 8, 16])],
            '2_empty.jpg': [],
        }
        self.write(source, 'train', 'train.json', train)
        self.write(source, 'val', 'instances_val.json', {'3_c.jpg': [(2, [600, 480, 30, 30])]})
        return source

    def write(self, source, split, file_name, objects):
        names = ('Person', 'Car', 'Bicycle', 'OtherVehicle', 'DontCare')
        data = dict(images=[], annotation=[], categories=[dict(id=i, name=name) for i, name in enumerate(names)])
        (source / split).mkdir()
        for image_id, (name, items) in enumerate(objects.items()):
            data['images'].append(dict(filename=name, height=512, width=640, id=image_id))
            for category_id, bbox in items:
                data['annotation'].append(dict(image_id=image_id, category_id=category_id, bbox=bbox))
            # Each quadrant has a shade of its own.
            image = np.kron(np.array([[50, 100], [150, 200]], np.uint8), np.ones((256, 320), np.uint8))
            cv2.imwrite(str(source / split / name), image)
        (source / 'annotations' / file_name).write_text(json.dumps(data))

    def test_cuts_quadrants(self, source, tmp_path):
        data = run('hituav', source, tmp_path / 'out', '--all')
        # By name and then column by column; DontCare is dropped, so the first quadrant of 0_a.jpg keeps one object.
        assert boxes(data['train']) == [
            (1, 4, [10, 250, 10, 6], 60),
            (2, 4, [10, 0, 10, 4], 40),
            (3, 1, [80, 20, 8, 16], 128),
            (4, 1, [300, 100, 20, 10], 200),
            (5, 1, [0, 100, 20, 10], 200),
            (6, 2, [10, 44, 20, 30], 600),
        ]
        assert boxes(data['val']) == [(1, 3, [280, 224, 30, 30], 900)]
        images = [cv2.imread(str(tmp_path / 'out' / 'images' / f'train_{i:03d}.jpg'), -1) for i in range(6)]
        assert all(image.shape == (256, 320) for image in images)
        assert [round(float(image.mean())) for image in images] == [50, 150, 100, 50, 100, 200]

    def test_categories_and_ids(self, source, tmp_path):
        data = run('hituav', source, tmp_path / 'out', '--all')
        names = [(category['id'], category['name']) for category in data['train']['categories']]
        assert names == [(1, 'Person'), (2, 'Car'), (3, 'Bicycle'), (4, 'OtherVehicle')]
        assert [item['id'] for item in data['train']['annotations']] == [1, 2, 3, 4, 5, 6]
        assert data['train']['images'][5] == dict(id=6, file_name='train_005.jpg', width=320, height=256)

    @pytest.mark.parametrize(('width', 'kept'), [(50, True), (51, False)])
    def test_keeps_an_object_of_which_two_fifths_are_seen(self, width, kept):
        assert bool(prepare_data.cut([(1, [300, 0, width, 10])], (0, 0))) is kept

    def test_selects_the_listed_quadrants_in_order(self, source, tmp_path, monkeypatch):
        codes = {'train': [[(2, [10, 44, 20, 30])], [(4, [10, 250, 10, 6])]], 'val': [[(3, [280, 224, 30, 30])]]}
        listed = {split: [prepare_data.fingerprint(item) for item in items] for split, items in codes.items()}
        monkeypatch.setattr(prepare_data, 'read_listed', listed.get)
        assert boxes(run('hituav', source, tmp_path / 'out')['train']) == [
            (1, 2, [10, 44, 20, 30], 600),
            (2, 4, [10, 250, 10, 6], 60),
        ]

    def test_refuses_a_source_without_the_listed_quadrants(self, source, tmp_path, capsys):
        message = fail(capsys, 'hituav', source, tmp_path / 'out')
        assert 'train.json lacks 480 of the 480 listed quadrants' in message
        assert '--all' in message

    def test_refuses_other_annotations(self, source, tmp_path, capsys):
        (source / 'annotations' / 'train.json').write_text(json.dumps(dict(images=[], categories=[])))
        assert "has neither 'annotation' nor 'annotations'" in fail(capsys, 'hituav', source, tmp_path / 'out', '--all')

    def test_refuses_images_of_another_size(self, source, tmp_path, capsys):
        cv2.imwrite(str(source / 'train' / '0_a.jpg'), np.zeros((256, 320), np.uint8))
        assert 'is 320 x 256 px, not 640 x 512' in fail(capsys, 'hituav', source, tmp_path / 'out', '--all')

    @pytest.mark.parametrize(
        ('split', 'corner', 'objects', 'index'),
        [
            # 1_100_40_0_06263.jpg
            ('train', (0, 0), [[147, 172, 8, 18], [137, 168, 10, 18], [129, 171, 9, 18]], 166),
            ('train', (320, 256), [[429, 369, 8, 16], [426, 351, 12, 16], [419, 365, 12, 17], [416, 357, 9, 21]], 167),
            # 0_100_50_0_08150.jpg
            ('train', (0, 256), [[307, 261, 8, 22], [308, 278, 12, 24]], 14),
            # 0_80_80_0_02266.jpg: half of the object is in the quadrant
            ('train', (320, 256), [[334, 245, 18, 22]], 155),
            # 1_60_60_0_00418.jpg
            ('train', (320, 256), [[321, 381, 21, 36]], 344),
        ],
    )
    def test_finds_published_objects_in_the_list(self, split, corner, objects, index):
        kept = prepare_data.cut([(1, box) for box in objects], corner)
        assert prepare_data.read_listed(split)[index] == prepare_data.fingerprint(kept)

    def test_the_list_names_every_quadrant_once(self):
        train, val = prepare_data.read_listed('train'), prepare_data.read_listed('val')
        assert (len(train), len(val), len({*train, *val})) == (480, 200, 680)


def test_does_not_overwrite(tmp_path, capsys):
    (tmp_path / 'annotations').mkdir()
    with pytest.raises(SystemExit):
        run('hituav', tmp_path, tmp_path)
    assert 'annotations exists; choose another OUT_DIR' in capsys.readouterr().err
