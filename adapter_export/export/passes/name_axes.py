"""Give dynamic axes their public names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir


class NameAxes(ir.passes.InPlacePass):
    """Renames the symbols of the tracer (`s18`) to public names (`batch`), everywhere in the graph.

    Requires: the axes to be named are axes of the graph's inputs, and none has two names.
    Ensures: no shape contains a symbol that was renamed.
    """

    def __init__(self, axes: Mapping[str, Mapping[int, str]]) -> None:
        """Makes the pass.

        Args:
            axes: By input, the public name of each dynamic axis by its index.
        """
        self._axes = axes

    def requires(self, model: ir.Model) -> None:
        names: dict[str, str] = {}
        for symbol, name in self._symbols(model):
            if names.setdefault(symbol, name) != name:
                raise ir.passes.PreconditionError(f"axis {symbol!r} is to be {names[symbol]!r} and {name!r}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names = dict(self._symbols(model))
        if not names:
            return ir.passes.PassResult(model, modified=False)
        for value in _values(model.graph):
            if value.shape is not None:
                value.shape = ir.Shape([renamed(dim, names) for dim in value.shape])
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        for value in model.graph.inputs:
            for axis, name in self._axes.get(value.name or "", {}).items():
                if (symbol := _symbol(value, axis)) not in (None, name):
                    raise ir.passes.PostconditionError(f"input {value.name!r}: axis {axis} is {symbol!r}, not {name!r}")

    def _symbols(self, model: ir.Model) -> Iterator[tuple[str, str]]:
        """Yields each symbol of the tracer that has a public name, and the name."""
        for value in model.graph.inputs:
            for axis, name in self._axes.get(value.name or "", {}).items():
                if (symbol := _symbol(value, axis)) is not None:
                    yield symbol, name


def _symbol(value: ir.Value, axis: int) -> str | None:
    """Returns the symbol of an axis; None if its size is a number or not known."""
    dim = value.shape[axis] if value.shape is not None else None
    return str(dim.value) if isinstance(dim, ir.SymbolicDim) and dim.value is not None else None


def renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim | str:
    """Renames symbols in a dim, also within sums and products of symbols (`s18*s41`).

    Args:
        dim: The dim.
        names: New names by symbol.
    """
    if not isinstance(dim, ir.SymbolicDim) or not dim.value:
        return dim
    pattern = r"\b(" + "|".join(map(re.escape, names)) + r")\b"
    return re.sub(pattern, lambda match: names[match[0]], str(dim.value))


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph.all_nodes() for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
