"""LoRA of embeddings: a low-rank change of a table of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from adapter_export.composition import CompositionRule
from adapter_export.errors import CannotMerge
from adapter_export.methods.contract import IN, OUT, TensorSpec
from adapter_export.sites import Port

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoRAEmbeddingOperator:
    """A product of two thin matrices beside an embedding: out = y + scale * A[u] B, with y = scale * E[u].

    An embedding is a linear layer of vectors with a single one, with W = E^T. So this is LoRA of a linear layer.
    Merged: E' = E + A B. Shapes: u (B, T), numbers of rows; y (B, T, out), A (rows, rank), B (rank, out), E (rows,
    out); in `merge` W (out, rows). Identity: A = 0, B = 0. PEFT's scale (alpha / rank) is part of B.

    Attributes:
        scale: What the module multiplies its rows by.
    """

    scale: float = 1.0

    method: ClassVar[str] = "lora"
    op_name: ClassVar[str] = "lora_embedding"
    reads: ClassVar[tuple[str, ...]] = ("u", "y")
    unbankable: ClassVar[str | None] = "each row of a batch would need its own copy of a whole table"
    specs: ClassVar[Mapping[str, TensorSpec]] = {
        "a": TensorSpec((IN, "rank"), 0.0, CompositionRule.JOINED),
        "b": TensorSpec(("rank", OUT), 0.0, CompositionRule.JOINED_SCALED),
    }

    @property
    def op_type(self) -> str:
        by = f"_by_{self.scale!r}".replace(".", "_").replace("-", "m").replace("+", "p")
        return "LoRAEmbedding" if self.scale == 1 else f"LoRAEmbedding{by}"

    @property
    def body(self) -> str:
        lines = ["narrow = Gather <axis: int = 0> (a, u)", "wide = MatMul (narrow, b)"]
        if self.scale != 1:
            lines += [
                f"scale_fp32 = Constant <value_float: float = {self.scale!r}> ()",
                "scale = CastLike (scale_fp32, wide)",
                "change = Mul (wide, scale)",
            ]
        return "\n".join([*lines, f"out = Add (y, {'wide' if self.scale == 1 else 'change'})"])

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return values["y"] + tensors["a"][values["u"]] @ tensors["b"] * self.scale

    def unmergeable(self, port: Port) -> str | None:
        return None if port is Port.BRANCH else "LoRA reads the input of an embedding and changes its output"

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if (reason := self.unmergeable(port)) is not None:
            raise CannotMerge(reason)
        change = tensors["a"].astype(np.float64) @ tensors["b"].astype(np.float64)
        return weight + change.T, bias
