"""A file system that is away is waited for; nothing else is."""

import errno
import threading

import pytest

from mmext import outages
from mmext.outages import IncompleteFileError, patience, wait_out


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'share' / 'image.jpg'
    path.parent.mkdir()
    path.write_bytes(b'content')
    return path


def waits(monkeypatch, file_system, file):
    monkeypatch.setattr(outages, 'SECONDS_FOR_A_FILE_SYSTEM', file_system)
    monkeypatch.setattr(outages, 'SECONDS_FOR_A_FILE', file)


def test_waits_for_a_folder_that_comes_back(file, log):
    away = file.parent.with_name('away')
    file.parent.rename(away)
    timer = threading.Timer(0.5, away.rename, [file.parent])
    timer.start()
    assert wait_out(file.read_bytes, file) == b'content'
    timer.join()
    (warning,) = [record.getMessage() for record in log.records]
    assert warning == f'{file}: No such file or directory. Trying again for up to 60 s'


def test_gives_up_in_the_end(file, log, monkeypatch):
    waits(monkeypatch, file_system=0.3, file=0)
    file.parent.rename(file.parent.with_name('away'))
    with pytest.raises(FileNotFoundError):
        wait_out(file.read_bytes, file)
    assert len(log.records) == 1


def test_a_file_that_works_is_read_once(file, log):
    calls = []
    wait_out(lambda: calls.append(file.read_bytes()), file)
    assert calls == [b'content'] and not log.records


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES, errno.EFBIG, errno.EROFS, errno.EISDIR])
def test_does_not_wait_where_waiting_does_not_help(number, file):
    assert patience(OSError(number, 'no'), file.parent) == 0


@pytest.mark.parametrize('number', [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_waits_long_for_a_device_or_a_network(number, file):
    assert patience(OSError(number, 'no'), file.parent) == 60


def test_a_file_alone_is_soon_given_up(file):
    missing = FileNotFoundError(errno.ENOENT, 'no')
    assert patience(missing, file.parent) == patience(IncompleteFileError('cut off'), file.parent) == 3
    # The empty folder is what is left of a share that is not mounted.
    file.unlink()
    assert patience(missing, file.parent) == 60
    file.parent.rmdir()
    assert patience(missing, file.parent) == 60
