"""Methods by name. Each module of this package is imported once, so that a new method needs only a new file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from adapter_export.errors import InputError
from adapter_export.methods.contract import Method

_methods: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Registers `method` under `method.name`."""
    if method.name in _methods:
        raise ValueError(f"method {method.name!r} is registered twice")
    _methods[method.name] = method
    return method


@cache
def _discover() -> None:
    package = importlib.import_module("adapter_export.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"adapter_export.methods.{module.name}")


def names() -> list[str]:
    """Returns the names of all methods, sorted."""
    _discover()
    return sorted(_methods)


def get(name: str) -> Method:
    """Returns the method called `name`. Raises InputError naming the known ones."""
    _discover()
    if name not in _methods:
        raise InputError(f"method {name!r}: expected one of {', '.join(names())}")
    return _methods[name]
