"""What differs between the supported versions of torch, here alone."""

import torch
from mmengine.utils import digit_version

TORCH = digit_version(torch.__version__)

# Before 2.7 torch's own `weights_only` cannot be told to take one object for another.
HAS_SAFE_LOADING = digit_version('2.7.0') <= TORCH

# Before 2.3 torch.compiler has no such function.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


def recompile_limit(limit: int) -> dict[str, int]:
    """The setting of `torch._dynamo.config` for so many compilations of one function."""
    old = 'cache_size_limit'
    return {'recompile_limit' if hasattr(torch._dynamo.config, 'recompile_limit') else old: limit}
