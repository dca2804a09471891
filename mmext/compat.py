"""What differs between the supported versions of torch, here alone."""

import torch
from mmengine.utils import digit_version

TORCH = digit_version(torch.__version__)

# Before 2.7 torch's own `weights_only` cannot be told to take one object for another.
HAS_SAFE_LOADING = TORCH >= digit_version('2.7.0')
