"""Checks of the records of a COCO file: its images, annotations and categories.

The checks follow what MMDetection's CocoDataset and pycocotools do with a record. They are Python loops over fields
and numpy over boxes: a file of 100,000 annotations takes about a second.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from os import getcwd
from os.path import isabs

import numpy as np
from mmengine.fileio import exists, get_local_path

from mmext.datasets.missing import how_to_get

from .findings import Finding, Level

# Objects that MMDetection leaves out are an error from this share of the annotations on. Fewer do little harm: COCO
# itself has boxes of zero width.
LOST_SHARE = 0.1
# Boxes may leave the image by this many pixels, because of rounding or of coordinates that count from 1.
ROUNDING = 1.0
# How many ids a finding names.
SHOWN = 5


@dataclass(frozen=True)
class Records:
    """The well-formed records of a COCO file.

    Attributes:
        path: The file.
        images: Each has `id`, `file_name`, and `width` and `height` above 0.
        annotations: Each has `id`, `image_id`, `category_id`, a finite `area`, and a `bbox` of four finite numbers.
        categories: Each has `id` and `name`.
    """

    path: str
    images: list[dict]
    annotations: list[dict]
    categories: list[dict]

    @cached_property
    def boxes(self) -> np.ndarray:
        """The boxes as the file has them, (n, 4): x, y, width, height in pixels."""
        return np.array([each['bbox'] for each in self.annotations], dtype=float).reshape(-1, 4)

    @cached_property
    def image_indices(self) -> np.ndarray:
        """The index in `images` of the image of each annotation, (n,); -1 if the file has no such image."""
        places = {image['id']: index for index, image in enumerate(self.images)}
        return np.array([places.get(each['image_id'], -1) for each in self.annotations], dtype=int)

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """Width and height in pixels of the image of each annotation, (n, 2); NaN if the file has no such image."""
        sizes = [(image['width'], image['height']) for image in self.images]
        return np.array([*sizes, (np.nan, np.nan)], dtype=float)[self.image_indices]

    @cached_property
    def faults(self) -> dict[str, np.ndarray]:
        """Why MMDetection's CocoDataset does not train on an annotation, each (n,), in the order of its checks."""
        boxes, category_ids = self.boxes, {category['id'] for category in self.categories}
        low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, :2] + boxes[:, 2:], self.image_sizes)
        sizes = boxes[:, 2:]
        with np.errstate(invalid='ignore'):
            outside = (sizes > 0).all(axis=1) & (high <= low).any(axis=1)
        return {
            'unknown image': self.image_indices < 0,
            'ignored': self._flags('ignore'),
            'outside the image': outside,
            'negative size': (sizes < 0).any(axis=1),
            'narrower than 1 px': (sizes >= 0).all(axis=1) & (sizes < 1).any(axis=1),
            'area of 0 or less': np.array([each['area'] <= 0 for each in self.annotations], dtype=bool),
            'unknown category': np.array([each['category_id'] not in category_ids for each in self.annotations], bool),
            'crowd': self._flags('iscrowd'),
        }

    @cached_property
    def trained(self) -> np.ndarray:
        """Which annotations MMDetection trains on if all categories are classes, (n,)."""
        return ~np.logical_or.reduce(list(self.faults.values()))

    def _flags(self, key: str) -> np.ndarray:
        return np.array([bool(each.get(key)) for each in self.annotations], dtype=bool)


def id_fault(value: object) -> str | None:
    """What is wrong with an id; None if it is right."""
    return None if type(value) is str or number_fault(value) is None else 'is neither a number nor a string'


def name_fault(value: object) -> str | None:
    """What is wrong with a name; None if it is right."""
    return None if type(value) is str and value else 'is not a string with text'


def number_fault(value: object) -> str | None:
    """What is wrong with a number; None if it is right."""
    return None if type(value) in (int, float) and isfinite(value) else 'is not a finite number'


def size_fault(value: object) -> str | None:
    """What is wrong with the width or height of an image; None if it is right."""
    return number_fault(value) or (None if value > 0 else 'is not above 0')


def box_fault(value: object) -> str | None:
    """What is wrong with a box (x, y, width, height); None if it is right."""
    if type(value) is not list:
        return 'is not a list'
    if len(value) != 4:
        return f'has {len(value)} values'
    if any(type(each) not in (int, float) for each in value):
        return 'has a value that is not a number'
    return None if all(map(isfinite, value)) else 'has a value that is not finite'


# What CocoDataset and pycocotools read of each record without a default.
FIELDS: dict[str, dict[str, Callable[[object], str | None]]] = {
    'images': dict(id=id_fault, file_name=name_fault, width=size_fault, height=size_fault),
    'annotations': dict(id=id_fault, image_id=id_fault, category_id=id_fault, bbox=box_fault, area=number_fault),
    'categories': dict(id=id_fault, name=name_fault),
}
REMEDIES = {
    'bbox': 'Write four finite numbers: x, y, width and height in pixels',
    'area': 'Write the area in square pixels: width times height of the box, if there is no mask',
    'width': 'Write the width of the image in pixels',
    'height': 'Write the height of the image in pixels',
}


def read_records(path: str, backend_args: dict | None = None) -> tuple[Records | None, list[Finding]]:
    """Read the well-formed records of a COCO file, and report the others.

    Args:
        path: The annotation file.
        backend_args: How mmengine's file client reads it; None: by its path.

    Returns:
        The records, None if the file cannot be read or is not a COCO file; and an error for each kind of fault.
    """
    if not path or not exists(path, backend_args=backend_args):
        where = '' if '://' in path or isabs(path) else f' below {getcwd()}'
        return None, [Finding('error', path or 'ann_file', f'there is no such file{where}', how_to_get(path))]
    try:
        # As pycocotools opens it.
        with get_local_path(path, backend_args=backend_args) as local, open(local) as file:
            content = json.load(file)
    except ValueError as error:
        return None, [Finding('error', path, f'the file is not JSON ({error})', 'Write it again, or restore a copy')]
    except OSError as error:
        return None, [
            Finding('error', path, f'the file cannot be read ({error})', 'Check ann_file and its permissions')
        ]
    if not isinstance(content, dict):
        message = f'the file holds a {type(content).__name__} instead of a dict'
        return None, [Finding('error', path, message, f'Write a dict with the lists {", ".join(FIELDS)}')]
    missing = [key for key in FIELDS if not isinstance(content.get(key), list)]
    if missing:
        message = f'the file has no list of {" or ".join(missing)}'
        return None, [Finding('error', path, message, 'Convert it to a COCO annotation file')]
    good, findings = {}, []
    for name in FIELDS:
        good[name], found = _well_formed(path, name, content[name])
        findings += found
    return Records(path, **good), findings


def _well_formed(path: str, name: str, records: list) -> tuple[list[dict], list[Finding]]:
    """The records of a list that have all fields, and an error for each kind of fault in the others."""
    faults, bad = {}, set()
    for index, record in enumerate(records):
        if type(record) is not dict:
            faults.setdefault((name, 'is not a dict'), []).append((index, record))
            bad.add(index)
            continue
        for key, fault_of in FIELDS[name].items():
            fault = fault_of(record[key]) if key in record else 'is missing'
            if fault:
                faults.setdefault((f'{name}.{key}', fault), []).append((index, record))
                bad.add(index)
    findings = []
    for (key, fault), places in faults.items():
        field = key.rpartition('.')[2]
        values = [record.get(field) for _, record in places if isinstance(record, dict) and field in record]
        message = f'{field} {fault} in {_places(name, places)}' + (f', such as {values[0]!r}' if values else '')
        findings.append(
            Finding('error', f'{path}: {key}', message, REMEDIES.get(field, f'Give each of them a {field}'))
        )
    return [record for index, record in enumerate(records) if index not in bad] if bad else records, findings


def _places(name: str, places: Sequence[tuple[int, object]]) -> str:
    """The ids of records, or their places in the list if they have none."""
    if all(isinstance(record, dict) and id_fault(record.get('id')) is None for _, record in places):
        return named([record['id'] for _, record in places], name)
    return named([index for index, _ in places], name, 'at index')


def named(ids: Sequence[Hashable], name: str, by: str = 'with id') -> str:
    """How a finding names records: the first ids, and how many more there are.

    >>> named([3, 4], 'annotations'), named(range(50_000), 'annotations')
    ('2 annotations (with id 3, 4)', '50,000 annotations (with id 0, 1, 2, 3, 4 and 49,995 more)')
    """
    shown = ', '.join(map(str, ids[:SHOWN]))
    more = f' and {len(ids) - SHOWN:,} more' if len(ids) > SHOWN else ''
    singular = 'category' if name == 'categories' else name.removesuffix('s')
    return f'{len(ids):,} {singular if len(ids) == 1 else name} ({by} {shown}{more})'


def record_findings(records: Records, evaluated: bool) -> list[Finding]:
    """Check the well-formed records of a file against each other.

    Args:
        records: From :func:`read_records`.
        evaluated: Whether pycocotools evaluates with this file; it needs more than training.
    """
    return [
        *_duplicates(records),
        *_lost_objects(records),
        *_loose_boxes(records),
        *(_evaluation(records) if evaluated else ()),
    ]


def _duplicates(records: Records) -> list[Finding]:
    keys = {
        ('annotations', 'id'): ('MMDetection refuses the file', 'Number the annotations anew'),
        ('images', 'id'): ('the last one gets the boxes of all', 'Give each image an id of its own'),
        ('categories', 'id'): ('one label gets the objects of all', 'Give each category an id of its own'),
        ('images', 'file_name'): ('the objects of one record are background in the other', 'Merge the records'),
    }
    findings = []
    for (name, key), (effect, remedy) in keys.items():
        counts = Counter(record[key] for record in getattr(records, name))
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            level = 'warning' if key == 'file_name' else 'error'
            message = f'{key} occurs more than once, and {effect}: {named(twice, name, f"with {key}")}'
            findings.append(Finding(level, f'{records.path}: {name}.{key}', message, remedy))
    return findings


def _share_level(count: int, total: int, low: Level = 'warning', high: Level = 'error') -> Level:
    return high if count >= LOST_SHARE * total else low


def _group(records: Records, mask: np.ndarray, level: Level, key: str, text: str, remedy: str) -> list[Finding]:
    """One finding about the annotations of a mask, (n,); none if it is empty."""
    indices = np.flatnonzero(mask)
    if not len(indices):
        return []
    first = records.annotations[indices[0]]
    value = f', the first {first[key]!r}' if key in ('bbox', 'area', 'image_id', 'category_id') else ''
    names = named([records.annotations[index]['id'] for index in indices], 'annotations')
    return [Finding(level, f'{records.path}: annotations.{key}', f'{names}{value}: {text}', remedy)]


def _lost_objects(records: Records) -> list[Finding]:
    """The annotations that MMDetection does not train on."""
    lost = 'MMDetection leaves the object out, and its place is background'
    rows = {
        'unknown image': ('image_id', 'the file has no image of this id', 'Add the image, or remove the annotations'),
        'outside the image': ('bbox', f'the box is outside the image. {lost}', _check_boxes('the size of the image')),
        'negative size': ('bbox', f'the box has a negative width or height. {lost}', _check_boxes('the corners')),
        'narrower than 1 px': (
            'bbox',
            f'the box is narrower than 1 px. {lost}',
            'If the boxes are normalized, multiply them by the size of the image; else remove the annotations',
        ),
        'area of 0 or less': ('area', f'the area is 0 or less. {lost}', REMEDIES['area']),
        'unknown category': (
            'category_id',
            f'the file has no category of this id. {lost}',
            'Add the category, or correct category_id; numbers and strings are different ids',
        ),
    }
    findings, total = [], len(records.annotations)
    for fault, (key, text, remedy) in rows.items():
        mask = records.faults[fault]
        # Annotations of images elsewhere are what a split leaves behind: nothing wrong is learned from them.
        high = 'warning' if fault == 'unknown image' else 'error'
        findings += _group(records, mask, _share_level(mask.sum(), total, high=high), key, text, remedy)
    for fault, key in (('crowd', 'iscrowd'), ('ignored', 'ignore')):
        mask = records.faults[fault]
        level = _share_level(mask.sum(), total, 'note', 'warning')
        text = f'{key} is set: the object is not trained, and YOLOX takes its place for background'
        findings += _group(records, mask, level, key, text, f'Set {key} to 0 for objects to detect')
    return findings


def _check_boxes(what: str) -> str:
    return f'Check {what}: a box is x, y, width and height in pixels of the image, from its upper left corner'


def _loose_boxes(records: Records) -> list[Finding]:
    """Boxes that reach beyond their image, or that are corners in place of sizes."""
    inside = ~(records.faults['unknown image'] | records.faults['outside the image'])
    low, sizes = records.boxes[:, :2], records.boxes[:, 2:]
    # NaN, of an unknown image, compares as False.
    beyond = inside & ((low < -ROUNDING) | (low + sizes > records.image_sizes + ROUNDING)).any(axis=1)
    if _are_corners(records):
        text = (
            'the boxes are read as x, y, width and height, but fit their images only as corners x1, y1, x2, y2. '
            'Training would learn boxes that are too large'
        )
        every = np.ones(len(beyond), dtype=bool)
        return _group(records, every, 'error', 'bbox', text, 'Write x1, y1, x2 - x1, y2 - y1')
    text = f'the box reaches beyond the image by more than {ROUNDING:g} px'
    remedy = 'Check the size of the image, or clip the boxes'
    return _group(records, beyond, _share_level(beyond.sum(), len(beyond), 'note', 'warning'), 'bbox', text, remedy)


def _are_corners(records: Records) -> bool:
    """Whether the boxes of the file are corners (x1, y1, x2, y2) where COCO has sizes.

    All are valid as corners; and many leave the image by far if they are read as sizes, or the areas are those of the
    corners.
    """
    boxes, sizes = records.boxes, records.image_sizes
    known = records.image_indices >= 0
    if not known.any():
        return False
    boxes, sizes = boxes[known], sizes[known]
    areas = np.array([each['area'] for each in records.annotations], dtype=float)[known]
    extents = boxes[:, 2:] - boxes[:, :2]
    as_corners = ((extents > 0) & (boxes[:, :2] >= -ROUNDING) & (boxes[:, 2:] <= sizes + ROUNDING)).all(axis=1)
    far_beyond = (boxes[:, :2] + boxes[:, 2:] > 1.1 * sizes).any(axis=1)
    areas_of_corners = np.isclose(areas, extents.prod(axis=1), rtol=0.01) & (boxes[:, :2] >= 1).all(axis=1)
    return as_corners.mean() >= 0.99 and (far_beyond.mean() >= 0.2 or areas_of_corners.mean() >= 0.9)


def _evaluation(records: Records) -> list[Finding]:
    """What pycocotools needs to evaluate with the file."""
    ids = [each['id'] for each in records.annotations]
    zero = np.array([each in (0, '0') for each in ids], dtype=bool)
    # pycocotools puts the id into an array of numbers, which takes '7' too.
    text = np.array([type(each) is str and not each.isdecimal() for each in ids], dtype=bool)
    no_crowd = np.array(['iscrowd' not in each for each in records.annotations], dtype=bool)
    return [
        *_group(
            records,
            zero,
            'warning',
            'id',
            'pycocotools takes a match with the id 0 for none: a right detection of this object counts as false, and '
            'AP is too low',
            'Count the ids from 1',
        ),
        *_group(records, text, 'error', 'id', 'pycocotools needs numbers to evaluate', 'Number the annotations'),
        *_group(
            records,
            no_crowd,
            'error',
            'iscrowd',
            'iscrowd is missing, and the evaluation would stop with a KeyError',
            'Write "iscrowd": 0',
        ),
    ]


def category_names(records: Records) -> dict[Hashable, str]:
    """The names of the categories by their ids, in the order of the file."""
    return {category['id']: category['name'] for category in records.categories}


def trained_counts(records: Records, classes: Iterable[str]) -> Mapping[str, int]:
    """The number of objects of each class that MMDetection trains on; classes without any are left out."""
    names, classes = category_names(records), set(classes)
    counts = Counter(
        names[each['category_id']] for each, trained in zip(records.annotations, records.trained) if trained
    )
    return {name: count for name, count in counts.items() if name in classes}
