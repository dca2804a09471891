"""What train and test share: arguments, the config, the check of the stack."""

import argparse
import os
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.runner import Runner

import mmext
from mmext.registry import HOOKS, MODELS

REBUILD = (
    "Rebuild mmcv against the torch of this environment, past pip's cache, with `make ops`; without make: "
    '`pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation onedl-mmcv`'
)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that mmdet's train.py and test.py have in common."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument('config', help='config: a file, or the name of one that mmext ships, mmext::yolox/....py')
    arguments.add_argument('--work-dir', help='where logs, checkpoints and pictures go (work_dirs/NAME_OF_CONFIG)')
    arguments.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config: key=value, key=a,b or key="[a,b]" without blanks',
    )
    arguments.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher'
    )
    # torch.distributed.launch passes --local-rank; torchrun sets LOCAL_RANK.
    arguments.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return arguments


def load_config(args: argparse.Namespace) -> Config:
    """The config that the arguments of :func:`parser` describe, `mmext::` bases included.

    Raises:
        ModuleNotFoundError: Where the OpenMMLab stack is not there, or mmcv lacks its operators.
        FileNotFoundError: Where there is no such config.
    """
    check_stack()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    # mmengine knows a fixed list of packages with configs.
    MODULE2PACKAGE['mmext'] = 'mmext'
    config = Config.fromfile(_resolve(args.config))
    config.launcher = args.launcher
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    check_types(config.to_dict())
    if args.work_dir:
        config.work_dir = args.work_dir
    elif not config.get('work_dir'):
        config.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return config


def _resolve(name: str) -> str:
    if name.startswith('mmext::'):
        return mmext.config(name.removeprefix('mmext::'))
    return check_file(name, 'config')


def check_file(name: str, kind: str) -> str:
    """The name, where there is a file of that name.

    Raises:
        FileNotFoundError: Where there is none.
    """
    if not Path(name).is_file():
        raise FileNotFoundError(f'there is no {kind} {name!r} below {Path.cwd()}')
    return name


def check_types(node: object) -> None:
    """Check each type of mmext's that a config names, and its arguments, before anything is built.

    Raises:
        ValueError: For a type that mmext does not have, or an argument that the type does not know: most often one that
            a base config left there.
    """
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        check_types(child)
    kind = node.get('type') if isinstance(node, dict) else None
    if isinstance(kind, str) and kind.startswith('mmext.'):
        _check_arguments(_find_type(kind), kind, node)


def _find_type(kind: str) -> type:
    name = kind.removeprefix('mmext.')
    types = {}
    for registry in (MODELS, HOOKS):
        registry.import_from_location()
        types.update(registry.module_dict)
    if name not in types:
        near = get_close_matches(name, types, n=1)
        hint = f'did you mean mmext.{near[0]}? ' if near else ''
        raise ValueError(f'mmext has no {kind!r}; {hint}it has {", ".join(sorted(types))}')
    return types[name]


def _check_arguments(kind: type, name: str, node: dict) -> None:
    parameters = signature(kind).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in node:
        if key not in parameters and key not in ('type', '_scope_', 'priority'):
            raise ValueError(
                f'{name} knows no argument {key!r}, only {", ".join(parameters)}; where {key!r} comes from the base '
                "config, add _delete_=True to the dict that names the type: it then replaces the base's"
            )


def add_hook(config: Config, kind: str) -> None:
    """Add a hook of this type to the config, unless it has one."""
    hooks = config.setdefault('custom_hooks', [])
    if not any(hook['type'] == kind for hook in hooks):
        config.custom_hooks = [*hooks, dict(type=kind)]


def check_stack() -> None:
    """Raise a ModuleNotFoundError that names the remedy, unless mmdet and mmcv's operators are there."""
    try:
        import_module('mmdet')
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'mmext trains with MMDetection, which is not installed here: `pip install '
            '--no-build-isolation "mmext[onedl]"`, with torch there first'
        ) from error
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        raise ModuleNotFoundError(f'mmcv is here without its compiled operators ({error}). {REBUILD}') from error


def build_runner(config: Config) -> Runner:
    """The runner of the config: mmengine's, or the one that `runner_type` names."""
    from mmdet.registry import RUNNERS

    return RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
