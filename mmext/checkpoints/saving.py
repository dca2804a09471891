"""Write a file so that a crash leaves either the old one or the new one."""

import os
import secrets
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

TEMPORARY = '.tmp'


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write the content to a temporary file in the same folder, flush it to the disk, and rename it.

    Whatever happens, the path names its old content or all of the new.

    Args:
        path: The file. Its folder is made if need be.
        content: What to write.

    Raises:
        OSError: If the content cannot be written: the path is as it was, and the temporary file is gone.
    """
    path = Path(path)
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
    """mmengine's local files, written by :func:`write_atomically`: `backend_args=dict(backend='mmext_atomic')`."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        write_atomically(filepath, obj.encode(encoding))


ATOMIC = 'mmext_atomic'
register_backend(ATOMIC, AtomicBackend, force=True)
