"""A swappable task head: each of its linear layers as an operator of the graph, with tensors of its own.

The two bodies are what the exporter itself emits for a linear layer, so that a base model's own head keeps its bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter_export.methods.contract import TensorSpec

NUM_LABELS = "num_labels"
_RANK_OF_POOLED = 2

# Shapes: x (B, d) or (B, T, d), weight (n, d), bias (n,); out (B, n) or (B, T, n): out = x weight^T + bias.
_POOLED = "out = Gemm <transB: int = 1> (x, weight, bias)"
_TOKENS = """
    transposed = Transpose <perm: ints = [1, 0]> (weight)
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
