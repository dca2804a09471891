"""Make mmengine resolve `mmext::` in configs: it knows a fixed list of packages, and offers no way to add to it."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# The module of mmengine that has the list.
MODULE = 'mmengine.config.utils'


def announce() -> None:
    """Put mmext on the list: now if mmengine is imported, otherwise as soon as it is.

    Importing mmengine for it would take seconds, and import torch.
    """
    if MODULE in sys.modules:
        _add(sys.modules[MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _add(module: ModuleType) -> None:
    # The name of a module, not of the distribution: mmengine 0.10.7 looks for a distribution in site-packages alone,
    # and an editable installation is elsewhere. Of a module it takes the folder.
    module.MODULE2PACKAGE.setdefault('mmext', 'mmext.registry')


class _Finder(MetaPathFinder):
    """Finds the module as Python does, and adds mmext to its list once it is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of mmengine's module; None for all others, which Python goes on to find."""
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            _add(module)

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec
