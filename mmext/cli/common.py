"""Arguments, config and runner, shared by the commands."""

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, DictAction

import mmext
from mmext.errors import UserError

from .check import check_file, check_stack, check_types
from .explain import reason

# torch and mmengine's runner are imported where they are used: `--help` needs neither.
if TYPE_CHECKING:
    from mmengine.runner import Runner


def example(*commands: str) -> dict[str, Any]:
    """Keyword arguments for an ArgumentParser that end its help with examples."""
    lines = '\n'.join(f'  {command}' for command in commands)
    return dict(epilog=f'example:\n{lines}', formatter_class=argparse.RawDescriptionHelpFormatter)


class Settings(DictAction):
    """mmengine's action for `KEY=VALUE`, with a message for a value without a key."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option: str | None = None,
    ) -> None:
        """Add the settings to the namespace."""
        wrong = next((value for value in values if not value.partition('=')[0] or '=' not in value), None)
        if wrong is not None:
            parser.error(f'{option}: give settings as key=value, not {wrong!r}')
        super().__call__(parser, namespace, values, option)


def parser(description: str, *examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments that mmdet's train.py and test.py have in common."""
    arguments = argparse.ArgumentParser(description=description, **example(*examples))
    arguments.add_argument('config', help='config: a file, or the name of one that mmext ships, mmext::yolox/....py')
    arguments.add_argument(
        '--work-dir', help='folder for logs, checkpoints and pictures (default: work_dirs/NAME_OF_CONFIG)'
    )
    arguments.add_argument(
        '--cfg-options',
        nargs='+',
        action=Settings,
        metavar='KEY=VALUE',
        help='settings that override the config: key=value, key=a,b or key="[a,b]", without spaces',
    )
    arguments.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher'
    )
    arguments.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold more than data, which can run any code: only files of people you trust',
    )
    # torch.distributed.launch passes --local-rank; torchrun sets LOCAL_RANK.
    arguments.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return arguments


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, and apply the arguments of :func:`parser` to it and to the loading of checkpoints.

    Raises:
        MissingPackageError: If the OpenMMLab stack is not installed, or mmcv lacks its operators.
        MissingFileError: If there is no such config.
        UserError: If the config names a type or an argument that mmext does not have.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = read_config(args.config)
    config.launcher = args.launcher
    merge_settings(config, args.cfg_options or {})
    from mmext.checkpoints import register_loaders

    register_loaders(args.trust_checkpoint)
    check_types(config.to_dict())
    if args.work_dir:
        config.work_dir = args.work_dir
    elif not config.get('work_dir'):
        config.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return config


def require(config: Config, *keys: str) -> None:
    """Check that a config has these keys.

    Raises:
        UserError: If it has not.
    """
    missing = [key for key in keys if not config.get(key)]
    if missing:
        raise UserError(
            f'the config has no {", ".join(missing)}: inherit from a whole config, such as '
            "_base_ = 'mmext::yolox/yolox_s_8xb8-300e_coco.py'"
        )


def read_config(name: str) -> Config:
    """Read the config of a file or of a name `mmext::...`; its bases may be `mmext::...` too.

    Raises:
        MissingPackageError: If the OpenMMLab stack is not installed, or mmcv lacks its operators.
        MissingFileError: If there is no such config.
        UserError: If it cannot be read.
    """
    file = _resolve(name)
    check_stack()
    from mmext.compat import register_configs

    register_configs()
    try:
        return Config.fromfile(file)
    except Exception as error:
        # A config is code of the user's, so that any exception can come of it.
        raise UserError(f'cannot read the config {name}{_line_of(error)}: {reason(error)}') from error


def merge_settings(config: Config, settings: dict[str, object]) -> None:
    """Apply the settings of `--cfg-options` to the config.

    Raises:
        UserError: If a key does not fit the config, such as an index beyond the end of a list.
    """
    for key, value in settings.items():
        try:
            config.merge_from_dict({key: value})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f'--cfg-options {key}={value} does not fit the config: {reason(error)}') from error


def _line_of(error: Exception) -> str:
    """The file, which may be a base, and the line whose execution failed."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f', line {error.lineno}'
    places = [
        f' ({frame.f_code.co_filename}, line {line})'
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_name == '<module>' and '_base_' in frame.f_globals
    ]
    return places[-1] if places else ''


def _resolve(name: str) -> str:
    if name.startswith('mmext::'):
        return mmext.config(name.removeprefix('mmext::'))
    return check_file(name, 'config')


def add_hook(config: Config, kind: str, **arguments: object) -> None:
    """Add a hook of this type to the config, or update the arguments of the one that is there."""
    hooks = config.get('custom_hooks', [])
    given = next((hook for hook in hooks if hook['type'] == kind), dict(type=kind))
    given.update(arguments)
    config.custom_hooks = [*(hook for hook in hooks if hook is not given), given]


def make_resumable(config: Config) -> None:
    """Put mmext's checkpoint hook and training loop in the place of mmengine's, and add the hooks for resuming."""
    config.setdefault('default_hooks', {})
    config.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook'))
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import EpochBasedTrainLoop

    checkpoint = config.default_hooks.checkpoint
    # None: the config wants no checkpoints.
    if checkpoint is not None and checkpoint['type'] in ('CheckpointHook', CheckpointHook):
        checkpoint['type'] = 'mmext.CheckpointHook'
    loop = config.train_cfg
    kind = loop.get('type', 'EpochBasedTrainLoop' if loop.get('by_epoch', True) else 'IterBasedTrainLoop')
    if kind in ('EpochBasedTrainLoop', EpochBasedTrainLoop):
        loop.pop('by_epoch', None)
        loop['type'] = 'mmext.EpochBasedTrainLoop'
    for kind in ('mmext.ResumeHook', 'mmext.TerminationHook'):
        add_hook(config, kind)


@contextmanager
def one_message(work_dir: str) -> Iterator[None]:
    """Turn the OSError of a disk that takes no more into a UserError that says what to do.

    Args:
        work_dir: What the message names if the error does not name a file.
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
    try:
        yield
    except OSError as error:
        if error.errno not in full:
            raise
        raise UserError(
            f'cannot write to {error.filename or work_dir}: {error.strerror}. The checkpoints are intact: free '
            'space or choose another folder, and continue with --resume'
        ) from error


def build_runner(config: Config) -> 'Runner':
    """Build the runner of the config: mmengine's, or the one that `runner_type` names."""
    from mmdet.registry import RUNNERS
    from mmengine.device import get_device

    from mmext.runner import Runner

    if config.get('launcher') == 'pytorch' and get_device() == 'cpu':
        _distribute_over_cpus(config)
    return RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)


def _distribute_over_cpus(config: Config) -> None:
    """Set up gloo; mmengine would choose a CUDA device, whatever the backend."""
    import torch.distributed

    torch.distributed.init_process_group('gloo')
    config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
