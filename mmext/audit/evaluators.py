"""Checks of the annotation files of the evaluators."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config

from .findings import Finding
from .records import Records, category_names, named
from .sources import SPLITS, Read, Source, capped, file_key


class Metric(NamedTuple):
    """A CocoMetric of a config that reads an annotation file."""

    split: str
    key: str
    ann_file: str
    backend_args: dict | None


def coco_metrics(config: Config) -> list[Metric]:
    """The CocoMetrics of the validation and test evaluators that read an annotation file."""
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


def evaluator_findings(config: Config, sources: Sequence[Source], read: Read) -> list[Finding]:
    """Check that the evaluators read the annotations of their data sets."""
    findings = []
    for metric in coco_metrics(config):
        own = [source for source in sources if source.split == metric.split]
        if {file_key(source.dataset.ann_file) for source in own} == {file_key(metric.ann_file)}:
            continue
        records, faults = read(metric.ann_file, metric.backend_args)
        if records is None:
            found = [
                Finding('error', metric.key, f'{fault.key}: {fault.message}', _remedy(own, 'data_root is not joined'))
                for fault in faults
            ]
        else:
            found = _other_file(metric, records, [source for source in own if source.records])
        findings += capped(found, [metric.split])
    return findings


def _remedy(sources: Sequence[Source], reason: str) -> str:
    return f'Set it to {sources[0].dataset.ann_file!r}; {reason}' if sources else 'Correct the path'


def _other_file(metric: Metric, records: Records, sources: Sequence[Source]) -> list[Finding]:
    """How the file of an evaluator differs from those of its data sets."""
    if not sources:
        return []
    images = {each['id'] for source in sources for each in source.records.images}
    evaluated = {each['id'] for each in records.images}
    categories, others = (
        {key: name for key, name in category_names(file).items() if name in sources[0].dataset.metainfo['classes']}
        for file in (sources[0].records, records)
    )
    level = 'error'
    if lacking := sorted(images - evaluated, key=str):
        difference = f'that has no {named(lacking, "images")}: the evaluation would fail'
    elif more := sorted(evaluated - images, key=str):
        difference = f'that has {named(more, "images")} more: their objects would count as missed'
    elif list(categories.items()) != list(others.items()):
        difference = f'the categories are {others} instead of {categories}: labels would change their meaning'
    elif records.annotations != [each for source in sources for each in source.records.annotations]:
        level, difference = 'warning', 'the annotations differ'
    else:
        return []
    read = ' and '.join(source.records.path for source in sources)
    message = f'the evaluator reads {records.path}, but {sources[0].place} reads {read}; {difference}'
    return [Finding(level, metric.key, message, _remedy(sources, 'or remove it, to evaluate with the data set'))]
