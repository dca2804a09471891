"""Check a config, its data and its losses before training, and say what to compare first."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import CheckpointLoader
from rich.console import Console

from mmext.audit.display import show
from mmext.audit.keys import KNOWN_KEYS
from mmext.audit.report import audit
from mmext.checkpoints import CheckpointError, register_loaders
from mmext.comparison.conditions import apply_options
from mmext.comparison.plan import write_json
from mmext.errors import UserError

from .common import example, read_config

EXAMPLES = (
    'mmext audit mmext::yolox/yolox_nano_recommended_1xb8-60e_bccd.py',
    'mmext audit my_config.py --checkpoint work_dirs/my_config/epoch_10.pth --json audit.json',
    'mmext audit my_config.py --data',
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext audit`."""
    arguments = argparse.ArgumentParser(
        prog='mmext audit',
        description=f'{__doc__} The exit status is 1 if there is an error among the findings.',
        **example(*EXAMPLES),
    )
    add = arguments.add_argument
    add('config', help='config: a file, or the name of one that mmext ships, mmext::yolox/....py')
    add('--data', action='store_true', help='check the data alone, without building the model')
    add('--checkpoint', metavar='FILE', help='also measure the losses at the weights of this checkpoint')
    add(
        '--iters',
        type=int,
        default=0,
        metavar='N',
        help='also measure the losses after N steps of the optimizer',
    )
    add('--json', type=Path, metavar='FILE', help='also write the report to this file')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that override the config: key=value, key=a,b or key="[a,b]", without spaces',
    )
    add(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold more than data, which can run any code: only files of people you trust',
    )
    args = arguments.parse_args(argv)
    if args.iters < 0:
        arguments.error(f'--iters must be at least 0, but is {args.iters}')
    if args.data and (args.checkpoint or args.iters):
        arguments.error('--data builds no model: leave out --checkpoint and --iters')
    return args


def read(args: argparse.Namespace) -> Config:
    """The config with the options applied.

    Raises:
        UserError: If an option changes nothing.
    """
    config = read_config(args.config)
    apply_options(config, args.cfg_options, '--cfg-options', KNOWN_KEYS)
    return config


def read_checkpoint(args: argparse.Namespace) -> dict | None:
    """The content of the checkpoint of the arguments; None without one.

    Raises:
        UserError: If it does not exist, or cannot be loaded.
    """
    if args.checkpoint is None:
        return None
    try:
        return CheckpointLoader.load_checkpoint(args.checkpoint, 'cpu')
    except (CheckpointError, FileNotFoundError) as error:
        raise UserError(f'--checkpoint: {error}') from error


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of a config, and return the exit status."""
    args = parse_args(argv)
    register_loaders(args.trust_checkpoint)
    config, checkpoint = read(args), read_checkpoint(args)
    report = audit(config, args.config, args.cfg_options, args.data, checkpoint, args.iters)
    show(report, Console())
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, report.as_record())
    return report.status
