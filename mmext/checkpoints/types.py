"""The types that a checkpoint may hold besides torch's own: numpy numbers and arrays, and mmengine's logs.

A pickle names functions and classes, and calls them with arguments of its own choice. So it gets none of numpy's and
mmengine's: each name stands for an object of this module, which takes plain data and checks it. mmengine's own list
admits `getattr`, which reaches everything.
"""

import re
from collections.abc import Callable

import numpy as np
from mmengine.logging import HistoryBuffer

# Booleans, integers, floats and complex numbers, of a size in bytes. Not objects: their arrays hold pointers.
_NUMBERS = re.compile(r'[biufc]\d{1,2}')


class Dtype:
    """Stands for `numpy.dtype`: the type of a number.

    numpy's own takes flags from the file that say whether the bytes of an array are pointers.
    """

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise ValueError(f'Unsupported global: GLOBAL numpy.dtype({name!r}) was not allowed')
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order in ('<', '>'):
            self.value = self.value.newbyteorder(order)


class Array:
    """Stands for a `numpy.ndarray` until :func:`resolve` replaces it by its value."""

    def __init__(self):
        self.value = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = np.frombuffer(_bytes(raw), _dtype(dtype)).reshape(shape, order='F' if fortran else 'C').copy('K')


class Ndarray:
    """Stands for the class `numpy.ndarray`, which is only ever an argument of :func:`reconstruct`."""


class History(HistoryBuffer):
    """Stands for mmengine's HistoryBuffer, and becomes one once its content is checked.

    A buffer in a file also lists its statistics, and mmengine adds those to the class: a file could replace `mean`
    for all buffers of the process. They are dropped; each HistoryBuffer has the standard ones.
    """

    def __setstate__(self, state: dict) -> None:
        values, counts, length = (state[name] for name in ('_log_history', '_count_history', 'max_length'))
        values, counts = resolve(values), resolve(counts)
        if not (isinstance(values, np.ndarray) and isinstance(counts, np.ndarray) and isinstance(length, int)):
            raise ValueError(f'a HistoryBuffer holds {type(values).__name__} and {type(counts).__name__} for arrays')
        self.__dict__.update(_log_history=values, _count_history=counts, max_length=length)
        self._set_default_statistics()
        self.__class__ = HistoryBuffer


class Hub:
    """Stands for mmengine's MessageHub, which mmengine before 0.2 saved whole; becomes the dict that it saves today."""

    def __setstate__(self, state: dict) -> None:
        self.value = {name: state[f'_{name}'] for name in ('log_scalars', 'runtime_info', 'resumed_keys')}


def reconstruct(kind: type, shape: tuple, typecode: bytes) -> Array:
    """Stands for numpy's `_reconstruct`, which makes the empty array that a state then fills."""
    if kind is not Ndarray:
        raise ValueError(f'Unsupported global: GLOBAL {kind!r} was not allowed as an array')
    return Array()


def scalar(dtype: Dtype, raw: bytes) -> np.generic:
    """Stands for numpy's `scalar`."""
    return np.frombuffer(_bytes(raw), _dtype(dtype), count=1)[0]


def empty_bytes() -> bytes:
    """Stands for `bytes`, by which a pickle writes empty ones."""
    return b''


def encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which torch's pickles write bytes: torch 2.1 does not allow it itself."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise ValueError(f'Unsupported global: GLOBAL _codecs.encode({text!r:.20}, {encoding!r}) was not allowed')
    return text.encode(encoding)


def statistic(kind: type, name: str) -> Callable:
    """Stands for `getattr`, which a HistoryBuffer needs to name its statistics, and nothing else may use."""
    if kind is not History or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'Unsupported global: GLOBAL getattr({kind!r}, {name!r}) was not allowed')
    return getattr(HistoryBuffer, name)


def _dtype(value: object) -> np.dtype:
    if not isinstance(value, Dtype):
        raise ValueError(f'an array has the type {value!r}')
    return value.value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f'the numbers of an array are {type(value).__name__}, not bytes')
    return value


ALLOWED = {
    '_codecs.encode': encode,
    'builtins.bytes': empty_bytes,
    'builtins.getattr': statistic,
    'mmengine.logging.history_buffer.HistoryBuffer': History,
    'mmengine.logging.message_hub.MessageHub': Hub,
    'numpy.dtype': Dtype,
    'numpy.ndarray': Ndarray,
    # numpy 2 renamed numpy.core.
    **{f'numpy.{core}.multiarray._reconstruct': reconstruct for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': scalar for core in ('core', '_core')},
    # Only the type of an object that the above made may have its state set.
    'mmext.checkpoints.types.Array': Array,
}


def resolve(node: object, seen: dict[int, object] | None = None) -> object:
    """Replace the stand-ins within dicts, lists and tuples by their values; dicts and lists are changed in place."""
    seen = {} if seen is None else seen
    if id(node) in seen:
        return seen[id(node)]
    if isinstance(node, (Array, Dtype)):
        return node.value
    if isinstance(node, Hub):
        return resolve(node.value, seen)
    if isinstance(node, History):
        raise ValueError('a HistoryBuffer has no content')
    if isinstance(node, (dict, list)):
        # Before its content, which may hold the container again.
        seen[id(node)] = node
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            node[key] = resolve(value, seen)
    elif type(node) is tuple:
        seen[id(node)] = tuple(resolve(value, seen) for value in node)
        return seen[id(node)]
    return node
