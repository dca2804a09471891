"""What to do about data that are not there."""

from pathlib import Path

import mmext

# How to make the data sets that shipped configs refer to, by the names of their folders.
RECIPES = {
    'shapes': 'mmext shapes',
    'aquarium': 'python {tools}/prepare_data.py aquarium SOURCE data/aquarium',
    'hituav': 'python {tools}/prepare_data.py hituav SOURCE data/hituav',
    'bccd': 'python {tools}/voc_to_coco.py SOURCE data/bccd/annotations/train.json --split train',
}


def how_to_get(path: str) -> str:
    """How to get a file of a data set: the command, for those of the shipped configs.

    >>> how_to_get('data/shapes/annotations/train.json')
    'Make the data set with `mmext shapes`'
    """
    parts = Path(path).parts
    data = next((part for part in parts if part in RECIPES), None)
    if data:
        # In a checkout; a wheel carries the scripts in the package.
        tools = Path('tools')
        if not (tools / 'prepare_data.py').is_file():
            tools = mmext.CONFIGS.with_name('tools')
        return f'Make the data set with `{RECIPES[data].format(tools=tools)}`'
    if 'coco' in parts:
        return 'Download COCO with `mim download mmdet --dataset coco2017`, or set data_root to where it is'
    return 'Set data_root, ann_file and data_prefix to where your data are'
