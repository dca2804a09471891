"""Plot one or more trainings: curves over each other, loss shares, PR curves, confusion matrices, label counts."""

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmext.audit import leaves
from mmext.comparison.conditions import canonical, lazy_dataset
from mmext.comparison.matching import GroundTruth, Matches
from mmext.errors import UserError
from mmext.visualization.run_plots import LabelCounts, RunPlots, write_plots
from mmext.visualization.work_dir import TrainingRun, default_names, load_run

from .class_weights import count
from .common import example

EXAMPLES = (
    'mmext plot work_dirs/yolox_nano_1xb8-60e_bccd',
    'mmext plot work_dirs/stock work_dirs/my_ciou --name stock ciou --out work_dirs/plots',
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext plot`."""
    arguments = argparse.ArgumentParser(description=__doc__, **example(*EXAMPLES))
    arguments.add_argument(
        'work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='the work dir of a training, running or finished'
    )
    arguments.add_argument(
        '--name', nargs='+', default=[], metavar='NAME', help="the name of each run (default: its folder's name)"
    )
    arguments.add_argument(
        '--out', type=Path, metavar='FOLDER', help='folder for plots.html and the PNGs (default: WORK_DIR/plots)'
    )
    args = arguments.parse_args(argv)
    if args.name and len(args.name) != len(args.work_dirs):
        arguments.error(
            f'--name needs one name for each work dir: {len(args.work_dirs)}, but there are {len(args.name)}'
        )
    names = args.name or default_names(args.work_dirs)
    if twice := [name for name in names if names.count(name) > 1]:
        arguments.error(f'two runs are named {twice[0]!r}: give each work dir once, and names that differ')
    args.name = names
    args.out = args.out or args.work_dirs[0] / 'plots'
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read the work dirs, write the page and the PNGs, and print their paths."""
    args = parse_args(argv)
    plots = read_plots([load_run(folder, name) for folder, name in zip(args.work_dirs, args.name)])
    paths = write_plots(plots, args.out)
    for note in [*plots.warnings, *plots.notes]:
        print(f'! {note}')
    print(*paths, sep='\n')


def read_plots(runs: Sequence[TrainingRun]) -> RunPlots:
    """Match the detections of the runs that have some, and count the labels of their data."""
    matches: dict[str, Matches] = {}
    labels: dict[str, LabelCounts] = {}
    notes = []
    for run in runs:
        if run.config is None:
            notes.append(f'{run.name}: no PR curves, confusion matrix and labels, since {run.folder} has no config')
            continue
        init_default_scope(run.config.get('default_scope', 'mmdet'))
        try:
            matches[run.name] = match(run)
        except UserError as error:
            notes.append(f'{run.name}: no PR curves and no confusion matrix. {error}')
        data = canonical(data_sets(run.config))
        try:
            if data not in labels:
                labels[data] = LabelCounts([], count_labels(run.config))
            labels[data].runs.append(run.name)
        except (FileNotFoundError, ValueError) as error:
            notes.append(f'{run.name}: no label distribution. {error}')
    return RunPlots(runs, matches, list(labels.values()), notes)


def match(run: TrainingRun) -> Matches:
    """Match the detections of a run with the annotations that its config names.

    Raises:
        UserError: If there are none, or they do not fit together.
    """
    detections = run.detections()
    if detections is None:
        raise UserError(f'{run.folder} has no detections; this command makes them: {run.command()}')
    found = leaves(run.config[detections.dataloader].dataset, f'{detections.dataloader}.dataset')
    if len(found) > 1:
        raise UserError(f'They need one data set, but the config has {", ".join(found)}')
    ((place, leaf),) = found.items()
    if not str(leaf.get('ann_file', '')).endswith('.json'):
        raise UserError(f'They need COCO annotations, but {place} is a {leaf.type}')
    dataset = lazy_dataset(leaf)
    try:
        return Matches(ground_truth(Path(dataset.ann_file), tuple(dataset.metainfo['classes'])), detections.boxes)
    except FileNotFoundError as error:
        raise UserError(
            f'The annotations {dataset.ann_file} are not there: run this in the folder that the path is relative to'
        ) from error
    except ValueError as error:
        raise UserError(f'The detections {detections.path} do not fit {dataset.ann_file}: {error}') from error


@cache
def ground_truth(path: Path, classes: tuple[str, ...]) -> GroundTruth:
    """The annotations of a COCO file, read once for all runs."""
    return GroundTruth(path, classes)


def data_sets(config: Config) -> dict[str, dict[str, dict]]:
    """The configs of the training and validation data by `train` and `val`, and by their place."""
    return {
        part: leaves(loader.dataset, f'{part}_dataloader.dataset')
        for part in ('train', 'val')
        if (loader := config.get(f'{part}_dataloader'))
    }


def count_labels(config: Config) -> dict[str, dict[str, int]]:
    """The number of objects of each class in the training and validation data, as mmdet loads them.

    Raises:
        FileNotFoundError, ValueError: If the annotations cannot be read.
    """
    counts = {}
    for part, found in data_sets(config).items():
        total: Counter[str] = Counter()
        for place, leaf in found.items():
            total.update(count(place, leaf))
        counts[part] = dict(total)
    return counts
