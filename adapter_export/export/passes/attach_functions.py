"""Attach the arithmetic of adapters as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from adapter_export.export.bound_site import BoundSite
from adapter_export.export.function import Function
from adapter_export.naming import DOMAIN, DOMAIN_VERSION


class AttachFunctions(ir.passes.InPlacePass):
    """Adds the functions of sites, and those that they call, each once.

    Ensures: every node of the private domain has its function.
    """

    def __init__(self, places: Iterable[BoundSite]) -> None:
        """Makes the pass.

        Args:
            places: The sites of the graph, read when the pass runs.
        """
        self._places = places

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        before = len(model.functions)
        for place in self._places:
            _attach(model, place.function)
        return ir.passes.PassResult(model, modified=len(model.functions) > before)

    def ensures(self, model: ir.Model) -> None:
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for graph in graphs:
            for node in graph.all_nodes():
                if node.domain == DOMAIN and (DOMAIN, node.op_type, "") not in model.functions:
                    raise ir.passes.PostconditionError(f"node {node.name!r}: no function {node.op_type!r}")


def _attach(model: ir.Model, function: Function) -> None:
    key = (DOMAIN, function.op_type, "")
    if key in model.functions:
        return
    text = function.text(model.graph.opset_imports[""])
    model.functions[key] = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    for called in function.calls:
        _attach(model, called)
