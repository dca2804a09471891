"""The conditions of a comparison, which are checked before anything trains, and hashes of them."""

import hashlib
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmext.audit import leaves
from mmext.cli.check import check_file
from mmext.errors import UserError

# What must be equal in all configs of a comparison, so that a difference comes from the model and its losses.
EQUAL_KEYS = ('train_dataloader', 'val_dataloader', 'val_evaluator', 'train_cfg', 'param_scheduler')
# What decides the result of a run, beside its seed.
HASHED_KEYS = (*EQUAL_KEYS, 'model', 'optim_wrapper', 'custom_hooks', 'auto_scale_lr', 'load_from', 'val_cfg')
# What may differ between runs of one comparison, and does not decide their results.
UNTRAINED_KEYS = ('default_hooks', 'env_cfg', 'log_level', 'log_processor', 'vis_backends', 'visualizer')


def check_name(name: str) -> str:
    """Return the name of a variant if it can name a folder.

    Raises:
        UserError: If it cannot.
    """
    if not re.fullmatch(r'[A-Za-z0-9][\w.+-]*', name):
        raise UserError(f'a variant cannot be named {name!r}: use letters, digits and . + - _')
    return name


def apply_options(config: Config, options: Mapping[str, object], where: str, untrained: tuple[str, ...] = ()) -> None:
    """Apply options to a config.

    Args:
        config: The config.
        options: Values by their keys with dots.
        where: The argument that they are from, for messages.
        untrained: First keys that may be set although they do not decide what is trained.

    Raises:
        UserError: If an option does not change what is trained, or its first key is not in the config.
    """
    for key, value in options.items():
        first = key.split('.')[0]
        if first not in config and first not in untrained:
            near = get_close_matches(first, list(config), n=1)
            hint = f': did you mean {near[0]}?' if near else f'; it has {", ".join(config)}'
            raise UserError(f'{where}: the config has no {first!r}, of {key}={value}{hint}')
    base = config.to_dict()
    config.merge_from_dict(dict(options))
    for key, value in options.items():
        others = Config(base)
        others.merge_from_dict({other: each for other, each in options.items() if other != key})
        if key.split('.')[0] not in untrained and config_hash(others) == config_hash(config):
            raise UserError(
                f'{where}: {key}={value} changes nothing that is trained. If {key} is a variable that a config file '
                'sets, set what follows from it instead, such as train_cfg.max_epochs'
            )


def check_equal_conditions(configs: Mapping[str, Config], baseline: str) -> None:
    """Check that the configs share data and schedule, and that none equals the baseline.

    Raises:
        UserError: If they do not.
    """
    reference = configs[baseline]
    for name, config in configs.items():
        if name == baseline:
            continue
        for key in EQUAL_KEYS:
            difference = first_difference(plain(reference.get(key)), plain(config.get(key)), key)
            if difference:
                raise UserError(
                    f'{name} and the baseline {baseline} train under different conditions: {difference}. A comparison '
                    'needs the same data and schedule: inherit them from one config'
                )
        if config_hash(config) == config_hash(reference):
            raise UserError(f'{name} is equal to the baseline {baseline}: leave one of them out')


def check_unchanged(file: Path, config: Config, name: str) -> None:
    """Check that a variant has the config with which its runs in the folder were trained.

    Raises:
        UserError: If it has not.
    """
    if not file.is_file():
        return
    trained = Config.fromfile(file)
    if config_hash(trained) != config_hash(config):
        difference = first_difference(plain(trained.to_dict()), plain(config.to_dict()), 'config')
        raise UserError(
            f'{name} has changed since its runs in {file.parent} were trained: {difference}. Choose another '
            f'--work-dir or another name, or delete {file.parent} to train it anew'
        )


def first_difference(left: object, right: object, place: str) -> str | None:
    """Describe the first place in which two nested values differ; None if they are equal."""
    if left == right:
        return None
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            difference = first_difference(left.get(key), right.get(key), f'{place}.{key}')
            if difference:
                return difference
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, pair in enumerate(zip(left, right)):
            difference = first_difference(*pair, f'{place}[{index}]')
            if difference:
                return difference
    return f'{place} is {_short(right)}, not {_short(left)}'


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f'{text[:limit]}...'


def coco_leaf(config: Config) -> dict:
    """The config of the validation data, which must be one CocoDataset.

    Raises:
        UserError: If it is not.
    """
    found = leaves(config.val_dataloader.dataset, 'val_dataloader.dataset')
    if len(found) != 1:
        raise UserError(f'mmext compare needs one validation data set, but the config has {", ".join(found)}')
    ((place, leaf),) = found.items()
    if not str(leaf.get('ann_file', '')).endswith('.json'):
        raise UserError(
            f'{place} ({leaf.get("type")}) has no COCO annotation file (ann_file=....json), which mmext compare '
            'evaluates with: convert the annotations, tools/voc_to_coco.py does so for Pascal VOC'
        )
    return leaf


def plain(value: object) -> object:
    """The value with plain dicts and lists in place of mmengine's and of tuples."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def canonical(value: object) -> str:
    """The value as JSON with sorted keys."""
    return json.dumps(plain(value), sort_keys=True, default=str)


def sha256(*parts: bytes) -> str:
    """The SHA-256 of the parts, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def config_hash(config: Config) -> str:
    """A hash of what a config trains: of the keys that decide it, without the seed."""
    return sha256(canonical({key: config.get(key) for key in HASHED_KEYS}).encode())


def lazy_dataset(leaf: dict) -> BaseDataset:
    """A data set that knows its paths and classes, without its annotations."""
    return DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})


def data_hash(config: Config) -> str:
    """A hash of the annotation files of training and validation."""
    found = {**leaves(config.train_dataloader.dataset, 'train'), **leaves(config.val_dataloader.dataset, 'val')}
    paths = [lazy_dataset(leaf).ann_file for leaf in found.values()]
    return sha256(*(Path(check_file(path, 'annotation file')).read_bytes() for path in paths))


def code_hash() -> str:
    """A hash of mmext's own modules."""
    root = Path(__file__).parents[1]
    return sha256(*(path.read_bytes() for path in sorted(root.rglob('*.py')) if '.mim' not in path.parts))
