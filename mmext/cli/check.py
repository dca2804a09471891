"""Checks of the installation, the command line and the config, before anything is built."""

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import packages_distributions
from inspect import signature
from pathlib import Path

from mmengine.registry import Registry

from mmext.errors import MissingFileError, MissingPackageError, UserError

REBUILD = (
    "Build it again against the torch of this environment, without pip's cache: `make ops`, or without make "
    '`pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation {mmcv}`; with a GPU but no nvcc, put '
    'CUDA_VISIBLE_DEVICES= before it'
)
# Keys that mmengine takes out before it builds a type: from any, from hooks, from optimizer wrappers.
TAKEN_BY_MMENGINE = ('type', '_scope_', 'priority', 'constructor', 'paramwise_cfg')


def check_stack() -> None:
    """Raise a MissingPackageError that names the remedy if mmdet or mmcv's operators are missing."""
    try:
        import_module('mmdet')
        from mmext.console import keep_for_the_log
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            'mmext trains with MMDetection, which is not installed: install torch, then `pip install '
            '--no-build-isolation "mmext[onedl]"`'
        ) from error
    try:
        import_module('mmcv._ext')
        # It prints which optional packages are missing.
        with keep_for_the_log():
            import_module('mmdet.datasets')
            import_module('mmdet.evaluation')
    except ImportError as error:
        mmcv = packages_distributions()['mmcv'][0]
        raise MissingPackageError(
            f'mmcv does not load its compiled operators ({error}). {REBUILD.format(mmcv=mmcv)}'
        ) from error


def check_file(name: str, kind: str) -> str:
    """Return the name if it is an existing file, or a URL.

    Raises:
        MissingFileError: If it is neither.
    """
    if '://' not in name and not Path(name).is_file():
        raise MissingFileError(f'there is no {kind} {name!r} below {Path.cwd()}')
    return name


def check_types(node: object) -> None:
    """Check each `mmext.` type in a config, and its arguments.

    Raises:
        UserError: For a type that mmext does not have, or an argument that the type does not take: most often one that
            is inherited from a base config.
    """
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        check_types(child)
    kind = node.get('type') if isinstance(node, dict) else None
    if isinstance(kind, str) and kind.startswith('mmext.') and kind.count('.') == 1:
        _check_arguments(_find_type(kind), kind, node)


def mmext_types() -> dict[str, type]:
    """All types that mmext registers, by their names without the scope."""
    import mmext.registry

    types = {}
    for registry in (node for node in vars(mmext.registry).values() if isinstance(node, Registry)):
        registry.import_from_location()
        types.update(registry.module_dict)
    return types


def _find_type(kind: str) -> type:
    name = kind.removeprefix('mmext.')
    types = mmext_types()
    if name not in types:
        near = get_close_matches(name, types, n=1)
        hint = f'did you mean mmext.{near[0]}? ' if near else ''
        raise UserError(f'mmext has no {kind!r}; {hint}it has {", ".join(sorted(types))}')
    return types[name]


def _check_arguments(kind: type, name: str, node: dict) -> None:
    names = parameters_of(kind)
    if names is None:
        return
    for key in node:
        if key not in names and key not in TAKEN_BY_MMENGINE:
            raise UserError(
                f'{name} takes no argument {key!r}, only {", ".join(names)}; if {key!r} comes from the base '
                "config, add _delete_=True to the dict that names the type: it then replaces the base's"
            )


def parameters_of(kind: type) -> list[str] | None:
    """The arguments of a type and, if it passes `**kwargs` on, of its bases; None if it accepts arbitrary ones."""
    names = []
    for base in kind.__mro__:
        taken = signature(base).parameters.values() if '__init__' in vars(base) else ()
        names += [each.name for each in taken if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        others = [each.name for each in taken if each.kind is each.VAR_KEYWORD]
        if taken and others != ['kwargs']:
            return None if others else names
    return names
