"""The modules that read and write methods in the checkpoint formats of other libraries, found by their names.

`checkpoints/peft/ia3.py` reads and writes method `ia3` in PEFT's format. A method without a module in a format is not
read from that format. A method without a module in any is kept in the project's own format (`checkpoints.own`).
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.util import find_spec
from typing import Any

from adapter_export.methods import registry


def codec(format_name: str, method: str) -> Any:
    """Returns the module of this method in this format; None if there is none."""
    name = f"adapter_export.checkpoints.{format_name}.{method}"
    return importlib.import_module(name) if find_spec(name) is not None else None


@cache
def codecs(format_name: str) -> dict[str, Any]:
    """Returns the modules of all methods in this format, by method."""
    found = {method: codec(format_name, method) for method in registry.names()}
    return {method: module for method, module in found.items() if module is not None}
