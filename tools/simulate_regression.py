"""Repeat the regression experiment of the DIoU paper for each variant, power and focus of mmext's box losses.

Each of the paper's 5000 points stands for 343 regression cases. All settings at 400 points, the default, take two to
three minutes of one core, half as long with two. The paper's four losses at all 5000 points take about as long:

    python tools/simulate_regression.py
    python tools/simulate_regression.py iou giou diou ciou --points 5000
"""

import argparse
import csv
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from mmext.visualization import regression


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate the named settings, or all; write the errors as CSV and the figures, and print the final errors."""
    parser = build_parser()
    args = parser.parse_args(argv)
    known = {setting.name: setting for setting in regression.all_settings()}
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f'there is no setting {unknown[0]!r}; there are {", ".join(known)}')
    for name in ('points', 'jobs'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, but is {getattr(args, name)}')
    settings = [known[name] for name in args.names or known]
    points = regression.spread_points(args.points)
    simulate = partial(regression.simulate, points=points)
    if args.jobs == 1:
        descents = dict(zip(settings, map(simulate, settings)))
    else:
        with ProcessPoolExecutor(args.jobs, get_context('spawn'), torch.set_num_threads, (1,)) as pool:
            descents = dict(zip(settings, pool.map(simulate, settings)))
    paths = [write_errors(descents, args.out / 'regression.csv')]
    paths += regression.write_figures(descents, points, args.out)
    for setting, descent in sorted(descents.items(), key=lambda item: item[1].errors[-1]):
        print(f'{descent.errors[-1]:8.4f}  {setting.name}')
    print(*paths, sep='\n')


def write_errors(descents: dict[regression.Setting, regression.Descent], path: Path) -> Path:
    """Write the mean error of each setting (columns) after each iteration (rows)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['iteration', *(setting.name for setting in descents)])
        errors = zip(*(descent.errors for descent in descents.values()))
        writer.writerows([iteration, *(f'{error:.6g}' for error in row)] for iteration, row in enumerate(errors))
    return path


def build_parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'names',
        nargs='*',
        metavar='NAME',
        help="a variant, such as giou, or the name of another setting as it is printed, such as 'giou alpha 2' "
        '(default: all)',
    )
    parser.add_argument(
        '--points',
        type=int,
        default=400,
        metavar='N',
        help=f'positions of the anchors, {regression.CASES} cases each; the paper has {regression.POINTS} '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=os.cpu_count() or 1,
        metavar='N',
        help='processes, one setting each at a time (default: one for each core)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        default=Path('work_dirs/regression'),
        help='folder for the figures and regression.csv (default: %(default)s)',
    )
    return parser


if __name__ == '__main__':
    main()
