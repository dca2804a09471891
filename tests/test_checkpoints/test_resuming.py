"""`--resume` finds the newest checkpoint that loads."""

import os

import pytest
import torch

from mmext.checkpoints import CheckpointError, newest_checkpoint
from mmext.checkpoints.resuming import PARTS


class Odd:
    """A type that no checkpoint holds."""


@pytest.fixture
def make(tmp_path):
    """Save a checkpoint, each newer than the one before."""
    ages = iter(range(1_000, 2_000))

    def make(name, **others):
        path = tmp_path / name
        torch.save({**{part: {} for part in PARTS}, **others}, path)
        os.utime(path, (time := next(ages), time))
        return path

    return make


def test_the_newest(make, tmp_path):
    """Not the one with the largest number, nor the best, nor the one that `last_checkpoint` names."""
    for name in ('epoch_3.pth', 'epoch_1.pth', 'iter_7.pth', 'best_coco_bbox_mAP_epoch_9.pth'):
        make(name)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert newest_checkpoint(tmp_path) == tmp_path / 'iter_7.pth'


def test_of_the_same_age_the_largest_number(make, tmp_path):
    for name in ('epoch_2.pth', 'epoch_10.pth', 'epoch_9.pth'):
        os.utime(make(name), (1, 1))
    assert newest_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'


def test_names_in_last_checkpoint(make, tmp_path):
    """It may be in the folder `out_dir`, and the file may end in a line break."""
    (tmp_path / 'work_dir').mkdir()
    (tmp_path / 'work_dir' / 'last_checkpoint').write_text(f'{make("epoch_1.pth")}\n')
    assert newest_checkpoint(tmp_path / 'work_dir') == tmp_path / 'epoch_1.pth'


def test_skips_what_does_not_load_and_says_why(make, tmp_path, log):
    good = make('epoch_1.pth')
    make('epoch_2.pth', meta=Odd())
    cut = make('epoch_3.pth')
    cut.write_bytes(cut.read_bytes()[:-100])
    os.utime(cut, (1_500, 1_500))
    torch.save(dict(meta={}, state_dict={}), tmp_path / 'weights.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_4.pth'))
    assert newest_checkpoint(tmp_path) == good
    messages = '\n'.join(record.getMessage() for record in log.records)
    assert 'epoch_2.pth was not loaded: it holds test_resuming.Odd' in messages
    assert 'epoch_3.pth was not loaded: it is cut off' in messages
    assert 'weights.pth cannot be resumed: it has no optimizer, message_hub' in messages
    assert newest_checkpoint(tmp_path, trust=True) == tmp_path / 'epoch_2.pth'


def test_none_loads(make, tmp_path):
    make('epoch_1.pth', meta=Odd())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    with pytest.raises(CheckpointError, match=r'(?s)no checkpoint in .*Odd.*no checkpoint .*epoch_2.*--resume'):
        newest_checkpoint(tmp_path)


def test_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / 'none') is None
