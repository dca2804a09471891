"""The `mmext` command."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mmext import __version__

COMMANDS = {
    'train': 'train and evaluate a detector',
    'test': 'evaluate a checkpoint',
    'shapes': 'draw the data set of the demo',
    'compare': 'compare configs over several seeds',
    'class-weights': 'class weights from the number of objects of each class',
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run `mmext COMMAND ...`: the `main` of the module of that name; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog='mmext',
        description='Better losses for YOLOX in MMDetection.\n\ncommands:\n'
        + '\n'.join(f'  {name:15} {text}' for name, text in COMMANDS.items()),
        epilog='example:\n  mmext train mmext::yolox/yolox_nano_1xb8-60e_bccd.py\n  mmext train --help',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmext {__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...')
    args = parser.parse_args(argv)
    # The parser of the command names itself by it.
    sys.argv[0] = f'mmext {args.command}'
    return import_module(f'mmext.cli.{args.command.replace("-", "_")}').main(args.arguments)
