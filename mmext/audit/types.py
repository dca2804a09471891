"""The classes that the types of a config resolve to."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config
from torch import nn

import mmext.registry
from mmext.cli.check import check_types, parameters_of

from .findings import Finding


def type_findings(config: Config) -> list[Finding]:
    """The `mmext.` types of a config that mmext does not have, or that do not take one of their arguments."""
    found = []
    for place, node in _dicts(config.to_dict(), ''):
        try:
            # One dict at a time, so that all are reported.
            check_types({key: None if isinstance(value, (dict, list, tuple)) else value for key, value in node.items()})
        except ValueError as error:
            found.append(Finding.of_error(place, error))
    return found


def _dicts(node: object, place: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        yield place, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from _dicts(child, f'{place}.{key}' if place else str(key))


def namesakes(model: nn.Module, config: Config) -> list[Finding]:
    """Types without a scope that resolved to another package's class, where mmext has one of the same name.

    A dict with an argument that mmext's class does not take was written for the other class, and is left out.

    Args:
        model: The model.
        config: The config that it was built from.
    """
    mmext.registry.MODELS.import_from_location()
    own = mmext.registry.MODELS.module_dict
    found = []
    for path, module in model.named_modules():
        name, package = type(module).__name__, type(module).__module__.split('.')[0]
        node = _at(config.model, path)
        if name not in own or package == 'mmext' or not isinstance(node, Mapping) or node.get('type') != name:
            continue
        parameters = parameters_of(own[name]) or ()
        if all(key in parameters or key in ('type', '_scope_') for key in node):
            found.append(
                Finding(
                    'warning',
                    f'model.{path}.type',
                    f"{name!r} is {package}'s class, and mmext has one of the same name",
                    f"Write 'mmext.{name}' for mmext's, or '{package}.{name}' if you mean {package}'s",
                )
            )
    return found


def _at(node: object, path: str) -> object:
    """The config of a module; None if the config has none at this place."""
    for key in filter(None, path.split('.')):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
