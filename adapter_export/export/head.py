"""A swappable task head: each of its linear layers is an operator of the graph, with its own tensors.

The two bodies are the nodes that the exporter itself emits for a linear layer, so that the outputs of the base model's
own head are bitwise the same.
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

# out = x weight^T + bias. Shapes: x [B, d] or [B, T, d], weight [n, d], bias [n]; out [B, n] or [B, T, n].
_POOLED = "out = Gemm <transB: int = 1> (x, weight, bias)"
_TOKENS = """
    transposed = Transpose <perm: ints = [1, 0]> (weight)
    product = MatMul (x, transposed)
    out = Add (product, bias)
"""
# The same with a different weight for each row: x [B, T, d], weight [B, n, d], bias [B, 1, n].
ROW_HEAD = """
    transposed = Transpose <perm: ints = [0, 2, 1]> (weight)
    product = MatMul (x, transposed)
    out = Add (product, bias)
"""


@dataclass(frozen=True)
class HeadOperator:
    """The operator of one head layer.

    Attributes:
        op_type: Name of its function.
        body: ONNX text of its function.
        labels: Whether it is the last layer, with one output for each label.
    """

    op_type: str
    body: str
    labels: bool

    def specs(self, features_in: int, features_out: int) -> Mapping[str, TensorSpec]:
        """Returns the tensors of a layer with these numbers of input and output features."""
        outputs: int | str = NUM_LABELS if self.labels else features_out
        return {"weight": TensorSpec((outputs, features_in), 0.0), "bias": TensorSpec((outputs,), 0.0)}


def head_operator(rank: int, labels: bool) -> HeadOperator:
    """Returns the operator of a head layer.

    Args:
        rank: Rank of its input: 2 for pooled values [B, d], 3 for one vector per token [B, T, d].
        labels: Whether it is the last layer.
    """
    if rank == _RANK_OF_POOLED:
        return HeadOperator("PooledHead", _POOLED, labels)
    return HeadOperator("TokenHead", _TOKENS, labels)


def head_defaults(base: BaseModel) -> dict[str, np.ndarray]:
    """Returns the head tensors of no adapter, by full name.

    They are those of the base model's own head. If it has no trained head, they are those of a head without labels.
    """
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
