"""What tests and the benchmark count: operations and host syncs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# They reserve memory, return a view in spite of their schema, or tell a type: nothing is launched.
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
# The host waits for a value, or for a shape that depends on one.
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
INDEXING = ('_index_put_impl_', 'index', 'index_put', 'index_put_')


class OpCounter(TorchDispatchMode):
    """Counts by name what is dispatched within it, forward and backward, on any device.

    * An operation computes or copies, in place or not: about a launch on a GPU. Composite functions count as what they
      are made of, in eager mode. Neither views nor bare allocations, such as `empty`, are operations.
    * A view returns an alias of its input, by its schema.
    * A sync is an operation that a GPU's host waits for: `item` (`_local_scalar_dense`), `nonzero`, `unique*`,
      `masked_select`, `equal`, and indexing with a mask, but for `tensor[mask] = number`. Copies between devices are
      not counted; `torch.cuda.set_sync_debug_mode` sees most of them.

    On a CPU a few functions check their input where a GPU's do not, among them `one_hot`: that is counted.

    Example:
        >>> with OpCounter() as counter:
        ...     loss.backward()
        >>> counter.operations.total(), counter.syncs
    """

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> object:
        name = func.overloadpacket.__name__
        if is_view(func):
            self.views[name] += 1
        elif name not in NOT_LAUNCHED and func.namespace != 'profiler':
            self.operations[name] += 1
            self.syncs.update([name] if is_sync(name, args) else [])
        return func(*args, **(kwargs or {}))


@cache
def is_view(func: OpOverload) -> bool:
    """Whether the schema says that the result is an alias of an argument that is not written to."""
    aliases = (argument.alias_info for argument in func._schema.arguments)
    return any(alias is not None and not alias.is_write for alias in aliases)


def is_sync(name: str, args: Sequence) -> bool:
    """Whether the host waits for the operation on a GPU."""
    if name not in INDEXING:
        return name in SYNCS
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    # A number behind a mask is filled in, without asking which elements there are.
    return bool(masks) and not (name != 'index' and len(indices) == 1 and _is_number(args[2]))


def _is_number(value: Tensor) -> bool:
    return value.dim() == 0 and value.device.type == 'cpu'
