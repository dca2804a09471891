"""mmext: better losses for YOLOX in MMDetection, by configuration alone.

Nothing heavy is imported here: mmengine imports this package by the name of the scope, and turns an
ImportError raised here into a misleading KeyError. Submodules are imported on first access: `import mmext` is enough
for `mmext.losses.iou_loss`.
"""

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        adapters,
        assigners,
        audit,
        checkpoints,
        comparison,
        datasets,
        deployment,
        heads,
        hooks,
        losses,
        registry,
        visualization,
    )

from mmext.errors import MissingFileError
from mmext.packages import announce

__version__ = '0.1.0'
__all__ = [
    'CONFIGS',
    '__version__',
    'adapters',
    'assigners',
    'audit',
    'checkpoints',
    'comparison',
    'config',
    'datasets',
    'deployment',
    'heads',
    'hooks',
    'losses',
    'registry',
    'visualization',
]

# The configs that mmext ships, in a checkout and in an installed wheel alike.
CONFIGS = Path(__file__).parent / '.mim' / 'configs'
announce()


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return import_module(f'.{name}', __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def config(name: str) -> str:
    """Path of a config that mmext ships, for `_base_` lines under tools that do not know `mmext::`.

    Example:
        >>> _base_ = __import__('mmext').config('yolox/yolox_s_8xb8-300e_coco.py')

    Args:
        name: The path below `configs/`, such as `'yolox/yolox_s_8xb8-300e_coco.py'`.

    Raises:
        MissingFileError: If mmext ships no such config; the message names the most similar ones.
    """
    path = CONFIGS / name
    if not path.is_file():
        shipped = [str(file.relative_to(CONFIGS)) for file in CONFIGS.glob('[!_]*/*.py')]
        near = get_close_matches(name, shipped, n=3, cutoff=0.3)
        hint = f'; did you mean {" or ".join(near)}?' if near else ','
        raise MissingFileError(f'mmext ships no config {name!r}{hint} `mmext list` shows those that it ships')
    return str(path)
