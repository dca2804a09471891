"""`mmext predict`: pictures and JSON, unreadable images, checkpoints that do not fit."""

import io
import json
import os
import shutil

import mmcv
import numpy as np
import pytest
import torch
from detectors import CLASSES, SOFTMAX, build, detector, load, write_checkpoint, write_config
from mmdet.apis import DetInferencer
from pycocotools.coco import COCO
from rich.console import Console

from mmext.checkpoints import CheckpointError
from mmext.cli.common import read_config
from mmext.cli.predict import main
from mmext.cli.progress import track
from mmext.deployment.inference import find_images
from mmext.deployment.results import CocoIds
from mmext.errors import UserError


@pytest.fixture(scope='module')
def files(shapes, tmp_path_factory):
    return detector(tmp_path_factory.mktemp('detector'), shapes)


@pytest.fixture(scope='module')
def truth(shapes):
    return json.loads((shapes / 'annotations' / 'val.json').read_text())


def test_predicts_a_folder(files, shapes, truth, tmp_path, capsys):
    """Known and unknown images, in folders, and two files that are no images."""
    folder = tmp_path / 'link'
    folder.mkdir()
    for image in truth['images']:
        (folder / image['file_name']).symlink_to(shapes / 'val' / image['file_name'])
    (folder / 'sub').mkdir()
    shutil.copy(shapes / 'val' / truth['images'][0]['file_name'], folder / 'sub' / 'new.png')
    (folder / 'broken.png').write_bytes((folder / truth['images'][0]['file_name']).read_bytes()[:200])
    (folder / 'empty.jpg').write_bytes(b'')
    status = main([*map(str, files), str(folder), '--out', str(tmp_path / 'out'), '--device', 'cpu'])
    output = capsys.readouterr()
    assert status == 1
    assert 'broken.png was not read: it is damaged, or no image' in output.err
    assert 'empty.jpg was not read: the file is empty' in output.err
    assert '7 of 7 images' in output.err
    pictures = tmp_path / 'out' / 'pictures'
    assert (
        len([path for path in pictures.rglob('*') if path.is_file()]) == 5 and (pictures / 'sub' / 'new.png').exists()
    )
    detections = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    by_name = {detection['file_name']: detection['image_id'] for detection in detections}
    known = {image['file_name']: image['id'] for image in truth['images']}
    assert by_name == {**known, 'sub/new.png': max(known.values()) + 1}
    assert 'image_id is new for 1 images' in output.out


def test_ids_are_those_of_the_annotations(files, shapes, truth, tmp_path):
    """So that pycocotools evaluates the file, and finds mmdet's own predictions in it."""
    assert main([*map(str, files), str(shapes / 'val'), '--out', str(tmp_path), '--no-pictures']) == 0
    assert not (tmp_path / 'pictures').exists()
    detections = json.loads((tmp_path / 'predictions.json').read_text())
    image = truth['images'][1]
    own = [detection for detection in detections if detection['image_id'] == image['id']]
    assert own and {detection['file_name'] for detection in own} == {image['file_name']}
    known = {each['id'] for each in truth['images']}
    coco = COCO(shapes / 'annotations' / 'val.json')
    assert coco.loadRes([detection for detection in detections if detection['image_id'] in known]).anns
    theirs = DetInferencer(read_config(str(files[0])), str(files[1]), 'cpu', show_progress=False)
    found = theirs(str(shapes / 'val' / image['file_name']))['predictions'][0]
    assert [round(score, 5) for score in found['scores']] == [detection['score'] for detection in own]
    names = {category['id']: category['name'] for category in truth['categories']}
    assert [CLASSES[label] for label in found['labels']] == [names[each['category_id']] for each in own]
    assert own[0]['bbox'][2] == pytest.approx(found['bboxes'][0][2] - found['bboxes'][0][0], abs=0.01)


def test_batches_change_nothing(files, shapes, tmp_path):
    content = []
    for size in ('1', '3'):
        main([*map(str, files), str(shapes / 'val'), '--out', str(tmp_path / size), '--batch-size', size])
        content.append(json.loads((tmp_path / size / 'predictions.json').read_text()))
    assert [each['file_name'] for each in content[0]] == [each['file_name'] for each in content[1]]
    assert np.allclose([each['score'] for each in content[0]], [each['score'] for each in content[1]], atol=2e-5)


def test_ids_without_annotations():
    ids = CocoIds(('a', 'b'))
    assert ids.category_ids == [1, 2] and not ids.has_categories
    annotations = dict(images=[dict(file_name='x.jpg', id=7)], categories=[dict(name='b', id=5), dict(name='a', id=2)])
    ids = CocoIds(('a', 'b'), annotations, '/data')
    assert ids.category_ids == [2, 5] and ids.has_categories
    assert CocoIds(('a', 'c'), annotations).category_ids == [1, 2]


def test_draws_boxes_within_the_image(files, shapes):
    inferencer = load(*files)
    path = find_images(str(shapes / 'val'))[0]
    prediction = inferencer.predict([inferencer.prepare(str(path))])[0]
    prediction.pred_instances.bboxes[0] = torch.tensor([-1e9, 5, float('inf'), 1e4])
    picture = inferencer.draw(path, prediction, 0.0)
    image = mmcv.imread(path)
    assert picture.shape == image.shape
    assert (picture != image[..., ::-1]).any()
    assert prediction.pred_instances.bboxes[0, 0] == -1e9


def test_leaves_the_name_of_the_visualizer_to_trainings(files):
    """mmengine would give a training in the same process the inferencer's, which stores nothing."""
    inferencer = load(*files)
    assert inferencer.visualizer.instance_name != inferencer.source_config.visualizer.name


def test_refuses_a_checkpoint_that_does_not_fit(files, shapes, tmp_path):
    """mmdet would load the rest, and predict with random class layers."""
    other = write_config(tmp_path, shapes, classes=CLASSES[:2])
    with pytest.raises(UserError, match=r'multi_level_conv_cls.0.weight has the shape \(3, 16, 1, 1\), and .*\(2, 16'):
        load(other, files[1])
    torch.save(dict(weights={}), tmp_path / 'other.pth')
    with pytest.raises(UserError, match="has no weights in 'state_dict', only weights"):
        load(files[0], tmp_path / 'other.pth')
    softmax = detector(tmp_path, shapes, SOFTMAX)
    with pytest.raises(UserError, match='was trained with a softmax'):
        load(files[0], softmax[1])
    assert load(softmax[0], files[1]).model.bbox_head.softmax


def test_names_come_from_the_config_if_the_checkpoint_has_none(files, shapes, tmp_path):
    config = read_config(str(files[0]))
    checkpoint = write_checkpoint(tmp_path / 'nameless.pth', build(config), None)
    assert load(files[0], checkpoint).model.dataset_meta['classes'] == CLASSES
    named = write_checkpoint(tmp_path / 'named.pth', build(config), ('a', 'b', 'c'))
    assert load(files[0], named).model.dataset_meta['classes'] == ('a', 'b', 'c')


class Call:
    """An object whose pickle makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_runs_no_code_of_a_checkpoint(files, shapes, tmp_path):
    content = torch.load(files[1], weights_only=False)
    torch.save({**content, 'message_hub': Call(tmp_path / 'canary')}, tmp_path / 'hostile.pth')
    arguments = [str(files[0]), str(tmp_path / 'hostile.pth'), str(shapes / 'val'), '--out', str(tmp_path / 'out')]
    with pytest.raises(CheckpointError, match='mkdir'):
        main(arguments)
    assert not (tmp_path / 'canary').exists()
    main([*arguments, '--trust-checkpoint', '--no-pictures'])
    assert (tmp_path / 'canary').is_dir()


def test_refuses_what_has_no_images(tmp_path):
    (tmp_path / 'text.txt').touch()
    with pytest.raises(UserError, match='has no images'):
        find_images(str(tmp_path))
    with pytest.raises(UserError, match='no image or folder'):
        find_images(str(tmp_path / 'absent'))


@pytest.mark.parametrize('terminal', [False, True])
def test_shows_progress(terminal):
    """A line at each tenth without a terminal, a bar with the time left on one."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80)
    assert list(track(iter(range(45)), 45, 'images', console)) == list(range(45))
    output = text.getvalue()
    assert 'left' in output and ('45/45' if terminal else '45 of 45 images, 0:00:00 left') in output
    assert terminal or len(output.splitlines()) == 10
