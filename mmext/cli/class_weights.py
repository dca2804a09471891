"""Count the objects of each class, and print class weights as lines of config."""

import argparse
import io
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout

from mmengine.fileio import load
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable

from mmext.losses.class_balance import METHODS, class_weights

from .check import check_file, check_stack
from .common import read_config

logger = logging.getLogger(__name__)

CONFIG_LINES = """\
# mmext.YOLOXHead, with a softmax over the classes:
model = dict(bbox_head=dict(cls_target='label', loss_cls=dict(_delete_=True, type='mmext.SoftmaxFocalLoss', \
alpha={weights})))
# A sigmoid of each class; every loss of mmext's over a sigmoid takes the same class_weight:
model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='mmext.QualityFocalLoss', use_sigmoid=True, \
class_weight={weights})))
# A softmax of a head with a class for the background, such as Faster R-CNN's, takes one alpha more for that, last."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext class-weights`."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        'source',
        metavar='CONFIG_OR_ANNOTATIONS',
        help='COCO annotations (.json), all categories; or a config, a file or mmext::yolox/....py, whose training '
        'data are counted as mmdet trains on them, repeated images once',
    )
    arguments.add_argument(
        '--method',
        choices=METHODS,
        default='effective',
        help='1 over the count, 1 over its square root, or 1 over the effective number of samples (effective)',
    )
    arguments.add_argument(
        '--beta',
        type=float,
        default=0.999,
        help='of the effective number, in [0, 1): from no weights at 0 to 1 over the count near 1 (0.999)',
    )
    return arguments.parse_args(argv)


def read_categories(path: str) -> dict[int, str]:
    """The name of each category of a COCO file by its id, in the order of the file.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it is not a COCO annotation file, or has no categories.
    """
    try:
        data = load(check_file(path, 'annotation file'), file_format='json')
    except ValueError as error:
        raise ValueError(f'{path} is not JSON ({error}): give a COCO annotation file, or a config') from error
    keys = ('images', 'annotations', 'categories')
    lacking = [key for key in keys if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if lacking:
        raise ValueError(
            f'{path} is not a COCO annotation file, it has no list of {" or ".join(lacking)}: convert it to one, or '
            'give a config'
        )
    if not data['categories']:
        raise ValueError(f'{path} has no categories: add to its "categories" an id and a name for each class')
    return {category['id']: category['name'] for category in data['categories']}


def leaves(dataset: dict) -> list[dict]:
    """The configs of the data sets below the wrappers, each once, however often a wrapper repeats its images."""
    inner = dataset['datasets'] if 'datasets' in dataset else [dataset['dataset']] if 'dataset' in dataset else []
    return [leaf for child in inner for leaf in leaves(child)] or [dataset]


def count(leaf: dict, categories: dict[int, str] | None = None) -> dict[str, int]:
    """The number of objects that mmdet trains on of each class of a data set, in the order of the labels.

    Args:
        leaf: The config of the data set, without wrappers.
        categories: The categories of its COCO file by their ids; None: to be read.

    Raises:
        FileNotFoundError: Where it has no annotation file.
        ValueError: Where that is not a COCO file, or lacks a class.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    dataset = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False})
    path = check_file(dataset.ann_file, 'annotation file')
    logger.info('counting the objects of %s', path)
    if categories is None and isinstance(dataset, CocoDataset):
        categories = read_categories(path)
    try:
        # pycocotools prints its progress, and the standard output is for the weights.
        with redirect_stdout(io.StringIO()):
            dataset.full_init()
    except KeyError as error:
        raise ValueError(f'an image or an annotation of {path} has no {error}, which mmdet needs: add it') from error
    instances = (instance for image in dataset.data_list for instance in image['instances'])
    # A crowd has an ignore flag.
    labels = Counter(instance['bbox_label'] for instance in instances if not instance.get('ignore_flag'))
    classes = dataset.metainfo['classes']
    names = label_names(path, classes, dataset.cat_ids, categories) if categories else classes
    return {name: labels[label] for label, name in enumerate(names)}


def label_names(path: str, classes: Sequence[str], ids: Sequence[int], categories: dict[int, str]) -> list[str]:
    """The name of each label: mmdet numbers the classes in the order of the file, not in that of the metainfo.

    Raises:
        ValueError: Where the file lacks a class.
    """
    names = [categories[index] for index in ids]
    missing = [name for name in classes if name not in names]
    if missing:
        raise ValueError(
            f'{path} has no class {", ".join(map(repr, missing))}; it has {list(categories.values())}: set '
            'dataset.metainfo=dict(classes=...) to its names'
        )
    if names != list(classes):
        logger.warning(
            'the classes of the config, %s, are not in the order of %s; mmdet numbers them by the file, and so are '
            'the weights: set dataset.metainfo=dict(classes=%s), or predictions get the wrong names',
            tuple(classes),
            path,
            tuple(names),
        )
    return names


def count_source(source: str) -> dict[str, int]:
    """The number of objects of each class in a COCO file, or in the training data of a config.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it cannot be counted, or a class has no objects.
    """
    if source.endswith('.json'):
        check_stack()
        categories = read_categories(source)
        metainfo = dict(classes=list(categories.values()))
        leaf = dict(type='mmdet.CocoDataset', ann_file=source, data_prefix=dict(img=''), metainfo=metainfo)
        counts = count(leaf, categories)
    else:
        config = read_config(source)
        init_default_scope(config.get('default_scope', 'mmdet'))
        if not (config.get('train_dataloader') or {}).get('dataset'):
            raise ValueError(f'the config {source} has no train_dataloader.dataset: give an annotation file (.json)')
        counts = Counter()
        for leaf in leaves(config.train_dataloader.dataset):
            counts.update(count(leaf))
    empty = [name for name, number in counts.items() if not number]
    if empty:
        raise ValueError(
            f'{source} has no objects of class {", ".join(map(repr, empty))}, and so no weight for it: leave it out of '
            'the classes, by dataset.metainfo=dict(classes=...) in a config'
        )
    return counts


def report(counts: dict[str, int], weights: Sequence[float]) -> str:
    """The table of the classes, and the lines of config."""
    # Three digits are more than a count knows.
    weights = [float(f'{weight:.3g}') for weight in weights]
    total = sum(counts.values())
    rows = [
        [name, str(number), f'{number / total:.1%}', str(weight)]
        for (name, number), weight in zip(counts.items(), weights)
    ]
    table = AsciiTable([['class', 'objects', 'share', 'weight'], *rows])
    table.justify_columns = {1: 'right', 2: 'right', 3: 'right'}
    return f'{table.table}\n{CONFIG_LINES.format(weights=weights)}'


def main(argv: Sequence[str] | None = None) -> None:
    """Count, and print a table and the lines of config."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    counts = count_source(args.source)
    print(report(counts, class_weights(list(counts.values()), args.method, args.beta)))
