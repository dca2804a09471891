"""Checks of the data of a config: annotations, classes, evaluators, images, and what the pipelines make of them."""

from collections import Counter
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import DefaultScope

from .evaluators import coco_metrics, evaluator_findings
from .findings import Finding
from .images import are_local, image_findings, missing_images
from .labels import label_findings, order_findings
from .records import category_names, record_findings
from .sources import NOTHING, Read, Source, capped, file_key, find_sources, reader
from .training import training_findings


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
        read = reader()
        sources, findings = find_sources(config, read)
        findings += _files(config, sources, read)
        findings += evaluator_findings(config, sources, read)
        findings += _labels(sources)
        findings += training_findings(config, sources)
        findings += _images(sources, images)
    return list(dict.fromkeys(findings))


def _files(config: Config, sources: Sequence[Source], read: Read) -> list[Finding]:
    """Check the records of each annotation file once."""
    metrics = coco_metrics(config)
    evaluated = {file_key(metric.ann_file) for metric in metrics}
    readers = [(source.split, source.dataset.ann_file, source.dataset.backend_args) for source in sources]
    # A file that an evaluator alone names and that cannot be read is reported with the key of the evaluator.
    readers += [
        (metric.split, metric.ann_file, metric.backend_args)
        for metric in metrics
        if read(metric.ann_file, metric.backend_args)[0]
    ]
    splits, files = {}, {}
    for split, path, backend_args in readers:
        splits.setdefault(file_key(path), set()).add(split)
        files.setdefault(file_key(path), (path, backend_args))
    findings = []
    for key, (path, backend_args) in files.items():
        records, found = read(path, backend_args)
        if records:
            found = [*found, *record_findings(records, key in evaluated)]
        findings += capped(found, splits[key])
    return findings


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
            findings += capped([Finding('error', f'{order.place}.metainfo.classes', message, remedy)], [split])
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


def _images(sources: Sequence[Source], opened: bool) -> list[Finding]:
    """Check the images of each data set once."""
    findings = {}
    for source in sources:
        if source.records:
            place = (source.dataset.data_prefix.get('img'), file_key(source.records.path))
            if place not in findings:
                findings[place] = capped(_images_of(source, opened), [source.split])
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
