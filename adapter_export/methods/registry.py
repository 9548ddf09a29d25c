"""Methods by name. Every module of this package is imported once, so a new file is all a new method takes."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from adapter_export.errors import InputError
from adapter_export.methods.contract import Method

_methods: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Make `method` known under `method.name`."""
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
    """Names of all methods, sorted."""
    _discover()
    return sorted(_methods)


def get(name: str) -> Method:
    """The method called `name`; raises InputError naming the known ones."""
    _discover()
    if name not in _methods:
        raise InputError(f"method {name!r}: expected one of {', '.join(names())}")
    return _methods[name]
