"""List the configs that mmext ships, and what each is for."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmext import CONFIGS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext list`."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        epilog='example:\n  mmext list\n  mmext list focal bccd',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        'words', nargs='*', metavar='WORD', help='list the configs whose name or purpose has all of these words'
    )
    return arguments.parse_args(argv)


def purpose(file: Path) -> str:
    """The first sentence of the comment at the top of a config."""
    lines = []
    for line in file.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.lstrip('# '))
    return ' '.join(lines).split('. ')[0].rstrip('.')


def configs(words: Sequence[str] = ()) -> dict[str, str]:
    """The purposes of the shipped configs by their names, `mmext::yolox/....py`.

    Args:
        words: Only configs whose name or purpose has all of these, in any case.
    """
    found = {f'mmext::{file.relative_to(CONFIGS)}': purpose(file) for file in sorted(CONFIGS.glob('[!_]*/*.py'))}
    return {
        name: text for name, text in found.items() if all(word.lower() in f'{name} {text}'.lower() for word in words)
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the names and purposes; the exit status is 1 if there are none."""
    args = parse_args(argv)
    found = configs(args.words)
    if not found:
        print(f'no config has the words {" ".join(args.words)}')
        return 1
    try:
        print('\n'.join(f'{name}\n    {text}' for name, text in found.items()), flush=True)
    except BrokenPipeError:
        # Whoever reads has seen enough, such as `head`; Python would write again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
