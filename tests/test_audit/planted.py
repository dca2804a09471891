"""A data set of six images, and faults to plant in it."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmext.cli.common import read_config

CLASSES = ('cat', 'dog')
SIZE = 96
NAN, INFINITY = float('nan'), float('inf')


@cache
def base_config() -> Config:
    return read_config('mmext::yolox/yolox_nano_1xb8-9e_shapes.py')


class Data:
    """A right data set of four images to train with and two to validate; faults are planted before it is written.

    Attributes:
        folder: Where it is.
        train: Its training annotations, a dict, or the text of the file.
        val: Its validation annotations.
        config: A config that trains YOLOX-nano on it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.train, self.val = annotations(range(1, 5), 'train'), annotations(range(5, 7), 'val')
        (folder / 'images').mkdir()
        for file in (*self.train['images'], *self.val['images']):
            pixels = np.random.default_rng(file['id']).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.image(file))
        self.config = deepcopy(base_config())
        metainfo = dict(classes=CLASSES)
        for split in ('train', 'val', 'test'):
            loader = self.config[f'{split}_dataloader']
            loader.update(batch_size=2, num_workers=0, persistent_workers=False)
            loader.dataset.update(data_root=str(folder), data_prefix=dict(img='images'), metainfo=metainfo)
            loader.dataset.ann_file = 'train.json' if split == 'train' else 'val.json'
            if split != 'train':
                self.config[f'{split}_evaluator'].ann_file = str(folder / 'val.json')
        self.config.model.bbox_head.num_classes = len(CLASSES)
        self.config.model.test_cfg.score_thr = 0.0
        self.config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
        self.config.load_from = None

    def image(self, record: dict) -> Path:
        return self.folder / 'images' / record['file_name']

    def write(self) -> Config:
        """Write the annotations; returns the config."""
        for name in ('train', 'val'):
            content = getattr(self, name)
            (self.folder / f'{name}.json').write_text(content if isinstance(content, str) else json.dumps(content))
        return self.config


def annotations(image_ids: range, split: str) -> dict:
    """Two boxes in each image, one of each class."""
    images = [dict(id=each, file_name=f'{split}_{each}.jpg', width=SIZE, height=SIZE) for each in image_ids]
    boxes = [
        dict(id=2 * each + label, image_id=each, category_id=label + 1, bbox=bbox, area=bbox[2] * bbox[3], iscrowd=0)
        for each in image_ids
        for label, bbox in enumerate([[8, 8, 40, 24], [60.5, 50, 30, 32]])
    ]
    categories = [dict(id=label, name=name) for label, name in enumerate(CLASSES, start=1)]
    return dict(images=images, annotations=boxes, categories=categories)


class Fault(NamedTuple):
    """A fault, and the finding that reports it.

    Attributes:
        name: What is wrong.
        plant: Puts it into a data set.
        level: Of the finding.
        key: What the key of the finding ends in.
        words: What the finding has to say.
    """

    name: str
    plant: Callable[[Data], object]
    level: str
    key: str
    words: tuple[str, ...]


def change(split: str = 'train', part: str = 'annotations', index: int | slice = 0, **fields: object):
    """A fault that sets fields of a record, or of several, or removes those that are None."""

    def plant(data: Data) -> None:
        records = getattr(data, split)[part][index]
        for record in records if isinstance(records, list) else [records]:
            record.update(fields)
            for key in [key for key, value in fields.items() if value is None]:
                del record[key]

    return plant


EVERY = slice(None)


def to_corners(data: Data) -> None:
    for each in data.train['annotations']:
        x, y, width, height = each['bbox']
        each['bbox'] = [x, y, x + width, y + height]


def without_step(word: str):
    def plant(data: Data) -> None:
        dataset = data.config.train_dataloader.dataset
        dataset.pipeline = [step for step in dataset.pipeline if word not in step.type]

    return plant


def mostly_empty(data: Data) -> None:
    data.train['annotations'] = data.train['annotations'][:2]


def rename(data: Data, *names: str) -> None:
    data.val['categories'] = [dict(id=index, name=name) for index, name in enumerate(names, start=1)]


def other_classes(data: Data) -> None:
    rename(data, 'cow', 'pig')
    data.config.val_dataloader.dataset.metainfo = dict(classes=('cow', 'pig'))


def no_dogs(data: Data) -> None:
    for split in ('train', 'val', 'test'):
        data.config[f'{split}_dataloader'].dataset.metainfo = dict(classes=('cat',))


def evaluate_with(data: Data, **parts: object) -> None:
    """Give the evaluator another file."""
    file = data.folder / 'other.json'
    file.write_text(json.dumps({**data.val, **parts}))
    data.config.val_evaluator.ann_file = str(file)


def with_fewer_boxes(data: Data) -> None:
    evaluate_with(data, annotations=data.val['annotations'][1:])


def with_training_images(data: Data) -> None:
    evaluate_with(data, images=data.train['images'])


def with_other_categories(data: Data) -> None:
    evaluate_with(data, categories=data.val['categories'][::-1])


def with_more_images(data: Data) -> None:
    evaluate_with(data, images=[*data.val['images'], dict(data.val['images'][0], id=99)])


def save(kind: str, **options: object):
    """A fault that replaces the first image by a PNG of this mode."""

    def plant(data: Data) -> None:
        record = data.train['images'][0]
        record['file_name'] = 'first.png'
        values = np.full((SIZE, SIZE), 300)
        image = Image.fromarray(values.astype(np.uint16)) if kind == 'I;16' else Image.new(kind, (SIZE, SIZE))
        image.save(data.image(record), **options)

    return plant


def cut(suffix: str):
    """A fault that truncates the first image."""

    def plant(data: Data) -> None:
        record = data.train['images'][0]
        with Image.open(data.image(record)) as image:
            record['file_name'] = f'first{suffix}'
            image.save(data.image(record))
        content = data.image(record).read_bytes()
        data.image(record).write_bytes(content[: len(content) // 2])

    return plant


def turn(data: Data) -> None:
    record = data.train['images'][0]
    record.update(width=SIZE, height=SIZE // 2)
    data.train['annotations'][1].update(bbox=[10, 10, 20, 20])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (SIZE, SIZE // 2)).save(data.image(record), exif=exif)


def one_pixel(data: Data) -> None:
    record = data.train['images'][0]
    record.update(width=1)
    data.train['annotations'] = data.train['annotations'][2:]
    Image.new('RGB', (1, SIZE)).save(data.image(record))


def set_config(key: str, value: object):
    return lambda data: data.config.merge_from_dict({key: value})


NO_BOX = 'none of the 8 annotations is a box to train on'
BACKGROUND = 'leaves the object out, and its place is background'

# Keys of findings.
BBOX, CROWD, CATEGORY = ': annotations.bbox', ': annotations.iscrowd', ': annotations.category_id'
TRAIN, EVALUATOR = 'train_dataloader.dataset', 'val_evaluator.ann_file'
TRAIN_CLASSES, VAL_CLASSES = f'{TRAIN}.metainfo.classes', 'val_dataloader.dataset.metainfo.classes'

# Found without opening the images.
RECORD_FAULTS = [
    Fault('no file', set_config('train_dataloader.dataset.ann_file', 'a.json'), 'error', 'a.json', ('no such file',)),
    Fault('empty file', lambda data: setattr(data, 'train', ''), 'error', 'train.json', ('is not JSON',)),
    Fault('not JSON', lambda data: setattr(data, 'train', '{"images": ['), 'error', 'train.json', ('is not JSON',)),
    Fault('a list', lambda data: setattr(data, 'train', '[]'), 'error', 'train.json', ('a list instead of a dict',)),
    Fault(
        'no categories', lambda data: data.train.pop('categories'), 'error', 'train.json', ('no list of categories',)
    ),
    Fault(
        'a record is no dict',
        lambda data: data.train['annotations'].append([1]),
        'error',
        'train.json: annotations',
        ('is not a dict in 1 annotation (at index 8)',),
    ),
    Fault('no bbox', change(bbox=None), 'error', BBOX, ('bbox is missing', 'with id 2')),
    Fault('no area', change(area=None), 'error', ': annotations.area', ('area is missing', 'with id 2')),
    Fault('no id', change(id=None), 'error', ': annotations.id', ('id is missing', 'at index 0')),
    Fault('no image_id', change(image_id=None), 'error', ': annotations.image_id', ('is missing', 'with id 2')),
    Fault('no category_id', change(category_id=None), 'error', CATEGORY, ('is missing',)),
    Fault('no width', change(part='images', width=None), 'error', ': images.width', ('width is missing', 'with id 1')),
    Fault('no height', change(part='images', height=None), 'error', ': images.height', ('height is missing',)),
    Fault('no image id', change(part='images', id=None), 'error', ': images.id', ('id is missing', 'at index 0')),
    Fault('no category id', change(part='categories', id=None), 'error', ': categories.id', ('id is missing',)),
    Fault('no file_name', change(part='images', file_name=None), 'error', ': images.file_name', ('is missing',)),
    Fault('width 0', change(part='images', width=0), 'error', ': images.width', ('width is not above 0', 'such as 0')),
    Fault('width of text', change(part='images', width='96'), 'error', ': images.width', ("such as '96'",)),
    Fault('1 px', one_pixel, 'error', ': images.width', ('1 px wide or high', 'with id 1', 'flipped')),
    Fault('no name', change(part='categories', name=None), 'error', ': categories.name', ('name is missing',)),
    Fault('box of three', change(bbox=[8, 8, 40]), 'error', BBOX, ('has 3 values', '[8, 8, 40]')),
    Fault('box of text', change(bbox=['8', '8', '4', '4']), 'error', BBOX, ('is not a number',)),
    Fault('box of NaN', change(bbox=[8, 8, NAN, 4]), 'error', BBOX, ('is not finite', 'with id 2')),
    Fault('infinite box', change(bbox=[8, 8, INFINITY, 4]), 'error', BBOX, ('is not finite',)),
    Fault('box of width 0', change(bbox=[8, 8, 0, 4]), 'error', BBOX, ('narrower than 1 px', BACKGROUND)),
    Fault('negative box', change(bbox=[48, 8, -40, 4]), 'error', BBOX, ('a negative width or height',)),
    Fault('box outside', change(bbox=[96, 8, 9, 4]), 'error', BBOX, ('is outside the image', BACKGROUND)),
    Fault('box beyond', change(bbox=[60, 8, 40, 4]), 'warning', BBOX, ('more than 1 px',)),
    Fault('corners', to_corners, 'error', BBOX, ('fit their images only as corners', 'x2 - x1')),
    Fault('normalized', change(index=EVERY, bbox=[0.1, 0.1, 0.4, 0.2]), 'error', BBOX, ('normalized',)),
    Fault('area of 0', change(area=0), 'error', ': annotations.area', ('the area is 0 or less', BACKGROUND)),
    Fault('annotation id 0', change('val', id=0), 'warning', ': annotations.id', ('counts as false', 'Count the ids')),
    Fault('duplicate ids', change(index=1, id=2), 'error', ': annotations.id', ('more than once', 'with id 2')),
    Fault('duplicate image ids', change(part='images', index=1, id=1), 'error', ': images.id', ('more than once',)),
    Fault('duplicate category ids', change(part='categories', id=2), 'error', ': categories.id', ('more than once',)),
    Fault('renamed category', change(part='categories', name='eel'), 'error', TRAIN_CLASSES, ("no class 'cat'",)),
    Fault(
        'two categories of one name',
        lambda data: data.train['categories'].append(dict(id=3, name='dog')),
        'error',
        ': categories.name',
        ("more than one class named 'dog'", 'Merge'),
    ),
    Fault(
        'one image twice',
        change(part='images', index=1, file_name='train_1.jpg'),
        'warning',
        ': images.file_name',
        ('with file_name train_1.jpg',),
    ),
    Fault('a crowd', change(iscrowd=1), 'warning', CROWD, ('is not trained', 'with id 2')),
    Fault('ids of text', change('val', id='a'), 'error', ': annotations.id', ('needs numbers to evaluate',)),
    Fault('no iscrowd', change('val', iscrowd=None), 'error', CROWD, ('KeyError', '"iscrowd": 0')),
    Fault(
        'unknown image',
        change(image_id=77),
        'warning',
        ': annotations.image_id',
        ('no image of this id', 'the first 77'),
    ),
    Fault('unknown category', change(category_id=7), 'error', CATEGORY, ('no category of this id',)),
    Fault('category of text', change(category_id='1'), 'error', CATEGORY, ('different ids',)),
]
PIPELINE_FAULTS = [
    Fault(
        'no annotations',
        lambda data: data.train.update(annotations=[]),
        'error',
        TRAIN,
        ('none of the 0 annotations',),
    ),
    Fault('crowds alone', change(index=EVERY, iscrowd=1), 'error', TRAIN, (NO_BOX, 'crowd: 8')),
    Fault(
        'widths of 0 alone',
        change(index=EVERY, bbox=[8, 8, 0, 4]),
        'error',
        TRAIN,
        (NO_BOX, '1 px: 8'),
    ),
    Fault(
        'all outside',
        change(index=EVERY, bbox=[200, 8, 9, 4]),
        'error',
        TRAIN,
        (NO_BOX, 'image: 8'),
    ),
    Fault(
        'all of unknown images',
        change(index=EVERY, image_id=77),
        'error',
        TRAIN,
        (NO_BOX, 'unknown'),
    ),
    Fault('no LoadAnnotations', without_step('LoadAnnotations'), 'error', 'dataset.pipeline', ('no LoadAnnotations',)),
    Fault(
        'boxes not loaded',
        lambda data: data.config.train_dataloader.dataset.pipeline[1].update(with_bbox=False),
        'error',
        'dataset.pipeline',
        ('with_bbox=True',),
    ),
    Fault(
        'no image is left',
        set_config('train_dataloader.dataset.filter_cfg', dict(min_size=100)),
        'error',
        TRAIN,
        ('leaves no image',),
    ),
    Fault('empty batches', mostly_empty, 'warning', TRAIN, ('75% of the 4 images', '56% of the')),
]
CLASS_FAULTS = [
    Fault(
        'class without objects', change(index=EVERY, category_id=1), 'warning', TRAIN_CLASSES, ("no object of 'dog'",)
    ),
    Fault(
        'val without a class', change('val', index=EVERY, category_id=1), 'note', VAL_CLASSES, ("no object of 'dog'",)
    ),
    Fault(
        'category that is no class',
        no_dogs,
        'warning',
        TRAIN_CLASSES,
        ("4 of 'dog'", 'are background'),
    ),
    Fault(
        'class not in the file',
        set_config(TRAIN_CLASSES, ('cat', 'eel')),
        'error',
        TRAIN_CLASSES,
        ("no class 'eel'", 'renumber'),
    ),
    Fault(
        'classes in another order', set_config(TRAIN_CLASSES, ('dog', 'cat')), 'error', TRAIN_CLASSES, ('the order',)
    ),
    Fault('classes of text', set_config(TRAIN_CLASSES, 'cat'), 'error', TRAIN_CLASSES, ("classes=('cat',)",)),
    Fault('val with fewer categories', lambda data: rename(data, 'cat'), 'error', VAL_CLASSES, ("no class 'dog'",)),
    Fault('val with other categories', other_classes, 'error', VAL_CLASSES, ('another class in each',)),
]
EVALUATOR_FAULTS = [
    Fault(
        'evaluator without file',
        set_config(EVALUATOR, 'val.json'),
        'error',
        EVALUATOR,
        ('val.json: there is no such file', 'data_root is not joined'),
    ),
    Fault(
        'evaluator of other images',
        with_training_images,
        'error',
        EVALUATOR,
        ('no 2 images (with id 5, 6)', 'would fail'),
    ),
    Fault(
        'evaluator of more images',
        with_more_images,
        'error',
        EVALUATOR,
        ('1 image (with id 99) more', 'count as missed'),
    ),
    Fault(
        'evaluator of other categories',
        with_other_categories,
        'error',
        EVALUATOR,
        ('labels would change',),
    ),
    Fault('evaluator of other boxes', with_fewer_boxes, 'warning', EVALUATOR, ('the annotations differ',)),
]
MISSING_IMAGES = [
    Fault(
        'missing image',
        lambda data: data.image(data.train['images'][0]).unlink(),
        'error',
        ': images.file_name',
        ('1 image (with id 1) have no file', 'train_1.jpg'),
    ),
    Fault(
        'other case',
        change(part='images', file_name='TRAIN_1.JPG'),
        'error',
        ': images.file_name',
        ('such as', 'the folder has train_1.jpg'),
    ),
    Fault(
        'no folder',
        set_config('train_dataloader.dataset.data_prefix.img', 'pictures'),
        'error',
        ': images.file_name',
        ('4 images', 'there is no folder'),
    ),
]
# Found by opening the images.
IMAGE_FAULTS = [
    Fault(
        'unreadable image',
        lambda data: data.image(data.train['images'][0]).write_text('no'),
        'error',
        ': images',
        ('no decoder reads', 'with id 1'),
    ),
    Fault('truncated JPEG', cut('.jpg'), 'error', ': images', ('the file is truncated', 'first.jpg')),
    Fault('truncated PNG', cut('.png'), 'error', ': images', ('the file is truncated', 'first.png')),
    Fault('truncated BMP', cut('.bmp'), 'error', ': images', ('the file is truncated', 'first.bmp')),
    Fault(
        'other size',
        change(part='images', width=100),
        'error',
        ': images',
        ('another size', 'instead of 100 x 96'),
    ),
    Fault('turned by EXIF', turn, 'error', ': images', ('EXIF', '48 x 96 px instead of 96 x 48')),
    Fault('16-bit', save('I;16'), 'warning', ': images', ('16 bits', 'first.png')),
    Fault('alpha', save('RGBA'), 'warning', ': images', ('alpha channel', 'mode RGBA')),
    Fault('transparent color', save('P', transparency=0), 'warning', ': images', ('alpha channel', 'mode P')),
]
FAULTS = [*RECORD_FAULTS, *PIPELINE_FAULTS, *CLASS_FAULTS, *EVALUATOR_FAULTS, *MISSING_IMAGES]
