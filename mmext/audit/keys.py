"""Whether anything reads the top-level keys of a config, and sets the learning rate in a sane range."""

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from math import isfinite
from numbers import Real
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from .findings import Finding

# What Runner.from_cfg reads, and what the runner, its hooks, mmdet's tools and mmext's commands read later.
READ_BY_RUNNER = tuple(name for name in signature(Runner).parameters if name not in ('cfg',))
READ_ELSEWHERE = (
    'activation_checkpointing',
    'backend_args',
    'compile',
    'custom_imports',
    'deterministic',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'seed',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
    'vis_backends',
)
KNOWN_KEYS = (*READ_BY_RUNNER, *READ_ELSEWHERE)
# Variables of many configs that are close to a key of the runner.
USUAL_VARIABLES = ('train_pipeline', 'val_pipeline', 'test_pipeline', 'train_dataset', 'val_dataset', 'test_dataset')
# How similar a misspelt name is, by difflib.
CLOSE = 0.8
# The learning rates that mmdet's configs have for one batch of `auto_scale_lr.base_batch_size` images, roughly.
USUAL_LR = {'SGD': 0.01}
USUAL_LR_OF_OTHERS = 0.001
# The factor from which a learning rate is an error.
TOO_MANY_TIMES = 100


@dataclass(frozen=True)
class Source:
    """A config file that is not in a package.

    Attributes:
        path: The file.
        bases: Its bases.
        assigned: The names that it sets at its top level.
        used: The names that it reads.
        used_of_bases: The names that it reads of its bases, `_base_.name`.
    """

    path: Path
    bases: list[str]
    assigned: frozenset[str]
    used: frozenset[str]
    used_of_bases: frozenset[str]


def unread_keys(config: Config) -> list[Finding]:
    """Top-level keys that neither the runner nor a config file reads, and that mmengine ignores in silence.

    * A key that a base sets as well, and this file does not read, is a variable of that base. The base has been read
      by then: setting it again changes nothing.
    * A name close to one that the runner reads is a misspelling.
    * Any other name is reported in the config itself, not in its bases, whose variables other configs may read. A
      config that mmengine has written is full of names that were read before.

    The files of packages, such as mmdet's, are not checked.

    Args:
        config: A config that was read from a file.
    """
    if not config.filename or not config.filename.endswith('.py'):
        return []
    files = list(_sources(Path(config.filename)))
    inherited = frozenset().union(*(source.used_of_bases for source in files))
    return [
        finding
        for source in files
        for key in sorted(source.assigned - source.used - inherited - {*KNOWN_KEYS})
        if not key.startswith('_') and key in config and (finding := _unread(key, source, source is files[0]))
    ]


def _unread(key: str, source: Source, is_config: bool) -> Finding | None:
    where = f'in {source.path.name}'
    if any(key in Config.fromfile(base) for base in source.bases):
        message = f'it changes nothing {where}: it is a variable of a base config, which was read before'
        remedy = 'Set what follows from it, such as train_cfg.max_epochs or train_dataloader.dataset'
        return Finding('warning', key, message, remedy)
    near = get_close_matches(key, KNOWN_KEYS, n=1, cutoff=CLOSE)
    if near and key not in USUAL_VARIABLES:
        return Finding('warning', key, f'nothing reads this key {where}', f'Did you mean {near[0]}?')
    if is_config and (source.bases or source.used):
        return Finding('warning', key, f'nothing reads this key {where}', 'Remove it, or use it in the config')
    return None


def _sources(path: Path) -> Iterator[Source]:
    """The file and its bases, but for those of installed packages."""
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    read = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    # dict(...) in a config that mmengine has written.
    read = [name for name in read if not hasattr(builtins, name)]
    # _base_.name, and {{_base_.name}} in a string.
    of_base = re.findall(r'_base_\.(\w+)', text)
    names = Config._get_base_files(str(path))
    bases = [Config._get_cfg_path(name, str(path))[0] for name in names]
    yield Source(path, bases, frozenset(_assigned(tree)), frozenset(read), frozenset(of_base))
    for name, base in zip(names, bases):
        if '::' not in name and 'site-packages' not in base and '.mim' not in base:
            yield from _sources(Path(base))


def _assigned(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def lr_findings(config: Config) -> list[Finding]:
    """Whether the learning rate is finite, positive, and of the usual size for the batch.

    The usual rate is that of mmdet's configs for the optimizer, scaled by batch size over
    `auto_scale_lr.base_batch_size`, where that is given.
    """
    key = 'optim_wrapper.optimizer.lr'
    optimizer = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    lr = optimizer.get('lr')
    if lr is None:
        return []
    if not isinstance(lr, Real) or not isfinite(lr) or lr <= 0:
        return [Finding('error', key, f'it is {lr!r}, and not a number above 0', 'Set a number, such as 0.01 for SGD')]
    scaling = config.get('auto_scale_lr') or {}
    batch, base = (config.get('train_dataloader') or {}).get('batch_size'), scaling.get('base_batch_size')
    usual = USUAL_LR.get(str(optimizer.get('type')).split('.')[-1], USUAL_LR_OF_OTHERS)
    if batch and base:
        usual *= batch / base
        lr *= batch / base if scaling.get('enable') else 1
    if lr < TOO_MANY_TIMES * usual:
        return []
    return [
        Finding(
            'error',
            key,
            f'the learning rate {lr:g} is {lr / usual:.0f} times the usual {usual:g} for {optimizer.get("type")} and a '
            f'batch of {batch}',
            'Lower it; --auto-scale-lr of mmext train scales it to the batch',
        )
    ]
