"""A file is written whole, or not at all."""

import errno
import os
import stat

import pytest
from mmengine.fileio import get_file_backend

from mmext.checkpoints import saving, write_atomically


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')
    return path


def test_replaces_the_content(file):
    write_atomically(file, b'new')
    assert file.read_bytes() == b'new'
    assert os.listdir(file.parent) == [file.name]


def test_makes_the_folder(tmp_path):
    write_atomically(tmp_path / 'a' / 'b' / 'epoch_1.pth', b'new')
    assert (tmp_path / 'a' / 'b' / 'epoch_1.pth').read_bytes() == b'new'


def test_flushes_before_it_renames(file, monkeypatch):
    """The name must not reach the disk before the content does; the folder's own flush comes last."""
    calls = []
    for name in ('fsync', 'replace'):
        function = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, name=name, function=function: calls.append(name) or function(*given)
        )
    write_atomically(file, b'new')
    assert calls == ['fsync', 'replace', 'fsync']


@pytest.mark.parametrize('name', ['fsync', 'replace'])
@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
def test_keeps_the_old_content(name, error, file, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(type(error)):
        write_atomically(file, b'new')
    assert file.read_bytes() == b'old'
    assert os.listdir(file.parent) == [file.name]


def test_the_temporary_file_is_in_the_same_folder_and_cannot_be_guessed(file, monkeypatch):
    seen = []
    monkeypatch.setattr(os, 'replace', lambda source, target: seen.append(source))
    write_atomically(file, b'new')
    write_atomically(file, b'new')
    assert {path.parent for path in seen} == {file.parent} and len({path.name for path in seen}) == 2
    assert all(len(path.name) == len('.epoch_1.pth..tmp') + 16 for path in seen)


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / 'epoch_1.pth', b'new')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'epoch_1.pth').stat().st_mode) == 0o640


def test_removes_only_its_own_leftovers(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', lambda *_: None)
        write_atomically(file, b'killed')
    others = ['.vimrc.tmp', 'epoch_2.pth.tmp', '.epoch_1.pth.short.tmp']
    for name in others:
        (file.parent / name).touch()
    assert len(os.listdir(file.parent)) == 5
    saving.remove_leftovers(file.parent)
    assert sorted(os.listdir(file.parent)) == sorted([file.name, *others])


def test_backend_of_mmengine(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(saving, 'write_atomically', lambda *given, **options: written.append((*given, options)))
    backend = get_file_backend(str(tmp_path), backend_args=dict(backend=saving.ATOMIC))
    backend.put(b'new', 'a')
    backend.put_text('neu', 'b')
    # A folder that is gone is not made anew: the file would not be where the others are.
    assert written == [('a', b'new', {'make_folder': False}), ('b', b'neu', {'make_folder': False})]
