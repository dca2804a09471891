"""Write a file so that a crash leaves either the old one or the new one."""

import os
import secrets
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmext.outages import wait_out

TEMPORARY = '.tmp'


def write_atomically(path: str | os.PathLike, content: bytes, make_folder: bool = True) -> None:
    """Write the content to a temporary file in the same folder, flush it to the disk, and rename it.

    Whatever happens, the path names its old content or all of the new.

    Args:
        path: The file.
        content: What to write.
        make_folder: Make the folder of the file if need be.

    Raises:
        OSError: If the content cannot be written: the path is as it was, and the temporary file is gone.
    """
    path = Path(path)
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Not a guessable name, and no file that is there already: somebody else might own it.
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(8)}{TEMPORARY}')
    try:
        # Unlike tempfile's, this file has the permissions that the user's umask gives.
        with open(temporary, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def write_patiently(path: str | os.PathLike, content: bytes) -> None:
    """:func:`write_atomically` to a folder that was there: if it is away, it is waited for, and not made anew.

    Args:
        path: The file.
        content: What to write.

    Raises:
        OSError: If the content cannot be written.
    """
    wait_out(lambda: write_atomically(path, content, make_folder=False), path)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files of saves that were killed."""
    for file in Path(folder).glob(f'.*{TEMPORARY}'):
        # The random part keeps other programs' files safe.
        if len(file.name.split('.')[-2]) == 16:
            file.unlink(missing_ok=True)


class AtomicBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_patiently`: `backend_args=dict(backend='mmext_atomic')`."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        write_patiently(filepath, obj)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        write_patiently(filepath, obj.encode(encoding))


ATOMIC = 'mmext_atomic'
register_backend(ATOMIC, AtomicBackend, force=True)
