"""Dispatch modes that count operations, bytes and host syncs, and detect stray tensors, without a GPU."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# Allocations, views whose schema does not say so, and type queries: they launch nothing.
NOT_LAUNCHED = (
    '_unsafe_view',
    'empty',
    'empty_like',
    'empty_permuted',
    'empty_strided',
    'new_empty',
    'new_empty_strided',
    'promote_types',
)
# Operations that make the host wait for a value or a shape.
SYNCS = (
    '_local_scalar_dense',
    '_unique',
    '_unique2',
    'equal',
    'is_nonzero',
    'masked_select',
    'nonzero',
    'unique_consecutive',
    'unique_dim',
    'unique_dim_consecutive',
)
# Operations that select elements of their first tensor.
SELECTIONS = ('gather', 'index', 'index_select', 'take')
INDEXING = ('_index_put_impl_', 'index', 'index_put', 'index_put_')


class OpCounter(TorchDispatchMode):
    """Counts by name the operations dispatched within it, forward and backward, on any device.

    * An operation computes or copies, in place or not: about one kernel launch on a GPU. Composite functions count as
      the operations they consist of in eager mode. Views and bare allocations, such as `empty`, are not operations.
    * The bytes of an operation are those of the tensors that it takes or returns: the memory that it must access.
      A tensor counts once, also if it is read and written in place, and so does an element that a view repeats, as
      `expand` does. Of a tensor that `gather` or an index selects from, the selected elements count. Temporary memory
      within an operation does not count.
    * A view returns an alias of its input, according to its schema.
    * A sync is an operation for which the host waits on a GPU: `item` (`_local_scalar_dense`), `nonzero`, `unique*`,
      `masked_select`, `equal`, and indexing with a mask, except `tensor[mask] = number`. Copies between devices are
      not counted; :class:`OneDevice` refuses those that block, and `torch.cuda.set_sync_debug_mode` reports most.

    On a CPU some functions, such as `one_hot`, validate their input with extra operations; these are counted too.

    Example:
        >>> import torch
        >>> from mmext.testing import OpCounter
        >>> x = torch.ones(3, requires_grad=True)
        >>> with OpCounter() as counter:
        ...     (2 * x).sum().backward()
        >>> counter.operations.total(), counter.syncs.total()
        (4, 0)
        >>> counter.bytes['sum']  # reads three numbers and writes one
        16
    """

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> object:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        result = func(*args, **kwargs)
        if is_view(func):
            self.views[name] += 1
        elif name not in NOT_LAUNCHED and func.namespace != 'profiler':
            self.operations[name] += 1
            self.bytes[name] += bytes_of(name, (args, kwargs), result)
            self.syncs.update([name] if is_sync(name, args) else [])
        return result


class OneDevice(TorchDispatchMode):
    """Refuses operations that mix devices, forward and backward.

    It is for `meta` tensors, which have no values: reading a value already raises an error there, but indexing with a
    CPU tensor, or copying from one, does not. On a GPU such a tensor makes the host wait, or fails. As on
    a GPU, CPU scalars may take part, and copies to the device that do not block.

    Raises:
        RuntimeError: For an operation on tensors of more than one device, or a blocking copy to another device.

    Example:
        >>> import torch
        >>> from mmext.testing import OneDevice
        >>> x = torch.ones(3, device='meta')
        >>> with OneDevice():
        ...     y = 2 * x.sum()
        >>> with OneDevice():
        ...     x[torch.tensor([0, 2])]
        Traceback (most recent call last):
            ...
        RuntimeError: index mixes tensors on cpu and meta
    """

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> object:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        devices = sorted({each.device.type for each in tensors_of((args, kwargs)) if not _is_number(each)})
        if name == 'copy_':
            blocks = len(devices) > 1 and not (args[2:] or [kwargs.get('non_blocking')])[0]
        elif name == '_to_copy':
            devices = [args[0].device.type, torch.device(kwargs.get('device') or args[0].device).type]
            blocks = devices[0] != devices[1] and not kwargs.get('non_blocking')
        elif len(devices) > 1:
            raise RuntimeError(f'{name} mixes tensors on {" and ".join(devices)}')
        else:
            blocks = False
        if blocks:
            raise RuntimeError(f'{name} between {" and ".join(devices)} blocks')
        return func(*args, **kwargs)


def tensors_of(arguments: object) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    return (leaf for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor))


def bytes_of(name: str, arguments: object, result: object) -> int:
    """The bytes that an operation must access; see :class:`OpCounter`."""
    taken, returned = list(tensors_of(arguments)), list(tensors_of(result))
    selected = 0
    if name in SELECTIONS:
        del taken[0]
        selected = returned[0].nbytes
    return selected + sum(map(stored_bytes, {id(tensor): tensor for tensor in taken + returned}.values()))


def stored_bytes(tensor: Tensor) -> int:
    """The bytes of a tensor's elements, those that a view repeats counted once."""
    sizes = [size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride())]
    return tensor.element_size() * math.prod(sizes)


@cache
def is_view(func: OpOverload) -> bool:
    """Whether, by its schema, the result is an alias of an argument that is not written to."""
    aliases = (argument.alias_info for argument in func._schema.arguments)
    return any(alias is not None and not alias.is_write for alias in aliases)


def is_sync(name: str, args: Sequence) -> bool:
    """Whether the host waits for the operation on a GPU."""
    if name not in INDEXING:
        return name in SYNCS
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    # A number is filled in where the mask is true, without the indices of these elements.
    return bool(masks) and not (name != 'index' and len(indices) == 1 and _is_number(args[2]))


def _is_number(value: Tensor) -> bool:
    return value.dim() == 0 and value.device.type == 'cpu'
