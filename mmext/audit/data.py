"""Checks of the data of a config: annotations, images, and what the pipelines make of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import realpath
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from .findings import Finding
from .images import are_local, image_findings, missing_images
from .labels import LabelOrder, build_coco, children, label_findings, leaves, order_findings
from .records import Records, category_names, named, read_records, record_findings, trained_counts

SPLITS = ('train', 'val', 'test')
# From this share of batches without a box on, the finding is a warning.
EMPTY_BATCHES = 0.1
# The remedy of a note that needs none.
NOTHING = 'Nothing is to be done'
Read = Callable[[str, dict | None], tuple[Records | None, list[Finding]]]


@dataclass(frozen=True)
class Source:
    """One CocoDataset of a config.

    Attributes:
        split: `train`, `val` or `test`.
        place: Where the config has it, such as `train_dataloader.dataset`.
        pipeline: Its transforms, then those of its wrappers, each with its class; None for a class not registered.
        dataset: It, built, but without pipeline and annotations.
        records: The well-formed records of its annotation file; None if that is no COCO file.
    """

    split: str
    place: str
    pipeline: list[tuple[type | None, Mapping]]
    dataset: object
    records: Records | None

    @property
    def order(self) -> LabelOrder:
        """Its classes, in the orders of the config and of the file."""
        classes, names = tuple(self.dataset.metainfo['classes']), category_names(self.records).values()
        return LabelOrder(self.place, self.records.path, classes, tuple(name for name in names if name in classes))


def data_findings(config: Config, images: bool = True) -> list[Finding]:
    """Check the training, validation and test data of a config.

    All data sets whose labels follow a COCO file are checked, below any wrappers. A finding is an error if training
    would fail, or learn or validate the wrong thing. Training does not read the test data, so what is wrong with their
    files alone is a warning.

    Args:
        config: The config, merged.
        images: Whether to open the images. Without, 100,000 annotations take a few seconds.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope') or 'mmdet'):
        read = _reader()
        sources, findings = _sources(config, read)
        findings += _files(config, sources, read)
        findings += _evaluators(config, sources, read)
        findings += _labels(sources)
        findings += _training(config, [source for source in sources if source.split == 'train' and source.records])
        findings += _images(sources, images)
    return list(dict.fromkeys(findings))


def _reader() -> Read:
    """:func:`read_records` that reads each file once."""
    known = {}

    def read(path: str, backend_args: dict | None) -> tuple[Records | None, list[Finding]]:
        if _same(path) not in known:
            known[_same(path)] = read_records(path, backend_args)
        return known[_same(path)]

    return read


def _same(path: str) -> str:
    """A path as a key: equal for two paths of one file."""
    return path if '://' in path else realpath(path)


def _capped(findings: Iterable[Finding], splits: Iterable[str]) -> list[Finding]:
    """The findings about what these splits read, without errors if that is the test data alone."""
    if set(splits) != {'test'}:
        return list(findings)
    return [replace(each, level='warning') if each.level == 'error' else each for each in findings]


def _sources(config: Config, read: Read) -> tuple[list[Source], list[Finding]]:
    """The CocoDatasets of the config, and a note about each data set that is none."""
    sources, notes = [], []
    for split in SPLITS:
        loader = config.get(f'{split}_dataloader') or {}
        if 'dataset' not in loader:
            continue
        for place, leaf in leaves(loader.dataset, f'{split}_dataloader.dataset').items():
            dataset = build_coco(leaf)
            if dataset is None:
                notes.append(Finding('note', place, f'the data of a {leaf.type} are not checked', NOTHING))
                continue
            records, _ = read(dataset.ann_file, dataset.backend_args)
            pipeline = _pipeline(loader.dataset, f'{split}_dataloader.dataset', place)
            sources.append(Source(split, place, pipeline, dataset, records))
    return sources, notes


def _pipeline(dataset: Mapping, place: str, leaf: str) -> list[tuple[type | None, Mapping]]:
    """The transforms of the data set at the place `leaf`, then those of its wrappers, each with its class."""
    from mmdet.registry import TRANSFORMS

    below = children(dataset, place).items()
    inner = [_pipeline(child, inside, leaf) for inside, child in below if leaf.startswith(inside)]
    own = [
        (step['type'] if isinstance(step['type'], type) else TRANSFORMS.get(step['type']), step)
        for step in dataset.get('pipeline') or ()
    ]
    return [*(inner[0] if inner else ()), *own]


class Metric(NamedTuple):
    """A CocoMetric of a config that reads an annotation file."""

    split: str
    key: str
    ann_file: str
    backend_args: dict | None


def _metrics(config: Config) -> list[Metric]:
    from mmdet.evaluation import CocoMetric
    from mmdet.registry import METRICS

    metrics = []
    for split in SPLITS[1:]:
        key = f'{split}_evaluator'
        given = config.get(key) or ()
        rows = {key: given} if isinstance(given, Mapping) else {f'{key}[{i}]': each for i, each in enumerate(given)}
        for place, each in rows.items():
            kind = each['type'] if isinstance(each['type'], type) else METRICS.get(each['type'])
            if each.get('ann_file') and kind and issubclass(kind, CocoMetric):
                metrics.append(Metric(split, f'{place}.ann_file', each['ann_file'], each.get('backend_args')))
    return metrics


def _files(config: Config, sources: Sequence[Source], read: Read) -> list[Finding]:
    """Check the records of each annotation file once."""
    metrics = _metrics(config)
    evaluated = {_same(metric.ann_file) for metric in metrics}
    readers = [(source.split, source.dataset.ann_file, source.dataset.backend_args) for source in sources]
    # A file that an evaluator alone names and that cannot be read is reported with the key of the evaluator.
    readers += [
        (metric.split, metric.ann_file, metric.backend_args)
        for metric in metrics
        if read(metric.ann_file, metric.backend_args)[0]
    ]
    splits, files = {}, {}
    for split, path, backend_args in readers:
        splits.setdefault(_same(path), set()).add(split)
        files.setdefault(_same(path), (path, backend_args))
    findings = []
    for key, (path, backend_args) in files.items():
        records, found = read(path, backend_args)
        if records:
            found = [*found, *record_findings(records, key in evaluated)]
        findings += _capped(found, splits[key])
    return findings


def _evaluators(config: Config, sources: Sequence[Source], read: Read) -> list[Finding]:
    """Check that the evaluators read the annotations of their data sets."""
    findings = []
    for metric in _metrics(config):
        own = [source for source in sources if source.split == metric.split]
        if any(_same(source.dataset.ann_file) == _same(metric.ann_file) for source in own):
            continue
        records, faults = read(metric.ann_file, metric.backend_args)
        if records is None:
            found = [
                Finding('error', metric.key, f'{fault.key}: {fault.message}', _remedy(own, 'data_root is not joined'))
                for fault in faults
            ]
        else:
            found = [fault for source in own if source.records for fault in _other_file(metric, records, source)]
        findings += _capped(found, [metric.split])
    return findings


def _remedy(sources: Sequence[Source], reason: str) -> str:
    return f'Set it to {sources[0].dataset.ann_file!r}; {reason}' if sources else 'Correct the path'


def _other_file(metric: Metric, records: Records, source: Source) -> list[Finding]:
    """How a file of an evaluator differs from that of its data set."""
    images, evaluated = ({each['id'] for each in file.images} for file in (source.records, records))
    categories, others = (
        {key: name for key, name in category_names(file).items() if name in source.dataset.metainfo['classes']}
        for file in (source.records, records)
    )
    if images - evaluated:
        level = 'error'
        difference = f'that has no {named(sorted(images - evaluated, key=str), "images")}: the evaluation would fail'
    elif evaluated - images:
        level = 'error'
        difference = (
            f'that has {named(sorted(evaluated - images, key=str), "images")} more: their objects would count as missed'
        )
    elif list(categories.items()) != list(others.items()):
        level = 'error'
        difference = f'the categories are {others} instead of {categories}: labels would change their meaning'
    elif records.annotations != source.records.annotations:
        level, difference = 'warning', 'the annotations differ'
    else:
        return []
    message = f'the evaluator reads {records.path}, but {source.place} reads {source.records.path}; {difference}'
    return [Finding(level, metric.key, message, _remedy([source], 'or remove it, to evaluate with the data set'))]


def _labels(sources: Sequence[Source]) -> list[Finding]:
    """Check the classes of each data set against its file and against the training data."""
    findings, right = [], []
    for source in sources:
        if source.records:
            names = tuple(category_names(source.records).values())
            found = label_findings(source.place, source.records.path, source.dataset.metainfo['classes'], names)
            findings += found
            right += [] if found else [source]
    findings += order_findings([source.order for source in right])
    for source in right:
        findings += _unused_classes(source)
    trained = next((source.order for source in right if source.split == 'train'), None)
    for order, split in ((source.order, source.split) for source in right if trained and source.split != 'train'):
        # An order that differs alone is reported above.
        if set(order.names) != set(trained.names):
            message = (
                f'{order.place} has the classes {order.names}, but {trained.place} has {trained.names}: a label means '
                'another class in each'
            )
            remedy = f'Set metainfo=dict(classes={trained.names}) and give {order.path} these categories'
            findings += _capped([Finding('error', f'{order.place}.metainfo.classes', message, remedy)], [split])
    return findings


def _unused_classes(source: Source) -> list[Finding]:
    """Categories with objects that are no classes, and, in the validation data, classes without objects."""
    names, classes = category_names(source.records), source.order.names
    dropped = Counter(names.get(each['category_id']) for each in source.records.annotations)
    dropped = {name: count for name, count in dropped.items() if name is not None and name not in classes}
    findings, key = [], f'{source.place}.metainfo.classes'
    if dropped and source.split != 'test':
        counts = ', '.join(f'{count:,} of {name!r}' for name, count in dropped.items())
        message = f'{source.records.path} has objects of categories that are no classes, and are background: {counts}'
        remedy = 'Add them to the classes, unless that is what you want'
        findings.append(Finding('warning', key, message, remedy))
    if source.split == 'val':
        counts = Counter(names.get(each['category_id']) for each in source.records.annotations)
        if missing := [name for name in classes if not counts[name]]:
            listed = ', '.join(map(repr, missing))
            message = f'{source.records.path} has no object of {listed}: AP is the mean of the other classes'
            findings.append(Finding('note', key, message, 'Add images with such objects'))
    return findings


def _training(config: Config, sources: Sequence[Source]) -> list[Finding]:
    """Check what the detector gets to train on: a box of each class, and in most batches."""
    if not sources:
        return []
    findings = [found for source in sources for found in _loading(source)]
    counts = Counter()
    for source in sources:
        counts.update(trained_counts(source.records, source.dataset.metainfo['classes']))
    if not counts:
        return [*findings, _no_boxes(sources)]
    unseen = [name for name in sources[0].dataset.metainfo['classes'] if not counts[name]]
    if unseen:
        message = f'the training data have no object of {", ".join(map(repr, unseen))} to learn it from'
        remedy = 'Annotate such objects, or remove the class and lower num_classes'
        findings.append(Finding('warning', f'{sources[0].place}.metainfo.classes', message, remedy))
    return findings + _empty_batches(config, sources)


def _loading(source: Source) -> list[Finding]:
    """Check that the pipeline loads the boxes."""
    from mmcv.transforms import LoadAnnotations

    key = f'{source.place}.pipeline'
    loads = [step for kind, step in source.pipeline if kind and issubclass(kind, LoadAnnotations)]
    if any(step.get('with_bbox', True) and step.get('with_label', True) for step in loads):
        return []
    if loads:
        message = 'LoadAnnotations loads no boxes, or no labels'
        return [Finding('error', key, message, 'Set with_bbox=True and with_label=True')]
    # A transform of the user's own may load boxes.
    own = [kind for kind, _ in source.pipeline if not kind or kind.__module__.split('.')[0] not in ('mmcv', 'mmdet')]
    message = 'the pipeline has no LoadAnnotations, so there are no boxes to train on'
    remedy = "Add dict(type='LoadAnnotations', with_bbox=True) after LoadImageFromFile"
    return [Finding('warning' if own else 'error', key, message, remedy)]


def _no_boxes(sources: Sequence[Source]) -> Finding:
    total = sum(len(source.records.annotations) for source in sources)
    reasons = Counter()
    for source in sources:
        reasons.update({fault: int(mask.sum()) for fault, mask in source.records.faults.items()})
    listed = ', '.join(f'{fault}: {count:,}' for fault, count in reasons.items() if count)
    why = f' ({listed or "of none of the classes"})' if total else ''
    message = f'none of the {total:,} annotations is a box to train on{why}; the losses would be 0'
    return Finding('error', sources[0].place, message, 'Correct the annotations, or ann_file and metainfo.classes')


def _empty_batches(config: Config, sources: Sequence[Source]) -> list[Finding]:
    """Check how many batches have no box, if images are drawn evenly and not mixed."""
    images = [_images_with_boxes(source) for source in sources]
    with_box = np.concatenate(images)
    key = 'train_dataloader.dataset'
    if not len(with_box):
        remedy = 'Lower filter_cfg.min_size, or correct width and height in the annotations'
        return [Finding('error', key, 'filter_cfg leaves no image to train on', remedy)]
    mixes = any(hasattr(kind, 'get_indexes') for source in sources for kind, _ in source.pipeline)
    batch_size = config.train_dataloader.get('batch_size', 1)
    share = (1 - with_box.mean()) ** batch_size
    if mixes or share < EMPTY_BATCHES:
        return []
    message = (
        f'{1 - with_box.mean():.0%} of the {len(with_box):,} images have no box, so that {share:.0%} of the batches of '
        f'{batch_size} have none'
    )
    return [Finding('warning', key, message, 'Set filter_cfg=dict(filter_empty_gt=True), or a larger batch_size')]


def _images_with_boxes(source: Source) -> np.ndarray:
    """Of the images that CocoDataset keeps, which have a box to train on."""
    records, filters = source.records, source.dataset.filter_cfg or {}
    ids = {key for key, name in category_names(records).items() if name in source.dataset.metainfo['classes']}
    of_class = np.array([each['category_id'] in ids for each in records.annotations], dtype=bool)
    known = records.image_indices >= 0
    annotated, with_box = np.zeros((2, len(records.images)), dtype=bool)
    annotated[records.image_indices[of_class & known]] = True
    with_box[records.image_indices[of_class & records.trained]] = True
    sides = np.array([min(image['width'], image['height']) for image in records.images])
    kept = sides >= filters.get('min_size', 0)
    if filters.get('filter_empty_gt'):
        kept &= annotated
    return with_box[kept]


def _images(sources: Sequence[Source], opened: bool) -> list[Finding]:
    """Check the images of each data set once."""
    findings = {}
    for source in sources:
        if source.records:
            place = (source.dataset.data_prefix.get('img'), _same(source.records.path))
            if place not in findings:
                findings[place] = _capped(_images_of(source, opened), [source.split])
    return [each for found in findings.values() for each in found]


def _images_of(source: Source, opened: bool) -> list[Finding]:
    from mmcv.transforms import LoadImageFromFile

    key, folder = f'{source.place}.data_prefix', source.dataset.data_prefix.get('img')
    if folder is None:
        message = f'it is {source.dataset.data_prefix}, without img, where MMDetection looks for the images'
        return [Finding('error', key, message, "Set data_prefix=dict(img='FOLDER/')")]
    step = next((step for kind, step in source.pipeline if kind and issubclass(kind, LoadImageFromFile)), {})
    if not are_local(folder, step.get('backend_args')):
        return [Finding('note', key, f'the images in {folder} are not local files, and are not checked', NOTHING)]
    findings = missing_images(source.records, folder)
    if opened:
        findings += image_findings(source.records, folder, orientation=step.get('color_type', 'color') == 'color')
    return findings
