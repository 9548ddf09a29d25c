"""Places a method's operators in a model."""

from __future__ import annotations

from typing import Any

from adapter_export.architectures.layers import layers_of, matching_modules
from adapter_export.methods.contract import Method, Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Site


def placed(method: Method, info: ModelInfo, options: Any, target: str | None = None) -> dict[Site, Operator]:
    """Returns sites of a model, each with its operator.

    Args:
        method: The method.
        info: Description of the model.
        options: Options of the method.
        target: Regular expression of the modules to adapt (full match). None leaves the choice to the method, which
            knows the architecture's layers by their roles.

    Raises:
        InputError: The architecture is not known and no target is given, or no module matches the target.
    """
    if target is None:
        return method.place(layers_of(info.model_type, info.modules), options)
    return method.place_at(matching_modules(info.modules, target), options)
