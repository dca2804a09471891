"""mmext: better losses for YOLOX in MMDetection, by configuration alone.

Nothing heavy is imported here: mmengine imports this package by the name of the scope, and turns an
ImportError raised here into a misleading KeyError.
"""

from difflib import get_close_matches
from pathlib import Path

from mmext.errors import MissingFileError

__version__ = '0.1.0'
__all__ = ['CONFIGS', '__version__', 'config']

# The configs that mmext ships, in a checkout and in an installed wheel alike.
CONFIGS = Path(__file__).parent / '.mim' / 'configs'


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
