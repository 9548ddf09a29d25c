"""Remove pairs of nodes that reshape a value and give it its shape back."""

from __future__ import annotations

import onnx_ir as ir

# The target of a Reshape that merges the last two of four axes.
_MERGE = [0, 0, -1]


class CollapseReshapes(ir.passes.InPlacePass):
    """Replaces Reshape(Reshape(x)) by x if the result has the shape of x.

    Fusions leave such pairs around attention: [batch, tokens, heads * head size] is split into heads, and merged again.
    Shapes are the same if all sizes are, as numbers or as the tracer's symbols.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            inner = _reshape_before(node) if node.op_type == "Reshape" else None
            x = None if inner is None else inner.inputs[0]
            if x is None or x.shape is None or node.outputs[0].is_graph_output():
                continue
            # Of a size without a name, nothing is known.
            if x.shape.has_unknown_dim():
                continue
            if _sizes(node) == [str(size) for size in x.shape]:
                ir.convenience.replace_all_uses_with(node.outputs[0], x)
                graph = node.graph
                assert graph is not None
                graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified)


def _reshape_before(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    maker = None if value is None else value.producer()
    return maker if maker is not None and maker.op_type == "Reshape" else None


def _sizes(node: ir.Node) -> list[str] | None:
    """Returns the sizes of what a Reshape gives; None if they are not known."""
    if (shape := node.outputs[0].shape) is not None:
        return [str(size) for size in shape]
    value, target = node.inputs
    tensor = None if target is None else ir.convenience.get_const_tensor(target)
    if tensor is None or tensor.numpy().tolist() != _MERGE or value is None or value.shape is None:
        return None
    first, second, *rest = value.shape
    if not all(isinstance(size, int) for size in rest):
        return None
    merged = 1
    for size in rest:
        merged *= int(size)  # type: ignore[arg-type]
    return [str(first), str(second), str(merged)]
