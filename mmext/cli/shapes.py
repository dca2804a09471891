"""Draw the data set "shapes" in COCO format: circles, triangles and stars, in three imbalanced classes."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mmext.datasets.shapes import draw

from .common import example


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext shapes`."""
    arguments = argparse.ArgumentParser(
        description=__doc__, **example('mmext shapes', 'mmext shapes --out data/more --train 2000 --size 256')
    )
    options: dict[str, tuple[Callable[[str], object], object, str, str]] = {
        '--out': (Path, 'data/shapes', 'FOLDER', 'folder of the data set'),
        '--train': (at_least(1), 800, 'N', 'number of training images'),
        '--val': (at_least(1), 200, 'N', 'number of validation images'),
        '--size': (at_least(64), 128, 'PX', 'width and height of an image, 64 or more'),
        '--seed': (at_least(0), 0, 'SEED', 'the same seed gives the same data set'),
    }
    for name, (kind, default, metavar, text) in options.items():
        text += ' (default: %(default)s)'
        arguments.add_argument(name, type=kind, default=default, metavar=metavar, help=text)
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
