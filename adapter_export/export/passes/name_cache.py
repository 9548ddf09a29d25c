"""Give the tensors of a traced cache their public names."""

from __future__ import annotations

import re

import onnx_ir as ir

from adapter_export.bundle.graphs import PAST, PRESENT, is_past

# The names of transformers' exporter, before and after the run.
_TRACED = re.compile(
    r"(?:input\.|output\.)?past_key_values(?:\.(?P<side>self|cross)_attention_cache)?"
    r"\.layers\.(?P<layer>\d+)\.(?P<tensor>key|value)s"
)
_SIDES = {None: "", "self": "decoder.", "cross": "encoder."}


class NameCache(ir.passes.InPlacePass):
    """Renames the tensors of a cache: `past_key_values.N.key` goes in, `present.N.key` comes out.

    Ensures: no input or output has the tracer's name, and the inputs of the cache come after all others.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, renamed = model.graph, False
        for values, prefix in ((graph.inputs, PAST), (graph.outputs, PRESENT)):
            for value in values:
                if (match := _TRACED.fullmatch(value.name or "")) is not None:
                    value.name = f"{prefix}{int(match['layer'])}.{_SIDES[match['side']]}{match['tensor']}"
                    renamed = True
        graph.inputs[:] = sorted(graph.inputs, key=lambda value: is_past(value.name or ""))
        return ir.passes.PassResult(model, modified=renamed)

    def ensures(self, model: ir.Model) -> None:
        for value in (*model.graph.inputs, *model.graph.outputs):
            if _TRACED.fullmatch(value.name or ""):
                raise ir.passes.PostconditionError(f"{value.name!r}: a part of a cache without a public name")
        order = [is_past(value.name or "") for value in model.graph.inputs]
        if order != sorted(order):
            raise ir.passes.PostconditionError("an input follows those of the cache")
