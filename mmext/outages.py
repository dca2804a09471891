"""Wait for a file system that is away, such as a network share that reconnects."""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mmengine.logging import print_log

T = TypeVar('T')

# How long to wait for a file system, and for a file that alone is missing or incomplete: it may be being replaced.
SECONDS_FOR_A_FILE_SYSTEM, SECONDS_FOR_A_FILE = 60.0, 3.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# What reading and writing end in while a network or FUSE file system is away.
AWAY = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNABORTED),
)


class IncompleteFileError(OSError):
    """A file whose end is missing."""


def wait_out(action: Callable[[], T], path: str | os.PathLike) -> T:
    """Call the action; while the file system is away, again for up to a minute, with a warning that names the file.

    Args:
        action: What reads or writes the file. It must be safe to repeat.
        path: The file.

    Returns:
        What the action returns.

    Raises:
        OSError: The last one of the action, if the time is over or waiting would not help.
    """
    start, pause, warned = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            return action()
        except OSError as error:
            limit = patience(error, Path(path).parent)
            if time.monotonic() - start >= limit:
                raise
            if not warned:
                warned = True
                print_log(
                    f'{path}: {error.strerror or error}. Trying again for up to {limit:.0f} s',
                    logger='current',
                    level=logging.WARNING,
                )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def patience(error: OSError, folder: Path) -> float:
    """The seconds for which to repeat what failed with this error.

    Args:
        error: The error.
        folder: The folder of the file. If it is gone or empty, the file system is away, not the file.
    """
    if isinstance(error, IncompleteFileError):
        return SECONDS_FOR_A_FILE
    if error.errno in AWAY:
        return SECONDS_FOR_A_FILE_SYSTEM
    if error.errno != errno.ENOENT:
        return 0
    try:
        with os.scandir(folder) as entries:
            return SECONDS_FOR_A_FILE if any(True for _ in entries) else SECONDS_FOR_A_FILE_SYSTEM
    except OSError:
        return SECONDS_FOR_A_FILE_SYSTEM
