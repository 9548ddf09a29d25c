"""Replace constant matrices by their 8-bit or 4-bit forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from adapter_export.export.quantize import ACCURACY_INT8, BLOCK, quantize_rows
from adapter_export.naming import CONTRIB

# The last is what ONNX Runtime's fusions make of a product with a transposed matrix, as of a tied table.
_PRODUCTS = (("", "MatMul"), ("", "Gemm"), (CONTRIB, "FusedMatMul"))


class QuantizeWeights(ir.passes.InPlacePass):
    """Replaces products with constant matrices, and look-ups in constant tables, by their quantized forms.

    Matrices of graph inputs (adapters, swappable heads) and convolutions stay as they are. A constant is removed as
    soon as no node reads it.

    Ensures: every constant is stored once, also a table that embeds tokens and, transposed, gives their logits. No
    quantized matrix is left that no node reads.
    """

    def __init__(self, bits: int) -> None:
        """Makes the pass.

        Args:
            bits: Bits of a weight, 8 or 4.
        """
        self._bits = bits

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        weights = _Weights(model.graph, self._bits)
        for node in list(model.graph):
            quantized = None
            if (node.domain, node.op_type) in _PRODUCTS:
                quantized = _product(weights, node)
            elif node.domain == "" and node.op_type == "Gather":
                quantized = _look_up(weights, node)
            if quantized is not None:
                _replace(model.graph, node, quantized)
        if not weights.quantized:
            return ir.passes.PassResult(model, modified=False)
        model.graph.opset_imports[CONTRIB] = 1
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        graph = model.graph
        if any(node.domain == CONTRIB for node in graph) and CONTRIB not in graph.opset_imports:
            raise ir.passes.PostconditionError(f"operators of {CONTRIB} without an import of the domain")
        for name, value in graph.initializers.items():
            if name.endswith((".int8", ".int4", ".scales")) and not value.uses() and not value.is_graph_input():
                raise ir.passes.PostconditionError(f"constant {name!r} is not read")


@dataclass(frozen=True)
class _Quantized:
    """A matrix [N, K] in 8 or 4 bits.

    Attributes:
        rows: uint8 [N, K / BLOCK, bytes of a block], K rounded up to a multiple of BLOCK.
        scales: float32 [N, K / BLOCK].
        shape: N and K.
    """

    rows: ir.Value
    scales: ir.Value
    shape: tuple[int, int]


class _Weights:
    """The quantized matrices of the graph, each stored once, whichever way it is used."""

    def __init__(self, graph: ir.Graph, bits: int) -> None:
        self._graph, self.bits = graph, bits
        self.quantized: dict[tuple[str, bool], _Quantized] = {}

    def get(self, value: ir.Value | None, *, rows_are_outputs: bool) -> _Quantized | None:
        """Returns the value as [N, K] with N outputs; None unless it is a constant float32 matrix."""
        if value is None or (tensor := value.const_value) is None or value.is_graph_input():
            return None
        if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            return None
        key = (str(value.name), rows_are_outputs)
        if key not in self.quantized:
            matrix = tensor.numpy() if rows_are_outputs else tensor.numpy().T
            rows, scales = quantize_rows(matrix, self.bits)
            name = key[0] if rows_are_outputs else f"{key[0]}.T"
            self.quantized[key] = _Quantized(
                self.constant(f"{name}.int{self.bits}", rows), self.constant(f"{name}.scales", scales), matrix.shape
            )
        return self.quantized[key]

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """Returns the constant of this name, which is added if it is not there."""
        if name not in self._graph.initializers:
            self._graph.register_initializer(
                ir.Value(
                    name=name,
                    shape=ir.Shape(array.shape),
                    type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                    const_value=ir.Tensor(array, name=name),
                )
            )
        return self._graph.initializers[name]


def _replace(graph: ir.Graph, node: ir.Node, quantized: ir.Node) -> None:
    read, old, new = node.inputs, node.outputs[0], quantized.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    quantized.metadata_props.update(node.metadata_props)
    graph.insert_before(node, quantized)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    for value in read:
        if value is not None and value.is_initializer() and not value.is_graph_input() and not value.uses():
            del graph.initializers[str(value.name)]


def _product(weights: _Weights, node: ir.Node) -> ir.Node | None:
    """Returns the products x W, x transpose(W) and, of matrices, x W + b, as MatMulNBits; None for any other."""
    x, weight = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    rows_are_outputs = False
    if node.op_type != "MatMul":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transBatchA": 0, "transBatchB": 0}
        if any(name in node.attributes and node.attributes[name].value != value for name, value in plain.items()):
            return None
        if bias is not None and (bias.shape is None or len(bias.shape) != 1):
            return None
        rows_are_outputs = bool(node.attributes["transB"].value) if "transB" in node.attributes else False
    elif weight is not None and (producer := weight.producer()) is not None and producer.op_type == "Transpose":
        weight, rows_are_outputs = producer.inputs[0], True
    if (quantized := weights.get(weight, rows_are_outputs=rows_are_outputs)) is None:
        return None
    outputs, width = quantized.shape
    inputs = [x, quantized.rows, quantized.scales, *((None, None, bias) if bias is not None else ())]
    attributes = {"K": width, "N": outputs, "bits": weights.bits, "block_size": BLOCK, "accuracy_level": ACCURACY_INT8}
    return ir.node("MatMulNBits", inputs, attributes, domain=CONTRIB, name=node.name)


def _look_up(weights: _Weights, node: ir.Node) -> ir.Node | None:
    """Returns rows of a table by their numbers as GatherBlockQuantized, which takes complete blocks only; else None."""
    table, ids = node.inputs
    if "axis" in node.attributes and node.attributes["axis"].value != 0:
        return None
    if table is None or table.shape is None or len(table.shape) != 2 or int(table.shape[1]) % BLOCK:  # type: ignore[arg-type]
        return None
    if (quantized := weights.get(table, rows_are_outputs=True)) is None:
        return None
    stored = (quantized.shape[0], quantized.shape[1] * weights.bits // 8)
    shape = weights.constant(f"{table.name}.shape", np.array(stored, np.int64))
    flat = ir.node("Reshape", [quantized.rows, shape])
    flat.outputs[0].dtype, flat.outputs[0].shape = ir.DataType.UINT8, ir.Shape(stored)
    node.graph.insert_before(node, flat)  # type: ignore[union-attr]
    attributes = {"bits": weights.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    return ir.node(
        "GatherBlockQuantized", [flat.outputs[0], ids, quantized.scales], attributes, domain=CONTRIB, name=node.name
    )
