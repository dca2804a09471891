"""Count the objects of each class, and print class weights as lines of config."""

import argparse
import io
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout

from mmengine.registry import init_default_scope
from terminaltables import AsciiTable

from mmext.audit import label_names, labels_follow_file, leaves, read_categories
from mmext.errors import UserError
from mmext.losses.class_balance import METHODS, class_weights

from .check import check_file, check_stack
from .common import example, read_config

logger = logging.getLogger(__name__)

CONFIG_LINES = """\
# mmext.YOLOXHead, with a softmax over the classes:
model = dict(bbox_head=dict(cls_target='label', loss_cls=dict(_delete_=True, type='mmext.SoftmaxFocalLoss', \
alpha={weights})))
# With one sigmoid per class; all sigmoid losses of mmext take class_weight:
model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='mmext.QualityFocalLoss', use_sigmoid=True, \
class_weight={weights})))
# A softmax head with a background class, such as Faster R-CNN's, takes one more alpha, the background's, at the end."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext class-weights`."""
    arguments = argparse.ArgumentParser(
        description=__doc__, **example('mmext class-weights data/bccd/annotations/train.json --method sqrt')
    )
    arguments.add_argument(
        'source',
        metavar='CONFIG_OR_ANNOTATIONS',
        help='COCO annotations (.json): count all categories. Or a config (a file or mmext::yolox/NAME.py): count its '
        "training data after mmdet's filtering, each image once",
    )
    rule = arguments.add_mutually_exclusive_group()
    rule.add_argument(
        '--method',
        choices=METHODS,
        help='weight by 1 / count, 1 / sqrt(count), or 1 / effective number of samples (default: effective)',
    )
    rule.add_argument(
        '--power', type=float, help='weight by 1 / count**POWER: 0 gives equal weights, 0.5 is sqrt, 1 is inverse'
    )
    arguments.add_argument(
        '--beta',
        type=float,
        default=0.999,
        help='beta of the effective number, in [0, 1): 0 gives equal weights, near 1 gives 1 / count (default: 0.999)',
    )
    return arguments.parse_args(argv)


def count(place: str, leaf: dict, categories: dict[int, str] | None = None) -> dict[str, int]:
    """The number of objects of each class that mmdet trains on, in the order of the labels.

    Args:
        place: Where the config has the data set.
        leaf: The config of the data set, without wrappers.
        categories: The categories of its COCO file by their ids; None: read them.

    Raises:
        MissingFileError: If its annotation file does not exist.
        UserError: If that is not a COCO file, or lacks a class.
    """
    from mmdet.registry import DATASETS

    dataset = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True, 'serialize_data': False})
    path = check_file(dataset.ann_file, 'annotation file')
    logger.info('counting the objects of %s', path)
    names = classes = tuple(dataset.metainfo['classes'])
    if labels_follow_file(type(dataset)):
        names = label_names(place, path, dataset.metainfo['classes'], categories or read_categories(path))
    if names != classes:
        logger.warning(
            '%s names its classes %s, but %s has them in the order %s. MMDetection numbers classes in the order of the '
            'file, and so are these weights: set metainfo=dict(classes=%s)',
            place,
            classes,
            path,
            names,
            names,
        )
    try:
        # pycocotools prints its progress, and the standard output is for the weights.
        with redirect_stdout(io.StringIO()):
            dataset.full_init()
    except KeyError as error:
        raise UserError(f'an image or an annotation of {path} has no {error}, which mmdet needs: add it') from error
    instances = (instance for image in dataset.data_list for instance in image['instances'])
    # A crowd has an ignore flag.
    labels = Counter(instance['bbox_label'] for instance in instances if not instance.get('ignore_flag'))
    return {name: labels[label] for label, name in enumerate(names)}


def count_source(source: str) -> dict[str, int]:
    """The number of objects of each class in a COCO file, or in the training data of a config.

    Raises:
        MissingFileError: If there is no such file.
        UserError: If it cannot be counted, or has no objects.
    """
    if source.endswith('.json'):
        check_stack()
        categories = read_categories(check_file(source, 'annotation file'))
        metainfo = dict(classes=list(categories.values()))
        leaf = dict(type='mmdet.CocoDataset', ann_file=source, data_prefix=dict(img=''), metainfo=metainfo)
        counts = count(source, leaf, categories)
    else:
        config = read_config(source)
        init_default_scope(config.get('default_scope', 'mmdet'))
        if not (config.get('train_dataloader') or {}).get('dataset'):
            raise UserError(f'the config {source} has no train_dataloader.dataset: give an annotation file (.json)')
        counts = Counter()
        for place, leaf in leaves(config.train_dataloader.dataset, 'train_dataloader.dataset').items():
            counts.update(count(place, leaf))
    if not any(counts.values()):
        raise UserError(f'{source} has no objects of any class, so there is nothing to weight')
    return counts


def report(counts: dict[str, int], weights: Sequence[float]) -> str:
    """The table of counts and weights, and the lines of config."""
    # More digits would suggest a precision that the counts do not have.
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
    print(report(counts, class_weights(list(counts.values()), args.method, args.beta, args.power)))
