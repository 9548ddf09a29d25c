"""LoRA: a low-rank change of linear layers (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapter_export.architectures.layers import Layer
from adapter_export.architectures.record import Role
from adapter_export.composition import CompositionRule
from adapter_export.errors import CannotMerge, InputError
from adapter_export.methods.contract import IN, OUT, Operator, SiteAdapter, TensorSpec, setting
from adapter_export.methods.registry import register
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoRAOperator:
    """A product of two thin matrices beside a linear layer: out = y + (u A) B, with y = u W^T + b.

    Merged: W' = W + (A B)^T, b' = b. Shapes: u (B, T, in), y (B, T, out), A (in, rank), B (rank, out), W (out, in).
    Identity: A = 0, B = 0. PEFT's scale (alpha / rank) is the strength of a checkpoint; here it is part of B.
    Composed: out = y + sum of s (u A) B, which one A and one B compute: all ranks next to each other.
    """

    method: ClassVar[str] = "lora"
    op_type: ClassVar[str] = "LoRA"
    op_name: ClassVar[str] = "lora"
    reads: ClassVar[tuple[str, ...]] = ("u", "y")
    unbankable: ClassVar[str | None] = None
    specs: ClassVar[Mapping[str, TensorSpec]] = {
        "a": TensorSpec((IN, "rank"), 0.0, CompositionRule.JOINED),
        "b": TensorSpec(("rank", OUT), 0.0, CompositionRule.JOINED_SCALED),
    }
    body: ClassVar[str] = """
        narrow = MatMul (u, a)
        wide = MatMul (narrow, b)
        out = Add (y, wide)
    """

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return values["y"] + values["u"] @ tensors["a"] @ tensors["b"]

    def unmergeable(self, port: Port) -> str | None:
        return None if port is Port.BRANCH else "LoRA reads the input of a linear layer and changes its output"

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if (reason := self.unmergeable(port)) is not None:
            raise CannotMerge(reason)
        change = tensors["a"].astype(np.float64) @ tensors["b"].astype(np.float64)
        return weight + change.T, bias


@dataclass(frozen=True)
class LoRAOptions:
    """Settings of a new LoRA adapter."""

    rank: int = setting("N", "inner size of the two matrices of a layer", 8)
    alpha: float | None = setting("N", "the change of a layer is multiplied by N / rank; without it by 1")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"--rank {self.rank}: expected at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"--alpha {self.alpha:g}: expected a number above 0")

    @property
    def scale(self) -> float:
        """The factor of the change: alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoRA:
    """Matrices beside the projections of queries and values, as in the paper and as PEFT places them by default."""

    name: ClassVar[str] = "lora"
    checkpoint_format: ClassVar[str] = "peft"
    operator_type: ClassVar[type[Any]] = LoRAOperator
    learning_rate: ClassVar[float] = 1e-3
    Options: ClassVar[type[Any]] = LoRAOptions

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        paths = [path for layer in layers for path in layer.linear(Role.QUERY, Role.VALUE)]
        return self.place_at(paths, options)

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        return {Site(path, Port.BRANCH): LoRAOperator() for path in modules}

    def initial(self, operator: Operator, features: Features, options: Any, rng: np.random.Generator) -> SiteAdapter:
        # PEFT's start: the change is zero, and A is what torch.nn.Linear begins with.
        bound = 1 / np.sqrt(features.inputs)
        tensors = {
            "a": rng.uniform(-bound, bound, (features.inputs, options.rank)).astype(np.float32),
            "b": np.zeros((options.rank, features.outputs), np.float32),
        }
        return SiteAdapter(operator, tensors, strength=options.scale)


register(LoRA())
