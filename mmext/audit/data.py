"""The class that each label stands for.

mmdet's CocoDataset numbers the classes in the order of the annotation file, not in that of `metainfo['classes']`.
Where the two orders differ, every name and every per-class weight goes to the wrong class, and training reports
nothing.
"""

import mmap
from codecs import getincrementaldecoder
from collections.abc import Iterable, Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import NamedTuple

from mmengine.fileio import exists, get_local_path, load
from torch import nn

from mmext.errors import UserError

KEYS = ('images', 'annotations', 'categories')


class LabelOrder(NamedTuple):
    """The classes of one data set, twice.

    Attributes:
        place: Where the config has the data set, such as `train_dataloader.dataset`.
        path: Its annotation file.
        classes: The names in `metainfo['classes']`, in that order.
        names: The same names in the order of the annotation file: `names[i]` is the class of label i.
    """

    place: str
    path: str
    classes: tuple[str, ...]
    names: tuple[str, ...]


def read_categories(path: str, backend_args: dict | None = None) -> dict[int, str]:
    """Read the names of the categories of a COCO file by their ids, in the order of the file.

    Only the list of categories is parsed, which takes 0.1 s for the 450 MB of COCO's training annotations. A file
    that has the key "categories" more than once is parsed as a whole.

    Args:
        path: The annotation file.
        backend_args: How mmengine's file client reads it; None: by its path.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is not a COCO annotation file, or has no categories.
    """
    with get_local_path(path, backend_args=backend_args) as local:
        categories = _scan(Path(local))
        if categories is None:
            categories = _parse(path, local)
    if not categories:
        raise UserError(f'{path} has no categories: add to its "categories" an id and a name for each class')
    return {category['id']: category['name'] for category in categories}


def _scan(path: Path) -> list[dict] | None:
    """The list of categories, found without parsing the rest; None if that is not certain."""
    if not path.stat().st_size:
        return None
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        starts = [text.find(f'"{key}"'.encode()) for key in KEYS]
        key = starts[-1]
        if min(starts) < 0 or text.find(b'"categories"', key + 1) >= 0:
            return None
        start = text.find(b'[', key)
        if start < 0 or text[key + len('"categories"') : start].strip() != b':':
            return None
        return _decode(text, start)


def _decode(text: mmap.mmap, start: int) -> list | None:
    """The JSON list that starts at this byte; None if it has no end."""
    size = 2**16
    while True:
        # The window may end within a character, which the incremental decoder leaves out.
        window = getincrementaldecoder('utf-8')().decode(text[start : start + size])
        try:
            return JSONDecoder().raw_decode(window)[0]
        except JSONDecodeError:
            if start + size >= len(text):
                return None
        size *= 8


def _parse(path: str, local: str) -> list[dict]:
    """The list of categories of a file that is parsed as a whole, or an error that says what is wrong with it."""
    try:
        data = load(local, file_format='json')
    except ValueError as error:
        raise UserError(f'{path} is not JSON ({error}): give a COCO annotation file, or a config') from error
    missing = [key for key in KEYS if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if missing:
        raise UserError(
            f'{path} is not a COCO annotation file, it has no list of {" or ".join(missing)}: convert it to one, or '
            'give a config'
        )
    return data['categories']


def leaves(dataset: object, place: str = 'dataset') -> dict[str, object]:
    """The data sets below the wrappers (RepeatDataset, ConcatDataset, MultiImageMixDataset, ...), by their place.

    Args:
        dataset: A data set, or its config.
        place: Where the config has it.
    """
    inner = {f'{place}.datasets[{index}]': child for index, child in enumerate(getattr(dataset, 'datasets', ()))}
    if hasattr(dataset, 'dataset'):
        inner[f'{place}.dataset'] = dataset.dataset
    below = [leaves(child, child_place) for child_place, child in inner.items()]
    return {name: leaf for found in below for name, leaf in found.items()} or {place: dataset}


def label_names(place: str, path: str, classes: Sequence[str], categories: Mapping[int, str]) -> tuple[str, ...]:
    """The name of each label of a CocoDataset: its classes in the order of the annotation file.

    Args:
        place: Where the config has the data set.
        path: Its annotation file.
        classes: `metainfo['classes']`.
        categories: The categories of the file, from :func:`read_categories`.

    Raises:
        UserError: If `classes` is a string, the file lacks a class, or has two categories of one name.
    """
    if isinstance(classes, str):
        raise UserError(f'{place}.metainfo.classes is the string {classes!r}: write a tuple, classes=({classes!r},)')
    in_file = tuple(categories.values())
    missing = [name for name in classes if name not in in_file]
    if missing:
        raise UserError(
            f'{path} has no class {_listed(missing)}, which {place} names; it has {_listed(in_file)}. MMDetection '
            f'would drop its boxes and renumber the classes that follow, without a message. Set {_line(in_file)} in '
            f'{place}, or a subset in that order; without metainfo a CocoDataset has the 80 classes of COCO'
        )
    names = tuple(name for name in in_file if name in classes)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f'{path} has more than one class named {_listed(twice)}: merge them, or rename one')
    return names


def label_orders(dataset: object, place: str) -> list[LabelOrder]:
    """The label orders of the CocoDatasets in a data set.

    Other data sets are skipped: their order comes from the metainfo, or is unknown.

    Raises:
        FileNotFoundError, UserError: See :func:`read_categories` and :func:`label_names`.
    """
    orders = []
    for name, leaf in leaves(dataset, place).items():
        if labels_follow_file(type(leaf)):
            classes = leaf.metainfo['classes']
            categories = read_categories(leaf.ann_file, leaf.backend_args)
            orders.append(
                LabelOrder(name, leaf.ann_file, tuple(classes), label_names(name, leaf.ann_file, classes, categories))
            )
    return orders


def label_orders_of_config(dataset: Mapping, place: str) -> list[LabelOrder]:
    """Like :func:`label_orders`, but from the config of a data set; annotation files that do not exist are skipped.

    The annotations are not loaded, so the cost is that of :func:`read_categories`.
    """
    from mmdet.registry import DATASETS

    orders = []
    for name, leaf in leaves(dataset, place).items():
        kind = leaf['type'] if isinstance(leaf['type'], type) else DATASETS.get(leaf['type'])
        if kind and labels_follow_file(kind):
            built = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
            if exists(built.ann_file, backend_args=built.backend_args):
                orders += label_orders(built, name)
    return orders


def labels_follow_file(kind: type) -> bool:
    """Whether a data set numbers its classes in the order of its file, as CocoDataset does and LVIS does not."""
    from mmdet.datasets import CocoDataset

    return issubclass(kind, CocoDataset) and kind.load_data_list is CocoDataset.load_data_list


def check_order(orders: Sequence[LabelOrder]) -> None:
    """Refuse classes in another order than the labels.

    Args:
        orders: Those of the training, validation and test data.

    Raises:
        UserError: If two annotation files list the same classes in different orders (metainfo cannot fix that), or if
            the metainfo and its annotation file do.
    """
    for one in orders:
        for other in orders:
            if one.names != other.names and set(one.names) == set(other.names):
                raise UserError(
                    'Two annotation files have the same classes in different orders. MMDetection numbers classes in '
                    'the order of the file, so a label means another class in each: '
                    f'{one.place} ({one.path}) has {one.names}, {other.place} ({other.path}) has {other.names}. '
                    'Rewrite one of the files with its "categories" in the order of the other; metainfo cannot '
                    'mend this'
                )
    wrong = [order for order in orders if order.classes != order.names]
    if wrong:
        first = wrong[0]
        places = [order.place for order in wrong if order.names == first.names]
        raise UserError(
            f'{first.place} names its classes {first.classes}, but the annotation file {first.path} has them in the '
            f'order {first.names}. MMDetection numbers classes in the order of the file: names and per-class weights '
            f'would go to the wrong classes. Set {_line(first.names)} in {" and ".join(places)}, and give per-class '
            'arguments, such as alpha and class_weight, in that order'
        )


def check_num_classes(model: nn.Module, classes: Sequence[str], place: str) -> None:
    """Refuse a head with another number of classes than the data set.

    Raises:
        UserError: If `num_classes` of a head with a class loss is not the number of classes.
    """
    for path, head in model.named_modules():
        # An RPN has one class, whatever the data.
        if not (hasattr(head, 'loss_cls') and hasattr(head, 'num_classes')) or path.endswith('rpn_head'):
            continue
        if head.num_classes != len(classes):
            raise UserError(
                f'model.{path}.num_classes is {head.num_classes}, but {place} has {len(classes)} classes, '
                f'{tuple(classes)}: set model.{path}.num_classes={len(classes)}, or '
                f'{place}.metainfo=dict(classes=(...))'
            )


def _listed(names: Iterable[str]) -> str:
    return ', '.join(map(repr, names))


def _line(names: Sequence[str]) -> str:
    return f'metainfo=dict(classes={tuple(names)})'
