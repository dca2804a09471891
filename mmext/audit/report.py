"""All checks of a config at once, for `mmext audit`."""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import islice
from math import isfinite

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, load_state_dict, set_random_seed
from torch import nn
from torch.utils.data import DataLoader

import mmext
from mmext.audit import check_num_classes

from .advice import Advice, advise
from .boxes import Boxes, boxes_of, summarize
from .checkpoint import checkpoint_findings, class_findings, weights_of
from .data import data_findings
from .evidence import read_evidence
from .findings import Finding, errors
from .keys import lr_findings, unread_keys
from .losses import LossRow, loss_findings, measure
from .recipe import check_checkpoints, check_hooks
from .trial import build_hooks, build_loader, build_model, train
from .types import namesakes, type_findings
from .wiring import check_wiring, yolox_head

# Batches that the losses are measured on.
BATCHES = 4
# Images whose boxes are looked at.
IMAGES = 64


@dataclass
class Report:
    """What the audit of a config found.

    Attributes:
        config: The config as it was given.
        findings: Everything that is wrong, or looks wrong.
        tables: The losses, by the weights they were measured at, in words.
        boxes: The training data; None if they have no boxes.
        advice: What to compare first; None if that was not asked for, or if there is an error.
    """

    config: str
    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, list[LossRow]] = field(default_factory=dict)
    boxes: Boxes | None = None
    advice: Advice | None = None

    def add(self, findings: Iterable[Finding]) -> None:
        """Add what was measured, but for findings about a key that a check has already found to be as wrong."""
        for finding in findings:
            if (finding.level, finding.key) not in {(each.level, each.key) for each in self.findings}:
                self.findings.append(finding)

    @property
    def status(self) -> int:
        """The exit status of the command: 1 if there is an error."""
        return 1 if errors(self.findings) else 0

    def as_record(self) -> dict[str, object]:
        """All of it, for JSON; numbers that are not finite are None."""
        return {'mmext': mmext.__version__, **_finite(asdict(self)), 'errors': len(errors(self.findings))}


def audit(
    config: Config,
    source: str,
    options: Mapping[str, object] | None = None,
    data_only: bool = False,
    checkpoint: Mapping | None = None,
    iters: int = 0,
) -> Report:
    """Check a config, and measure its losses.

    Args:
        config: The config, with the options applied.
        source: As it was given: a file, or a name `mmext::...`.
        options: The options that override it.
        data_only: Check the data alone, without building the model.
        checkpoint: The content of a checkpoint, at whose weights the losses are measured, too.
        iters: After this many steps of the optimizer the losses are measured again.
    """
    report = Report(source)
    with _quiet():
        init_default_scope(config.get('default_scope') or 'mmdet')
        set_random_seed((config.get('randomness') or {}).get('seed') or 0)
        report.findings += data_findings(config)
        loader, batches = _load(config, report)
        if data_only:
            report.boxes = summarize(loader.dataset, batches) if batches else None
            return report
        report.findings += [*type_findings(config), *unread_keys(config), *lr_findings(config)]
        model = _build(config, loader, report)
        if model is None:
            return report
        _load_from(model, config, report)
        if batches:
            report.boxes = summarize(loader.dataset, batches, yolox_head(model))
            classes = tuple(loader.dataset.metainfo.get('classes') or ())
            _measure(model, config, loader, batches[:BATCHES], report, checkpoint, classes, iters)
        # What has an error is no baseline.
        if report.boxes and not errors(report.findings):
            yolox = yolox_head(model) is not None
            report.advice = advise(report.boxes, config, source, options or {}, read_evidence(), yolox)
    return report


def _load(config: Config, report: Report) -> tuple[DataLoader | None, list[dict]]:
    """The loader of the training data, and its first batches."""
    loader, batches = None, []
    with _reported(report, 'train_dataloader'):
        loader = build_loader(config)
        number = max(BATCHES, -(-IMAGES // (getattr(loader, 'batch_size', None) or 1)))
        # No more than an epoch.
        batches = list(islice(iter(loader), number))
        report.add(_batch_findings(batches))
    return loader, batches


def _batch_findings(batches: Sequence[Mapping]) -> list[Finding]:
    """Whether the pipeline gives boxes to train on."""
    key = 'train_dataloader'
    if not batches:
        message = 'it gives no batch: the data have fewer images than a batch, and drop_last is set'
        return [Finding('error', key, message, 'Lower batch_size, or set drop_last=False')]
    empty = sum(not any(map(len, boxes_of(batch))) for batch in batches)
    if not empty:
        return []
    remedy = (
        'Check the annotations, the names of the classes, and that the pipeline has LoadAnnotations(with_bbox=True)'
    )
    level = 'error' if empty == len(batches) else 'warning'
    return [Finding(level, f'{key}.dataset', f'{empty} of {len(batches)} batches have no box', remedy)]


def _build(config: Config, loader: DataLoader | None, report: Report) -> nn.Module | None:
    """The model with its initial weights, checked; None if it cannot be built."""
    model = None
    with _reported(report, 'model'):
        model, found = build_model(config)
        report.findings += [*found, *check_wiring(model), *namesakes(model, config)]
    if model is None or loader is None:
        return model
    with _reported(report, 'model.bbox_head.num_classes'):
        check_num_classes(model, loader.dataset.metainfo.get('classes') or (), 'train_dataloader.dataset')
    with _reported(report, 'custom_hooks'):
        hooks = build_hooks(config)
        report.findings += [*check_hooks(model, loader.dataset, hooks), *check_checkpoints(hooks)]
    return model


def _load_from(model: nn.Module, config: Config, report: Report) -> None:
    """Load the weights that training starts from."""
    if not config.get('load_from') or config.get('resume'):
        return
    with _reported(report, 'load_from'):
        checkpoint = CheckpointLoader.load_checkpoint(config.load_from, 'cpu')
        report.findings += checkpoint_findings(model, checkpoint, 'load_from', to_finetune=True)
        load_state_dict(model, weights_of(checkpoint))


def _measure(
    model: nn.Module,
    config: Config,
    loader: DataLoader,
    batches: Sequence[dict],
    report: Report,
    checkpoint: Mapping | None,
    classes: tuple[str, ...],
    iters: int,
) -> None:
    """Measure the losses at the initial weights, at those of the checkpoint, and after some iterations."""

    def table(when: str) -> None:
        with _reported(report, 'model'):
            report.tables[when] = measure(model, batches)
            report.add(loss_findings(report.tables[when], when))

    table('at the initial weights')
    if checkpoint is not None:
        report.findings += checkpoint_findings(model, checkpoint, '--checkpoint', to_finetune=False)
        report.findings += class_findings(checkpoint, classes, '--checkpoint')
        load_state_dict(model, weights_of(checkpoint))
        table('at the weights of the checkpoint')
    if iters:
        with _reported(report, 'optim_wrapper'):
            train(model, config, loader, iters)
            table(f'after {iters} iterations')


@contextmanager
def _reported(report: Report, key: str) -> Iterator[None]:
    """Report an exception as an error at this key: a config is arbitrary, so almost any may come of building it."""
    try:
        yield
    except Exception as error:
        report.findings.append(Finding.of_error(key, error))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the logs of mmengine and the prints of pycocotools away: what they warn of is among the findings."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)


def _finite(value: object) -> object:
    """The value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
