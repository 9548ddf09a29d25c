"""Give dynamic axes their public names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def name_axes(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Rename the tracer's symbols (`s18`) to `axes[input][axis]` (`batch`), everywhere in the graph.

    Requires: equal names in `axes` are one symbol in the trace. Ensures: no shape mentions a replaced symbol.
    """
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in axes.get(value.name or "", {}).items():
            symbol = value.shape[axis] if value.shape is not None else None
            if isinstance(symbol, ir.SymbolicDim) and symbol.value is not None:
                names[str(symbol.value)] = name
    if not names:
        return
    # Sums and products of symbols ("s18*s41") are renamed within.
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    pattern.sub(lambda m: names[m[0]], str(dim.value)) if isinstance(dim, ir.SymbolicDim) and dim.value
                    else dim
                    for dim in value.shape
                ]
            )  # fmt: skip


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph.all_nodes() for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
