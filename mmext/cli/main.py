"""The `mmext` command."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from mmext import __version__

COMMANDS = {
    'train': 'train and evaluate a detector',
    'test': 'evaluate a checkpoint',
    'class-weights': "weights for imbalanced classes, from a data set's counts",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `mmext COMMAND ...`: each command is the `main` of the module of its name."""
    parser = argparse.ArgumentParser(
        prog='mmext',
        description='Better losses for YOLOX in MMDetection. `mmext COMMAND --help` tells more.',
        epilog='commands: ' + '; '.join(f'{name}: {text}' for name, text in COMMANDS.items()),
    )
    parser.add_argument('--version', action='version', version=f'mmext {__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...')
    args = parser.parse_args(argv)
    import_module(f'mmext.cli.{args.command.replace("-", "_")}').main(args.arguments)
