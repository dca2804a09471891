"""Draw the data set "shapes" in COCO format: circles, triangles and stars, in three imbalanced classes."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mmext.datasets.shapes import draw


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext shapes`."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: mmext shapes --out data/shapes --train 800 --val 200',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_argument(
        '--out', type=Path, default=Path('data/shapes'), metavar='FOLDER', help='folder of the data set'
    )
    arguments.add_argument('--train', type=at_least(1), default=800, metavar='N', help='number of training images')
    arguments.add_argument('--val', type=at_least(1), default=200, metavar='N', help='number of validation images')
    arguments.add_argument(
        '--size', type=at_least(64), default=128, metavar='PX', help='width and height of an image, 64 or more'
    )
    arguments.add_argument(
        '--seed', type=at_least(0), default=0, metavar='SEED', help='the same seed gives the same data set'
    )
    return arguments.parse_args(argv)


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: integers from `minimum` up."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < minimum:
            raise argparse.ArgumentTypeError(f'{text!r}: give an integer of {minimum} or more')
        return value

    return parse


def main(argv: Sequence[str] | None = None) -> None:
    """Draw both splits, unless the same data set is there already."""
    args = parse_args(argv)
    start = time.perf_counter()
    summary = draw(args.out, dict(train=args.train, val=args.val), args.size, args.seed)
    if summary is None:
        print(f'{args.out} already holds this data set; nothing to do')
    else:
        print(f'{summary}\n{args.out}: {time.perf_counter() - start:.1f} s')
