"""Names that a library imports and hardly ever uses: the modules that have them are imported at the first use.

For processes that run for months on hosts whose RAM belongs to models.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Later:
    """A function, class or constant of a module that is not imported yet.

    Args:
        module: name of the module.
        name: its name there.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def resolve(self) -> Any:
        """Import the module and return the object."""
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the object; arguments that are such names themselves are resolved too."""
        own = [_resolved(one) for one in args]
        return self.resolve()(*own, **{name: _resolved(one) for name, one in options.items()})


class _StandIn(ModuleType):
    """Stands for a module while a library is imported. Names that are not expected come from the module itself."""

    def __init__(self, module: str, names: tuple[str, ...]) -> None:
        super().__init__(module)
        for name in names:
            setattr(self, name, Later(module, name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _resolved(value: Any) -> Any:
    return value.resolve() if isinstance(value, Later) else value


@contextmanager
def imported_later(names: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Let imports of these names in the block be carried out at their first use.

    Modules that are imported already are left as they are.

    Args:
        names: the names that may be used later, by module.
    """
    stand_ins = {module: _StandIn(module, found) for module, found in names.items() if module not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for module, one in stand_ins.items():
            if sys.modules.get(module) is one:
                del sys.modules[module]
