"""The weights of linear layers as a graph stores them: plain, or quantized in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapter_export.errors import InputError
from adapter_export.grafting.modules import Linear

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


def bias_of(layer: Linear, followed: list[ir.Node]) -> np.ndarray | None:
    """Returns the bias that is added between a layer's product and its output, float64 (out,); None without one.

    Args:
        layer: The layer.
        followed: The nodes of the layer.
    """
    for node in followed:
        values = node.inputs[2:3] if node is layer.node and node.op_type == "Gemm" else node.inputs
        if node.op_type not in ("Add", "Gemm"):
            continue
        for value in values:
            if value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 1:
                return _array(value, node).astype(np.float64)
    return None


def _dequantized(node: ir.Node, rows: slice) -> np.ndarray:
    """W = scale * (q - zero). Each block of a row has its scale, and its zero or half of the range."""
    bits, block, inner = (node.attributes[name].as_int() for name in ("bits", "block_size", "K"))
    if bits not in (_NIBBLE, _BYTE):
        raise InputError(f"node {node.name!r}: expected 4 or 8 bits, found {bits}")
    stored = _array(node.inputs[1], node)
    outputs, blocks = stored.shape[0], stored.shape[1]
    values = _unpacked(stored[rows].reshape(-1, blocks * stored.shape[2]), bits).reshape(-1, blocks, block)
    scales = _array(node.inputs[2], node).reshape(outputs, blocks)[rows].astype(np.float64)
    zeros = np.full((outputs, blocks), 1 << (bits - 1), np.float64)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        given = _array(node.inputs[3], node)
        if np.issubdtype(given.dtype, np.floating):
            zeros = given.reshape(outputs, blocks).astype(np.float64)
        else:
            zeros = _unpacked(given.reshape(outputs, -1), bits)[:, :blocks].astype(np.float64)
    exact = (values.astype(np.float64) - zeros[rows][..., None]) * scales[..., None]
    return exact.reshape(len(exact), blocks * block)[:, :inner]


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
