"""The weights of linear layers as a graph stores them: plain, or quantized in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapter_export.errors import InputError
from adapter_export.grafting.modules import Linear, integer

if TYPE_CHECKING:
    import onnx_ir as ir

_NIBBLE = 4
_BYTE = 8


def is_quantized(layer: Linear) -> bool:
    """Returns whether the weight of a layer is stored as integers."""
    return layer.node.op_type == "MatMulNBits"


def weight_rows(layer: Linear, rows: slice) -> np.ndarray:
    """Returns rows of a layer's weight, float64 (rows, in), dequantized if it is quantized.

    Args:
        layer: The layer.
        rows: Which of its outputs.

    Raises:
        InputError: The graph does not hold the weight, or it is quantized in a way that is not known.
    """
    if is_quantized(layer):
        return _dequantized(layer.node, rows)
    weight = _array(layer.weight, layer.node)
    transposed = layer.node.attributes.get("transB")
    stored = weight[rows] if transposed is not None and transposed.as_int() else weight[:, rows].T
    return stored.astype(np.float64)


def bias_of(layer: Linear) -> np.ndarray | None:
    """Returns the bias that is added between a layer's product and its output, float64 (out,); None without one."""
    for node in layer.nodes:
        values = node.inputs[2:3] if node is layer.node and node.op_type == "Gemm" else node.inputs
        if node.op_type not in ("Add", "Gemm"):
            continue
        for value in values:
            if value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 1:
                return _array(value, node).astype(np.float64)
    return None


def table_rows(node: ir.Node) -> np.ndarray:
    """Returns the whole table of a GatherBlockQuantized, float64 [rows, features], which it looks up in by rows."""
    table = node.inputs[0]
    maker = None if table is None else table.producer()
    # The table may be that of a product, in another shape.
    stored = _array(maker.inputs[0] if maker is not None and maker.op_type == "Reshape" else table, node)
    bits, block = (integer(node, name) for name in ("bits", "block_size"))
    scales = _array(node.inputs[2], node).reshape(len(stored), -1)
    zeros = _array(node.inputs[3], node) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    return _exact(stored.reshape(len(stored), -1), scales, zeros, bits, block, slice(None))


def _dequantized(node: ir.Node, rows: slice) -> np.ndarray:
    bits, block, inner = (integer(node, name) for name in ("bits", "block_size", "K"))
    if bits not in (_NIBBLE, _BYTE):
        raise InputError(f"node {node.name!r}: expected 4 or 8 bits, found {bits}")
    stored = _array(node.inputs[1], node)
    scales = _array(node.inputs[2], node).reshape(len(stored), -1)
    zeros = _array(node.inputs[3], node) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    return _exact(stored.reshape(len(stored), -1), scales, zeros, bits, block, rows)[:, :inner]


def _exact(
    stored: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int, rows: slice
) -> np.ndarray:
    """Computes w = scale * (q - zero). Each block of a row has its scale, and its zero or half of the range."""
    values = _unpacked(stored[rows], bits)
    outputs, blocks = len(values), scales.shape[1]
    if zeros is None:
        centre = np.full((outputs, blocks), 1 << (bits - 1), np.float64)
    elif np.issubdtype(zeros.dtype, np.floating):
        centre = zeros.reshape(len(scales), blocks)[rows].astype(np.float64)
    else:
        centre = _unpacked(zeros.reshape(len(scales), -1), bits)[rows, :blocks].astype(np.float64)
    # The last block may be shorter than the others.
    padded = np.pad(values.astype(np.float64), ((0, 0), (0, blocks * block - values.shape[1])))
    exact = (padded.reshape(outputs, blocks, block) - centre[..., None]) * scales[rows].astype(np.float64)[..., None]
    return exact.reshape(outputs, -1)[:, : values.shape[1]]


def _unpacked(stored: np.ndarray, bits: int) -> np.ndarray:
    """Returns the numbers of each row; of two in a byte, the lower half is the first."""
    if bits == _BYTE:
        return stored
    return np.stack([stored & 0xF, stored >> _NIBBLE], axis=-1).reshape(len(stored), -1)


def _array(value: ir.Value | None, node: ir.Node) -> np.ndarray:
    tensor = None if value is None else value.const_value
    if tensor is None and value is not None and (maker := value.producer()) is not None:
        constant = maker.attributes.get("value")
        tensor = None if constant is None else constant.as_tensor()
    if tensor is None:
        raise InputError(f"node {node.name!r}: expected its weight in the graph, found none")
    return tensor.numpy()
