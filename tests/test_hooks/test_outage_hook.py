"""Trainings whose files go away, and whose workers are killed."""

import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import Dataset
from toy_training import LENGTH, call_at, differences, in_a_process, status_of, toy_runner

from mmext import outages
from mmext.checkpoints import load_checkpoint, newest_checkpoint
from mmext.cli.common import one_message
from mmext.cli.explain import explain
from mmext.errors import UserError
from mmext.visualization.scalars import read_scalars


@DATASETS.register_module()
class ToyImages(Dataset):
    """The means of the rows of images, with a random part."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.pipeline = [LoadImageFromFile()]

    def __len__(self):
        return 2 * LENGTH

    def __getitem__(self, index):
        image = self.pipeline[0]({'img_path': str(self.folder / f'{index}.jpg')})['img']
        return dict(inputs=torch.from_numpy(image).float().mean((1, 2))[:4] / 255 + torch.rand(4))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'share'
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(2 * LENGTH):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f'{index}.jpg')
    return folder


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / 'run'


# In the second of three epochs.
IN_AN_EPOCH = 'before_train_iter', LENGTH + 1
AT_ITS_START = 'before_train_epoch', LENGTH
IN_A_SAVE = 'before_save_checkpoint', 2 * LENGTH
IN_A_VALIDATION = 'before_val_epoch', LENGTH


def train(work_dir, images, change=lambda: None, at=IN_AN_EPOCH, patience=(60, 3), **options):
    """Train in a process in which something changes, and return the exit status."""

    def prepare():
        outages.SECONDS_FOR_A_FILE_SYSTEM, outages.SECONDS_FOR_A_FILE = patience
        call_at(*at, lambda runner: change())()

    dataset = dict(type='ToyImages', folder=str(images))
    process = in_a_process(
        lambda: toy_runner(work_dir, dataset=dataset, **options).train(), work_dir.with_suffix('.out'), prepare
    )
    return status_of(process)


def away(folder, seconds=None):
    """What renames a folder, and names it back after a while."""

    def change():
        folder.rename(folder.with_name('away'))
        if seconds:
            threading.Timer(seconds, folder.with_name('away').rename, [folder]).start()

    return change


def output(work_dir):
    return work_dir.with_suffix('.out').read_text()


def message(work_dir):
    """The message of a training that ended, without a traceback, and with a checkpoint to resume from."""
    text = output(work_dir)
    assert 'Traceback' not in text
    (found,) = re.findall('^mmext: error: (.*)', text, re.MULTILINE)
    assert text.rstrip().endswith(found)
    return found


def check_checkpoint(work_dir):
    assert load_checkpoint(newest_checkpoint(work_dir))['meta']['epoch'] == 1


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_are_away_for_a_while(workers, images, work_dir):
    """The result is the same, bit by bit. A worker has read ahead; the next epoch's find the folder gone."""
    undisturbed = work_dir.with_name('undisturbed')
    assert train(undisturbed, images, workers=workers) == 0
    assert train(work_dir, images, away(images, 2), workers=workers) == 0, output(work_dir)
    warnings = re.findall(r'(\S+\.jpg): No such file or directory\. Trying again', output(work_dir))
    assert warnings and set(warnings) <= {str(images / f'{index}.jpg') for index in range(2 * LENGTH)}
    ours, theirs = (load_checkpoint(folder / 'epoch_3.pth') for folder in (work_dir, undisturbed))
    assert differences(ours, theirs) == []


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_stay_away(workers, images, work_dir):
    status = train(work_dir, images, away(images), workers=workers, patience=(1, 1))
    assert status == 2, output(work_dir)
    assert re.match(rf'cannot read the image {images}/\d\.jpg: No such file or directory\. Put', message(work_dir))
    assert '--resume continues' in message(work_dir)
    if not workers:
        check_checkpoint(work_dir)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize('change, reason', [(os.remove, 'No such file'), (cut, 'it is cut off after')])
@pytest.mark.parametrize('workers', [0, 2])
def test_one_image(change, reason, workers, images, work_dir):
    """Before the workers of the epoch start: one of them meets it."""
    status = train(work_dir, images, lambda: change(images / '3.jpg'), AT_ITS_START, (1, 0.2), workers=workers)
    assert status == 2, output(work_dir)
    assert message(work_dir).startswith(f'cannot read the image {images}/3.jpg: {reason}')


def test_an_image_of_the_validation(images, work_dir):
    status = train(work_dir, images, lambda: os.remove(images / '3.jpg'), IN_A_VALIDATION, (1, 0.1))
    assert status == 2
    assert message(work_dir).startswith(f'cannot read the image {images}/3.jpg: No such file')
    check_checkpoint(work_dir)


def kill_worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    # The signal that says so interrupts it.
    time.sleep(5)


def test_a_worker_that_is_killed(images, work_dir):
    assert train(work_dir, images, kill_worker, workers=2) == 2, output(work_dir)
    assert re.match(
        r'a worker process of a data loader \(pid \d+\) was killed: Killed. Most often the machine or its container '
        r'has no memory left. Give it more, or lower num_workers or batch_size of the data loader. The checkpoints are',
        message(work_dir),
    )
    check_checkpoint(work_dir)
    assert train(work_dir, images, workers=2, resume=True) == 0


@pytest.mark.parametrize('at, file', [(IN_A_SAVE, 'epoch_2.pth'), (IN_AN_EPOCH, '.json')])
def test_a_work_dir_that_is_away_for_a_while(at, file, images, work_dir):
    """Checkpoints and records wait; nothing is written to a folder that was made meanwhile."""
    assert train(work_dir, images, away(work_dir, 2), at) == 0, output(work_dir)
    assert f'{file}: No such file or directory. Trying again' in output(work_dir)
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    (log_dir,) = (path.parents[1] for path in work_dir.glob('*/vis_data/scalars.json'))
    assert [record['toy/epoch'] for record in read_scalars(log_dir, False) if 'toy/epoch' in record] == [0, 1, 2]


@pytest.mark.parametrize(
    'at, words', [(IN_A_SAVE, 'save the checkpoint .*epoch_2.pth'), (IN_AN_EPOCH, r'write to .*\.json')]
)
def test_a_work_dir_that_stays_away(at, words, images, work_dir):
    assert train(work_dir, images, away(work_dir), at, (1, 1)) == 2, output(work_dir)
    assert re.match(rf'cannot {words}: No such file or directory\. The .*--resume', message(work_dir))
    check_checkpoint(work_dir.with_name('away'))
    assert not work_dir.exists()


def test_only_files_of_the_work_dir_are_its_files(tmp_path):
    with pytest.raises(UserError, match=r'write to .*/gone/x: .*bring the folder back'), one_message(str(tmp_path)):
        (tmp_path / 'gone' / 'x').read_bytes()
    with pytest.raises(FileNotFoundError), one_message(str(tmp_path / 'run')):
        (tmp_path / 'x').read_bytes()


def test_a_disk_without_shared_memory():
    text = (
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        'of shared memory. Please try to raise your shared memory limit.'
    )
    found = explain(RuntimeError(text))
    assert found.startswith('a worker process of a data loader (pid 12) was killed: Bus error. The shared memory, /dev')
    assert '--shm-size' in found
    ended = explain(RuntimeError('DataLoader worker (pid(s) 1, 2) exited unexpectedly'))
    assert ended.startswith('a worker process of a data loader (pid 1, 2) ended. Most often')
