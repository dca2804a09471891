"""Load a checkpoint without running code from it."""

import io
import os
import pickle
import re
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.runner import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from mmengine.runner.checkpoint import _get_mmengine_home, _process_mmcls_checkpoint
from torch import _weights_only_unpickler

from mmext.compat import HAS_SAFE_LOADING
from mmext.errors import MissingFileError, UserError

from .types import ALLOWED, Array, resolve

REMEDY = 'If you trust whoever made the file, and the way that it came to you, load it with --trust-checkpoint'


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded, or that holds more than data."""


def load_checkpoint(
    file: str | os.PathLike | BinaryIO, map_location: object = 'cpu', trust: bool = False, name: str = ''
) -> dict:
    """Load a checkpoint without running code from it.

    It may hold tensors and what they are made of, numbers, strings, dicts, lists, tuples, numpy numbers and arrays of
    numbers, and mmengine's HistoryBuffer: the checkpoints of mmengine 0.1 and later, of MMDetection's model zoo, and
    of torch before its zip format. A file with any other type is refused before an object of that type is made.

    `meta['config']`, which MMDetection 2 wrote, is left out: mmengine runs it as Python when it resumes.

    Args:
        file: The path, or the open binary file.
        map_location: Where to put the tensors, as in :func:`torch.load`.
        trust: Load whatever the pickle says, and run the code that it names.
        name: What to call an open file in messages.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If the file is damaged, is no checkpoint, or holds a type that a checkpoint may not hold.
    """
    name = name or str(file)
    if isinstance(file, (str, os.PathLike)):
        if not Path(file).is_file():
            raise MissingFileError(f'there is no checkpoint {name}')
        with open(file, 'rb') as opened:
            return load_checkpoint(opened, map_location, trust, name)
    try:
        _check_container(file)
        checkpoint = _load(file, map_location, trust)
    except MemoryError as error:
        raise CheckpointError(f'{name} does not fit into memory: {error}') from error
    except Exception as error:
        # The content is arbitrary, so almost any exception can come of it. All of them mean the same.
        raise CheckpointError(_explain(name, error)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{name} holds a {type(checkpoint).__name__}, and a checkpoint is a dict: not loaded')
    meta = checkpoint.get('meta')
    if not trust and isinstance(meta, dict) and meta.pop('config', None):
        print_log(f"Left out meta['config'] of {name}, which mmengine would run", logger='current')
    return checkpoint


def _check_container(file: BinaryIO) -> None:
    """Check the archive before torch opens it.

    torch neither verifies checksums nor limits what compressed records grow to; it never writes any.
    """
    start = file.read(8)
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    if not size:
        raise ValueError('the file is empty')
    if start.startswith(b'PK\x03\x04'):
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.filename.endswith('/constants.pkl') for record in records):
                raise ValueError('Unsupported global: GLOBAL TorchScript was not allowed')
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError('its records are compressed, and torch compresses none')
            if sum(record.file_size for record in records) > size:
                raise ValueError('its records claim to be larger than the file')
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f'the checksum of its record {damaged} is wrong')
    # The pickle of torch's format before zip starts with its protocol and a magic number.
    elif not start.startswith(b'\x80'):
        if tarfile.is_tarfile(file):
            raise ValueError('it is a tar file, the format of torch before 0.1.10: save it again with a newer torch')
        raise ValueError(f'it starts with {start!r}, as no file of torch does')
    file.seek(0)


def _load(file: BinaryIO, map_location: object, trust: bool) -> object:
    if trust:
        return torch.load(file, map_location=map_location, weights_only=False)
    if HAS_SAFE_LOADING:
        with torch.serialization.safe_globals([(value, name) for name, value in ALLOWED.items()]):
            return resolve(torch.load(file, map_location=map_location, weights_only=True))
    return resolve(torch.load(file, map_location=map_location, pickle_module=_PICKLE, weights_only=False))


def _explain(name: str, error: Exception) -> str:
    refused = re.search(r'GLOBAL (.+?) (?:was not|whose)', str(error))
    if refused:
        return (
            f'{name} was not loaded: it holds {refused[1]}, and loading that can run code. A checkpoint holds tensors, '
            f'numbers, strings, and the logs of mmengine. {REMEDY}'
        )
    if isinstance(error, pickle.UnpicklingError):
        reason = str(error).split('WeightsUnpickler error: ')[-1].strip().splitlines()[0]
        return f'{name} was not loaded: its pickle does more than list data ({reason}). {REMEDY}'
    if isinstance(error, zipfile.BadZipFile):
        return f'{name} was not loaded: it is cut off, or was not written to its end ({error})'
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f'{name} was not loaded, because it is damaged or no checkpoint: {reason}'


class _Unpickler(pickle._Unpickler):
    """An unpickler for torch before 2.7: calls and fills nothing but what :data:`ALLOWED` and torch's list name.

    Python's C unpickler cannot be told which objects may be called, so this is the one in Python.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        self.found: list[object] = []

    def find_class(self, module: str, name: str) -> object:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f'{module}.{name}'
        allowed = {**_weights_only_unpickler._get_allowed_globals(), **ALLOWED}
        if full not in allowed:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {full} was not allowed')
        self.found.append(allowed[full])
        return allowed[full]

    def _check(self, value: object, operation: str) -> None:
        if not any(value is each for each in self.found):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {value!r} was not allowed for {operation}')

    def load_reduce(self) -> None:
        self._check(self.stack[-2], 'a call')
        super().load_reduce()

    def load_build(self) -> None:
        kind = type(self.stack[-2])
        if kind not in (torch.Tensor, torch.nn.Parameter, OrderedDict, Array):
            self._check(kind, 'a state')
        super().load_build()

    dispatch.update({pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build})


_PICKLE = SimpleNamespace(
    __name__=__name__, Unpickler=_Unpickler, load=lambda file, **arguments: _Unpickler(file, **arguments).load()
)


def register_loaders(trust: bool = False) -> None:
    """Make mmengine load all checkpoints by :func:`load_checkpoint`: `load_from`, `--resume`, `init_cfg`, and its own.

    mmengine's loaders fall back to running the pickle.

    Args:
        trust: Load whatever the pickles say, and run the code that they name.
    """

    def load_from_local(filename: str, map_location: object = None) -> dict:
        return load_checkpoint(Path(filename).expanduser(), map_location, trust)

    def load_from_http(filename: str, map_location: object = None) -> dict:
        return load_checkpoint(_download(filename), map_location, trust, filename)

    def load_from_ceph(filename: str, map_location: object = None) -> dict:
        content = get_file_backend(filename, backend_args=dict(backend='petrel')).get(filename)
        return load_checkpoint(io.BytesIO(content), map_location, trust, filename)

    def load_from_zoo(filename: str, map_location: object = None) -> dict:
        scheme, model = filename.split('://', 1)
        if scheme in ('modelzoo', 'torchvision'):
            return load_from_http(get_torchvision_models()[model], map_location)
        if scheme == 'mmcls':
            return _process_mmcls_checkpoint(load_from_http(get_mmcls_models()[model], map_location))
        address = get_external_models()[get_deprecated_model_names().get(model, model)]
        if '://' not in address:
            return load_from_local(Path(_get_mmengine_home(), address), map_location)
        return load_from_http(address, map_location)

    def load_from_pavi(filename: str, map_location: object = None) -> dict:
        raise CheckpointError(f'{filename} cannot be loaded without running its pickle: download it, and name the file')

    loaders = {
        '': load_from_local,
        ('http://', 'https://'): load_from_http,
        (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): load_from_ceph,
        ('modelzoo://', 'torchvision://', 'openmmlab://', 'open-mmlab://', 'mmcls://'): load_from_zoo,
        'pavi://': load_from_pavi,
    }
    for prefixes, loader in loaders.items():
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def _download(address: str) -> Path:
    """The file of an address in torch's cache, where mmengine keeps its downloads too."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(address.split('?')[0]).name)
    if is_main_process() and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {address} to {path}', logger='current')
        torch.hub.download_url_to_file(address, str(path), progress=False)
    barrier()
    return path
