"""A swappable task head: each of its linear layers as an operator of the graph, with tensors of its own.

The two bodies are what the exporter itself emits for a linear layer, so that a base model's own head keeps its bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.methods.contract import TensorSpec
from adapter_export.models.base_model import BaseModel
from adapter_export.models.heads import read_head
from adapter_export.naming import HEAD_OP, tensor_name

_RANK_OF_POOLED = 2

# Shapes: x (B, d) or (B, T, d), weight (n, d), bias (n,); out (B, n) or (B, T, n): out = x weight^T + bias.
_POOLED = "out = Gemm <transB: int = 1> (x, weight, bias)"
_TOKENS = """
    transposed = Transpose <perm: ints = [1, 0]> (weight)
    product = MatMul (x, transposed)
    out = Add (product, bias)
"""
# The same with weights of its own for each row: x (B, T, d), weight (B, n, d), bias (B, 1, n).
ROW_HEAD = """
    transposed = Transpose <perm: ints = [0, 2, 1]> (weight)
    product = MatMul (x, transposed)
    out = Add (product, bias)
"""


@dataclass(frozen=True)
class HeadOperator:
    """The operator of one head layer. labels: it is the last layer, whose outputs are one per label."""

    op_type: str
    body: str
    labels: bool

    def specs(self, features_in: int, features_out: int) -> Mapping[str, TensorSpec]:
        outputs: int | str = NUM_LABELS if self.labels else features_out
        return {"weight": TensorSpec((outputs, features_in), 0.0), "bias": TensorSpec((outputs,), 0.0)}


def head_operator(rank: int, labels: bool) -> HeadOperator:
    """The operator for inputs of `rank`: pooled (B, d) or one vector per token (B, T, d)."""
    if rank == _RANK_OF_POOLED:
        return HeadOperator("PooledHead", _POOLED, labels)
    return HeadOperator("TokenHead", _TOKENS, labels)


def head_defaults(base: BaseModel) -> dict[str, np.ndarray]:
    """Head tensors of no adapter: the base model's own head; without one an empty head, which answers no labels."""
    defaults: dict[str, np.ndarray] = {}
    layers = read_head(base.module, base.info.head)
    for name, layer in layers.items():
        weight = layer.weight
        bias = np.zeros(weight.shape[0], weight.dtype) if layer.bias is None else layer.bias
        if base.untrained_head:
            rows = 0 if name == base.info.head[-1] else weight.shape[0]
            weight, bias = np.zeros((rows, weight.shape[1]), weight.dtype), np.zeros(rows, weight.dtype)
        defaults |= {tensor_name(name, HEAD_OP, "weight"): weight, tensor_name(name, HEAD_OP, "bias"): bias}
    return defaults
