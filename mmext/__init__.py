"""mmext: better losses for YOLOX in MMDetection, by configuration alone.

Nothing heavy is imported here: mmengine imports this package by the name of the scope, and turns an
ImportError raised here into a misleading KeyError.
"""

from pathlib import Path

__version__ = '0.1.0'
__all__ = ['__version__', 'config']


def config(name: str) -> str:
    """Path of a config that mmext ships, for `_base_` lines under tools that do not know `mmext::`.

    Example:
        >>> _base_ = __import__('mmext').config('yolox/yolox_s_8xb8-300e_coco.py')

    Args:
        name: The path below `configs/`, such as `'yolox/yolox_s_8xb8-300e_coco.py'`.

    Raises:
        FileNotFoundError: Where mmext ships no such config; the message names those that it ships.
    """
    root = Path(__file__).parent / '.mim' / 'configs'
    path = root / name
    if not path.is_file():
        shipped = sorted(str(file.relative_to(root)) for file in root.glob('[!_]*/*.py'))
        raise FileNotFoundError(f'mmext ships no config {name!r}; it ships: {", ".join(shipped)}')
    return str(path)
