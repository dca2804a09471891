"""What the work dir of a training holds: records, config, detections."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import join

from mmengine.config import Config

from mmext.errors import UserError

from .scalars import loss_names, metrics_of, read_scalars

RESULT_FILE, COMPARISON_FILE = 'result.json', 'comparison.json'
# What mmdet's CocoMetric appends to its outfile_prefix.
DETECTIONS_SUFFIX = '.bbox.json'
PREFIX = 'detections'


@dataclass(frozen=True)
class Detections:
    """Detections of an evaluation.

    Attributes:
        boxes: COCO's result format.
        dataloader: The key of the config of the data that they are of.
        path: The file that they were read from.
    """

    boxes: list[dict]
    dataloader: str
    path: Path


@dataclass(frozen=True)
class TrainingRun:
    """The training in a work dir.

    Attributes:
        name: What it is called in legends.
        folder: The work dir.
        records: The records of mmengine's local backend.
    """

    name: str
    folder: Path
    records: list[dict]

    @property
    def losses(self) -> list[dict]:
        """The records of training steps."""
        return [record for record in self.records if 'loss' in record]

    @cached_property
    def loss_names(self) -> list[str]:
        """The losses that add up to `loss`."""
        return loss_names(self.records)

    @cached_property
    def evaluations(self) -> list[dict]:
        """`step` and the metrics of each evaluation."""
        return metrics_of(self.records)

    @property
    def by_epoch(self) -> bool:
        """Whether the steps of the evaluations are epochs, not iterations."""
        return any('epoch' in record for record in self.losses)

    @cached_property
    def config_file(self) -> Path | None:
        """The resolved config of the newest training."""
        # A test leaves a config, too, but no scalars.
        dumped = [path.with_name('config.py') for path in self.folder.glob('*/vis_data/scalars.json')]
        found = sorted(filter(Path.is_file, dumped)) or sorted(self.folder.glob('*.py'))
        return found[-1] if found else None

    @cached_property
    def config(self) -> Config | None:
        """The resolved config; None if there is none."""
        return Config.fromfile(self.config_file) if self.config_file else None

    def detections(self) -> Detections | None:
        """The detections in the work dir: those of `mmext compare`, or the newest `*.bbox.json` of mmdet's CocoMetric.

        Raises:
            UserError: If a file is not what its name says.
        """
        result = self.folder / RESULT_FILE
        if result.is_file():
            content = _read_json(result)
            boxes = content.get('detections') if isinstance(content, dict) else None
            if boxes is not None:
                return Detections(_check_boxes(boxes, result), 'val_dataloader', result)
        files = sorted(self.folder.glob(f'*{DETECTIONS_SUFFIX}'), key=lambda path: path.stat().st_mtime)
        if not files:
            return None
        return Detections(_check_boxes(_read_json(files[-1]), files[-1]), 'test_dataloader', files[-1])

    def command(self) -> str:
        """The command that evaluates the newest checkpoint and leaves its detections in the work dir."""
        checkpoint = max(self.folder.glob('*.pth'), key=lambda path: path.stat().st_mtime, default='CHECKPOINT')
        words = ['mmext', 'test', str(self.config_file or 'CONFIG'), str(checkpoint)]
        option = f'test_evaluator.outfile_prefix={self.folder / PREFIX}'
        return join([*words, '--work-dir', str(self.folder), '--cfg-options', option])


def load_run(folder: Path, name: str) -> TrainingRun:
    """Read a work dir.

    Args:
        folder: The `--work-dir` of `mmext train`, or the folder of a run of `mmext compare`.
        name: What it is called in legends.

    Raises:
        UserError: If there is no such folder, or it has no records of a training.
    """
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}: give the work dir of a training (--work-dir of mmext train)')
    if (folder / COMPARISON_FILE).is_file():
        raise UserError(
            f'{folder} is the folder of a comparison, which has a page of its own: `mmext compare --report {folder}`. '
            f'To plot its runs, give their folders: {folder}/*/seed_*'
        )
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    if not files:
        raise UserError(
            f'{folder} has no records of a training, TIME/vis_data/scalars.json: give the work dir that `mmext train` '
            f'logs to{_nearby(folder)}'
        )
    records = read_scalars(files[-1].parents[1], resumed=True)
    if not records:
        raise UserError(f'{files[-1]} has no record yet: wait until the training has logged its first iteration')
    return TrainingRun(name, folder, records)


def _nearby(folder: Path) -> str:
    """A hint at a work dir above or below the folder."""
    for place in (folder.parent, folder.parent.parent):
        if any(place.glob('*/vis_data/scalars.json')):
            return f', such as {place}'
    below = sorted(folder.glob('*/*/vis_data/scalars.json')) or sorted(folder.glob('*/*/*/vis_data/scalars.json'))
    return f', such as {below[0].parents[2]}' if below else ''


def default_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart.

    >>> default_names([Path('runs/giou'), Path('runs/ciou')])
    ['giou', 'ciou']
    >>> default_names([Path('giou/seed_0'), Path('ciou/seed_0')])
    ['giou/seed_0', 'ciou/seed_0']
    """
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({path[-length:] for path in parts}) < len({*parts}):
        length += 1
    return ['/'.join(path[-length:]) for path in parts]


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'{path} is not JSON ({error}): delete it, and evaluate again') from error


def _check_boxes(boxes: object, path: Path) -> list[dict]:
    keys = {'image_id', 'category_id', 'bbox', 'score'}
    if not isinstance(boxes, list) or not all(isinstance(box, dict) and keys <= box.keys() for box in boxes):
        raise UserError(f"{path} has no detections in COCO's result format: delete it, and evaluate again")
    return boxes
