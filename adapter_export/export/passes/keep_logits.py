"""Let a run compute the logits of the last tokens only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.graphs import KEPT_SEQUENCE, LOGITS_TO_KEEP
from adapter_export.export.markers import KEPT
from adapter_export.export.passes.name_axes import renamed
from adapter_export.export.storage import initializer
from adapter_export.naming import DOMAIN

# The axis of the tokens, of hidden states [batch, sequence, hidden size] and of logits [batch, sequence, vocabulary].
_TOKENS = 1


class KeepLogits(ir.passes.InPlacePass):
    """Replaces the marker before the layer of logits by `kept = x[:, -logits_to_keep:]`.

    Of a prompt, only the logits of the last token are needed, and the layer of logits is a good part of a small model.
    `logits_to_keep` is an initializer that a run may override. Its default is 0, and as -0 is 0, all tokens are kept
    then. So the graph computes what it did, for whoever does not know of it.

    Ensures: no such marker is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        markers = list(_markers(graph))
        if not markers:
            return ir.passes.PassResult(model, modified=False)
        count = initializer(graph, LOGITS_TO_KEEP, np.array([0], np.int64))
        graph.inputs.append(count)
        end = initializer(graph, f"{LOGITS_TO_KEEP}.end", np.array([np.iinfo(np.int64).max], np.int64))
        axis = initializer(graph, f"{LOGITS_TO_KEEP}.axis", np.array([_TOKENS], np.int64))
        for number, marker in enumerate(markers, start=1):
            name = LOGITS_TO_KEEP if number == 1 else f"{LOGITS_TO_KEEP}#{number}"
            x, old = marker.inputs[0], marker.outputs[0]
            begin = ir.Node("", "Neg", [count], name=f"{name}.begin")
            kept = ir.Node("", "Slice", [x, begin.outputs[0], end, axis], name=name)
            begin.outputs[0].name = f"{name}.begin"
            new = kept.outputs[0]
            new.name, new.type, new.shape = old.name, old.type, old.shape
            graph.insert_before(marker, [begin, kept])
            ir.convenience.replace_all_uses_with(old, new)
            graph.remove(marker, safe=True)
            _rename_tokens(new, graph)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        if left := next(_markers(model.graph), None):
            raise ir.passes.PostconditionError(f"marker {left.name!r} is left")


def _markers(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == DOMAIN and node.op_type == KEPT)


def _rename_tokens(kept: ir.Value, graph: ir.Graph) -> None:
    """Gives the axis of the tokens another name, in this value and in all that is computed from it.

    ONNX Runtime may store two values of the same named shape in the same memory. Graphs of other tools may show the
    shape of no value but their outputs.
    """
    shown = [value.shape for value in (kept, *graph.outputs) if value.shape is not None and len(value.shape) > _TOKENS]
    names = {str(shown[0][_TOKENS]): KEPT_SEQUENCE}
    waiting, seen = [kept], {kept}
    while waiting:
        value = waiting.pop()
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim, names) for dim in value.shape])
        following = {output for use in value.uses() for output in use.node.outputs} - seen
        seen |= following
        waiting += following
