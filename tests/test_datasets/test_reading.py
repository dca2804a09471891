"""Images that are gone or cut off are named."""

import pickle
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import Compose, LoadImageFromFile, RandomChoice, Resize, TestTimeAug
from mmengine.fileio import get

from mmext import outages
from mmext.datasets import reading
from mmext.datasets.reading import BACKEND, BackendArguments, image_loaders, watch_images
from mmext.errors import UnreadableFileError


def encoded(suffix):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(outages, 'SECONDS_FOR_A_FILE_SYSTEM', 0.2)
    monkeypatch.setattr(outages, 'SECONDS_FOR_A_FILE', 0.1)


@pytest.fixture
def load(tmp_path):
    """The transform with what is watched in it, on a file with this content."""
    transform = LoadImageFromFile()
    watch_images([transform])

    def call(name, content):
        (tmp_path / name).write_bytes(content)
        return transform({'img_path': str(tmp_path / name)})['img']

    return call


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_reads_what_is_whole(suffix, load):
    content = encoded(suffix)
    np.testing.assert_array_equal(load(f'a{suffix}', content), mmcv.imfrombytes(content))


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('part', [0, 0.02, 0.5, 0.99])
def test_names_what_is_cut_off(suffix, part, load, tmp_path):
    content = encoded(suffix)
    content = content[: int(part * len(content))]
    with pytest.raises(UnreadableFileError) as error:
        load(f'a{suffix}', content)
    message = f'cannot read the image {tmp_path}/a{suffix}: it is cut off after {len(content)} bytes. Put the file back'
    assert str(error.value).startswith(message)


def test_opencv_alone_does_not_say_what_is_wrong(tmp_path):
    """What the above is against. Of half a JPEG, version 4.8 makes an image all the same."""
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(cv2.error) as error:
        LoadImageFromFile()({'img_path': str(tmp_path / 'a.jpg')})
    assert 'a.jpg' not in str(error.value)


def test_bytes_behind_the_end_are_no_fault(load, monkeypatch):
    """Some cameras write them. Such a file is decoded once more for it, not each time."""
    decoded = []
    monkeypatch.setattr(reading, 'is_incomplete', lambda content: decoded.append(content))
    for _ in range(3):
        assert load('a.jpg', encoded('.jpg') + bytes(range(100))).shape == (64, 64, 3)
    assert len(decoded) == 1
    monkeypatch.undo()
    assert not reading.is_incomplete(encoded('.jpg') + bytes(range(100)))


def test_names_what_is_missing(tmp_path):
    (tmp_path / 'other.jpg').touch()
    path = str(tmp_path / 'a.jpg')
    with pytest.raises(UnreadableFileError, match=f'cannot read the image {path}: No such file or directory'):
        get(path, backend_args=BackendArguments(backend=BACKEND))


def test_files_of_other_machines_go_to_mmengine(monkeypatch):
    monkeypatch.setattr(reading, 'get', lambda path: path.upper())
    assert get('s3://bucket/a.jpg', backend_args=dict(backend=BACKEND)) == 'S3://BUCKET/A.JPG'


def test_finds_the_transforms_wherever_they_are():
    loads = [LoadImageFromFile() for _ in range(4)]
    own = LoadImageFromFile(backend_args=dict(backend='local'))
    pipeline = Compose([loads[0], own, RandomChoice([[loads[1]], [Resize((8, 8))]])])
    inner = SimpleNamespace(pipeline=pipeline, data_list=[object()])
    outer = SimpleNamespace(dataset=SimpleNamespace(datasets=[inner]), pipeline=[loads[2]])
    augment = TestTimeAug([[dict(type='Resize', scale=(8, 8))], [dict(type='Resize', scale=(4, 4))]])
    augment.subroutines[0].transforms.append(loads[3])
    outer.pipeline.append(augment)
    assert set(image_loaders(outer)) == {*loads, own}
    watch_images(outer)
    assert all(load.backend_args == dict(backend=BACKEND) for load in loads)
    assert own.backend_args == dict(backend='local')


def test_a_spawned_worker_has_the_backend():
    """Unpickling the arguments imports the module that registers it."""
    transform = LoadImageFromFile()
    watch_images([transform])
    assert b'mmext.datasets.reading' in pickle.dumps(transform)
