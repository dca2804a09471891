"""Checks of what the detector gets to train on: a box of each class, and in most batches."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config

from .findings import Finding
from .records import category_names, named, trained_counts
from .sources import Source

# From this share of batches without a box on, the finding is a warning.
EMPTY_BATCHES = 0.1


def training_findings(config: Config, sources: Sequence[Source]) -> list[Finding]:
    """Check what the detector gets to train on: a box of each class, and in most batches."""
    sources = [source for source in sources if source.split == 'train' and source.records]
    # A string in place of a tuple of classes is reported with the labels.
    if not sources or any(isinstance(source.dataset.metainfo['classes'], str) for source in sources):
        return []
    findings = [found for source in sources for found in (*_loading(source), *_thin_images(source))]
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


def _thin_images(source: Source) -> list[Finding]:
    """Check that no image has a side of 1 px: PackDetInputs cannot make a tensor of it once it is flipped."""
    images, kept = source.records.images, _kept_images(source)
    sides = [min(image['width'], image['height']) for image in images]
    thin = [image['id'] for image, side, is_kept in zip(images, sides, kept) if is_kept and side <= 1]
    if not thin:
        return []
    message = f'{named(thin, "images")}: the image is 1 px wide or high, and training would stop when it is flipped'
    remedy = 'Remove the image, correct its size, or set filter_cfg=dict(min_size=2)'
    return [Finding('error', f'{source.records.path}: images.width', message, remedy)]


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
    with_box = np.concatenate([_images_of(each, each.records.trained)[_kept_images(each)] for each in sources])
    key = 'train_dataloader.dataset'
    if not len(with_box):
        remedy = 'Lower filter_cfg.min_size, or correct width and height in the annotations'
        return [Finding('error', key, 'filter_cfg leaves no image to train on', remedy)]
    # Not by hasattr: mmcv's descriptors of random methods cannot be read from a class.
    bases = [base for source in sources for kind, _ in source.pipeline if kind for base in kind.__mro__]
    mixes = any('get_indexes' in vars(base) for base in bases)
    batch_size = config.train_dataloader.get('batch_size', 1)
    share = (1 - with_box.mean()) ** batch_size
    if mixes or share < EMPTY_BATCHES:
        return []
    message = (
        f'{1 - with_box.mean():.0%} of the {len(with_box):,} images have no box, so that {share:.0%} of the batches of '
        f'{batch_size} have none'
    )
    return [Finding('warning', key, message, 'Set filter_cfg=dict(filter_empty_gt=True), or a larger batch_size')]


def _kept_images(source: Source) -> np.ndarray:
    """Which images CocoDataset keeps: those that its `filter_cfg` does not leave out."""
    records, filters = source.records, source.dataset.filter_cfg or {}
    sides = np.array([min(image['width'], image['height']) for image in records.images])
    kept = sides >= filters.get('min_size', 0)
    if filters.get('filter_empty_gt'):
        kept &= _images_of(source, records.image_indices >= 0)
    return kept


def _images_of(source: Source, annotations: np.ndarray) -> np.ndarray:
    """Which images have one of these annotations, (n,), that is of a class."""
    records, classes = source.records, source.dataset.metainfo['classes']
    ids = {key for key, name in category_names(records).items() if name in classes}
    of_class = np.array([each['category_id'] in ids for each in records.annotations], dtype=bool)
    images = np.zeros(len(records.images), dtype=bool)
    images[records.image_indices[of_class & annotations]] = True
    return images
