"""Where a method's adapters stand in one model."""

from __future__ import annotations

from typing import Any

from adapter_export.architectures.layers import layers_of, matching_modules
from adapter_export.methods.contract import Method, Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Site


def placed(method: Method, info: ModelInfo, options: Any, target: str | None = None) -> dict[Site, Operator]:
    """Sites of the model that `info` describes, each with its operator.

    options: of the method. target: regular expression of the modules to adapt (full match); None leaves the choice to
    the method, which knows the architecture's layers by their roles.
    Raises InputError for an architecture that is not known, where no target is given, and for a target that fits none.
    """
    if target is None:
        return method.place(layers_of(info.model_type, info.modules), options)
    return method.place_at(matching_modules(info.modules, target), options)
