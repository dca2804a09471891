"""The records that mmengine's local backend logs: losses, learning rates and metrics by step."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger

# The usual names of COCO's metrics.
NAMES = {'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'}
SIZE_NAMES = {'bbox_mAP_s': 'APs', 'bbox_mAP_m': 'APm', 'bbox_mAP_l': 'APl'}
# Keys of an evaluation that are no metrics.
NOT_METRICS = ('step', 'epoch', 'iter', 'time', 'data_time', 'memory')


def read_scalars(log_dir: Path, resumed: bool) -> list[dict]:
    """Read the records of a run, one for each logged step.

    A line that is not a record is skipped with a warning: a run that was killed may have left half a line.

    Args:
        log_dir: The folder of the run, named by its time, in the work dir.
        resumed: Read the earlier runs in the same work dir too, each up to the step where the next one started.
    """
    files = [log_dir / 'vis_data' / 'scalars.json']
    if resumed:
        files = sorted(log_dir.parent.glob('*/vis_data/scalars.json'))
    records: list[dict] = []
    # The first step of the runs read so far, for training (True) and evaluation (False): earlier runs end there.
    first = {True: float('inf'), False: float('inf')}
    for file in reversed([file for file in files if file.is_file()]):
        run = [record for record in _read(file) if record['step'] < first['loss' in record]]
        for record in run:
            first['loss' in record] = min(first['loss' in record], record['step'])
        records = run + records
    return records


def _read(file: Path) -> list[dict]:
    """The records of one file."""
    records = []
    for number, line in enumerate(file.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
        if record := parse(line):
            records.append(record)
        else:
            MMLogger.get_current_instance().warning(
                '%s, line %d is skipped: it is not a record of a step: %.40r', file, number, line
            )
    return records


def parse(line: str) -> dict | None:
    """The record of a line; None if it is not a record of a step."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get('step'), int) else None


def points_of(records: Sequence[dict], key: str) -> list[tuple[int, float]]:
    """The steps at which the key was logged, and its values; of two records of one step the later counts."""
    return sorted({record['step']: record[key] for record in records if key in record}.items())


def metric_name(key: str) -> str:
    """The usual name of a metric that mmdet logs.

    >>> [metric_name(key) for key in ('coco/bbox_mAP_50', 'coco/bbox_mAP_s', 'coco/cat_precision', 'voc/mAP')]
    ['AP50', 'APs', 'AP cat', 'mAP']
    """
    name = key.split('/', 1)[-1]
    if name.endswith('_precision'):
        return f'AP {name.removesuffix("_precision")}'
    return {**NAMES, **SIZE_NAMES}.get(name, name)


def metrics_of(records: Sequence[dict]) -> list[dict]:
    """The evaluations, as `step` and the metrics by their usual names, each a number."""
    return [
        {'step': record['step']}
        | {
            metric_name(key): value
            for key, value in record.items()
            if key not in NOT_METRICS and isinstance(value, (int, float))
        }
        for record in records
        if 'loss' not in record
    ]


def loss_names(records: Sequence[dict]) -> list[str]:
    """The losses of the records that add up to `loss`, as mmengine finds them: by `loss` in the name."""
    keys = dict.fromkeys(key for record in records if 'loss' in record for key in record)
    # A key with a slash is a statistic that a hook logs.
    return [key for key in keys if 'loss' in key and key != 'loss' and '/' not in key]
