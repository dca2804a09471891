"""Checkpoints: loaded as data, written whole or not at all, found again after an interruption.

* :mod:`~mmext.checkpoints.loading`: load a checkpoint without running code from it.
* :mod:`~mmext.checkpoints.types`: the types that a checkpoint may hold besides torch's own.
* :mod:`~mmext.checkpoints.saving`: write a file so that a crash leaves either the old one or the new one.
* :mod:`~mmext.checkpoints.resuming`: find the newest checkpoint that loads.
"""

from .loading import CheckpointError, load_checkpoint, register_loaders
from .resuming import newest_checkpoint
from .saving import write_atomically

__all__ = ['CheckpointError', 'load_checkpoint', 'newest_checkpoint', 'register_loaders', 'write_atomically']
