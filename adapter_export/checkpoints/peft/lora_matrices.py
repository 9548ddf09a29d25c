"""The two matrices of LoRA as PEFT stores them, by the kind of the layer.

| layer | tensors | A | B |
|---|---|---|---|
| linear | `lora_A.weight`, `lora_B.weight` | (rank, in) | (out, rank) |
| embedding | `lora_embedding_A`, `lora_embedding_B` | (rank, rows) | (out, rank) |
| convolution | `lora_A.weight`, `lora_B.weight` | (rank, in, *kernel) | (out, rank / groups, 1, ...) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adapter_export.methods.contract import Operator
from adapter_export.methods.lora import LoRAOperator
from adapter_export.methods.lora_convolution import LoRAConvolutionOperator
from adapter_export.methods.lora_embedding import LoRAEmbeddingOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Features

Shape = tuple[int, ...]
Names = tuple[str, str]
# Names of A and of B below their module, without `lora_`.
_WEIGHTS: Names = ("A.weight", "B.weight")
_ROWS: Names = ("embedding_A", "embedding_B")
PARTS = (*_WEIGHTS, *_ROWS)


class LayerKind(Protocol):
    """How PEFT stores the matrices of one kind of layer."""

    @property
    def names(self) -> Names:
        """Names of A and B below their module, without `lora_`."""

    @property
    def operator(self) -> Operator:
        """What the matrices compute."""

    def shapes(self, features: Features, rank: int) -> tuple[Shape, Shape]:
        """Returns the shapes of A and B at a site with these features."""

    def read(self, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the tensors of the operator."""

    def write(self, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns A and B."""


@dataclass(frozen=True)
class _Flat:
    """Linear layers and embeddings."""

    names: Names
    operator: Operator

    def shapes(self, features: Features, rank: int) -> tuple[Shape, Shape]:
        return (rank, features.inputs), (features.outputs, rank)

    def read(self, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        return {"a": a.T, "b": b.T}

    def write(self, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(tensors["a"].T), np.ascontiguousarray(tensors["b"].T)


@dataclass(frozen=True)
class _Convolution:
    """Convolutions. With g groups, the first rank / g channels of A are those of the first group, and so on."""

    operator: LoRAConvolutionOperator
    names: Names = _WEIGHTS

    def shapes(self, features: Features, rank: int) -> tuple[Shape, Shape]:
        size, groups = self.operator.kernel.size, self.operator.kernel.groups
        of_group = rank // groups
        return (groups * of_group, features.inputs, *size), (features.outputs, of_group, *(1 for _ in size))

    def read(self, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        return {"a": a.reshape(self.operator.kernel.groups, -1, *a.shape[1:]), "b": b}

    def write(self, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        a = tensors["a"]
        return np.ascontiguousarray(a.reshape(-1, *a.shape[2:])), np.ascontiguousarray(tensors["b"])


def kind_at(module: str, info: ModelInfo) -> LayerKind | None:
    """Returns the kind of a module of the model; None if it is no layer that LoRA changes."""
    if (table := info.embeddings.get(module)) is not None:
        return kind_of(LoRAEmbeddingOperator(table.scale))
    if module in info.convolutions:
        return kind_of(LoRAConvolutionOperator(info.kernels[module])) if module in info.kernels else None
    return kind_of(LoRAOperator()) if module in info.inputs else None


def kind_of(operator: Operator) -> LayerKind:
    """Returns the kind of the layers that an operator of LoRA is for."""
    if isinstance(operator, LoRAConvolutionOperator):
        return _Convolution(operator)
    return _Flat(_ROWS if isinstance(operator, LoRAEmbeddingOperator) else _WEIGHTS, operator)
