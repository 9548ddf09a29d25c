"""Mark the hidden states that become the logits of a decoder that another tool made."""

from __future__ import annotations

import onnx_ir as ir

from adapter_export.bundle.graphs import LOGITS_TO_KEEP, is_past
from adapter_export.export.markers import KEPT
from adapter_export.grafting.modules import MULTIPLY
from adapter_export.naming import DOMAIN, DOMAIN_VERSION

# What may follow the layer of logits: a bias, a scale, a cap, a cast. Their first inputs are the logits.
_AFTER = ("Add", "Mul", "Div", "Tanh", "Cast")
# Logits [batch, sequence, vocabulary].
_RANK = 3


class MarkLogits(ir.passes.InPlacePass):
    """Puts a marker before the layer of logits, where a trace of our own would have it (`passes.keep_logits`).

    Without a cache, or where the graph does not show this layer, there is no marker: the graph then computes the logits
    of all tokens.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        logits = next((value for value in graph.outputs if value.name == "logits"), None)
        cached = any(is_past(value.name or "") for value in graph.inputs)
        if not cached or LOGITS_TO_KEEP in graph.initializers or not _of_all_tokens(logits):
            return ir.passes.PassResult(model, modified=False)
        if (layer := _layer(logits)) is None:
            return ir.passes.PassResult(model, modified=False)
        x = layer.inputs[0]
        assert x is not None
        marker = ir.Node(DOMAIN, KEPT, [x], name=LOGITS_TO_KEEP)
        kept = marker.outputs[0]
        kept.name, kept.type, kept.shape = f"{LOGITS_TO_KEEP}.kept", x.type, x.shape
        graph.insert_before(layer, marker)
        layer.replace_input_with(0, kept)
        model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
        return ir.passes.PassResult(model, modified=True)


def _of_all_tokens(logits: ir.Value | None) -> bool:
    """Returns whether the output has one row of logits for each token of a text of any length."""
    shape = None if logits is None else logits.shape
    return shape is not None and len(shape) == _RANK and isinstance(shape[1], ir.SymbolicDim)


def _layer(logits: ir.Value | None) -> ir.Node | None:
    """Returns the node that multiplies by the weight of the layer of logits; None if it is not found."""
    node = None if logits is None else logits.producer()
    while node is not None and node.op_type not in MULTIPLY:
        value = node.inputs[0] if node.op_type in _AFTER else None
        node = None if value is None else value.producer()
    return node
