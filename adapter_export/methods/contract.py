"""What a method is. A new method is one file in this folder that calls `register`.

A method places *operators* at sites. An operator is one piece of arithmetic, `out = f(values, tensors)`, given three
times in forms that must agree: PyTorch (`forward`), ONNX (`body`) and, where the maths allows, folded into the
neighbouring weights (`merge`). The contract test checks that they do, for every registered method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from adapter_export.architectures.layers import Layer
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import torch

# Dims of a tensor that the site fixes: the features of u, and those of y (see `sites.Port`).
IN, OUT = "in", "out"
# The one value that an operator may read which is no activation: see `Operator.reads`.
WEIGHT = "weight"


@dataclass(frozen=True)
class TensorSpec:
    """Dims and identity value of one tensor of an operator.

    dims: IN and OUT are the features of u and of y at a site; any other name is a free dim, in which adapters of one
        bundle may differ (the width of a bottleneck); an int is always that size.
    identity: all tensors filled with theirs (free dims taken as 1) make the operator return y unchanged.
    """

    dims: tuple[int | str, ...]
    identity: float

    def at(self, features: Features) -> tuple[int | str, ...]:
        """The dims at a site of these features; names are left for the free ones alone."""
        known: dict[int | str, int] = {IN: features.inputs, OUT: features.outputs}
        return tuple(known.get(dim, dim) for dim in self.dims)

    def shape(self, features: Features, free: int = 1) -> tuple[int, ...]:
        """The sizes at a site of these features, with `free` for every free dim."""
        return tuple(dim if isinstance(dim, int) else free for dim in self.at(features))


class Operator(Protocol):
    """One arithmetic at a site. Frozen and hashable: equal operators share one ONNX function."""

    def __hash__(self) -> int: ...

    @property
    def method(self) -> str: ...

    @property
    def op_type(self) -> str:
        """Name of the ONNX function, unique per arithmetic (`BottleneckRelu`)."""

    @property
    def slug(self) -> str:
        """The middle part of tensor names, `<site>.<slug>.<tensor>`; unique per arithmetic (`bottleneck_relu`)."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The values it reads, in the order of the ONNX function's inputs: u and y (see `Port`); where its sites offer
        them x, h and n (see `Site`); and `weight` (out, in), that of the linear layer at the site."""

    @property
    def body(self) -> str:
        """ONNX text (onnx.parser) that computes `out` from what it reads and the tensors, by their names.

        Tensors may come with a leading batch axis, matrices as [B, m, n] and vectors as [B, 1, n], so use
        operators that broadcast (MatMul, Mul, Add).
        """

    @property
    def axis(self) -> int:
        """The axis of y that holds the features, counted from the end (-1; a convolution has its channels before)."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Tensors of this operator by name, in the order of the ONNX function's inputs."""

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same arithmetic in PyTorch; the values are (..., d), or as `axis` says."""

    def unmergeable(self, port: Port) -> str | None:
        """Why no weights compute the same function as this operator at such a site, or None where `merge` can."""

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Fold into a linear layer: float64 weight (out, in) and bias (out,) in, the same out.

        A layer without a bias comes with None; a rule that would need one gives one. What does not change may be the
        array that was given. Raises CannotMerge, with the reason, where `unmergeable` gives one.
        """


@dataclass(frozen=True)
class SiteAdapter:
    """An operator with its tensors: what stands at one site. Tensors are numpy arrays shaped as `specs` says."""

    operator: Operator
    tensors: Mapping[str, np.ndarray]


def setting(value: str, help: str, default: Any = None) -> Any:  # noqa: A002
    """A field of a method's options, which `train` offers by the field's name.

    value: what the option takes, in the command's help (`REGEX`, `N`). help: what it is, for a line of that help.
    """
    return field(default=default, metadata={"value": value, "help": help})


class Method(Protocol):
    """A kind of adapter: where it goes, how it starts, and how it is best trained."""

    name: ClassVar[str]
    # The format that trained adapters are written in: "peft", "adapterhub", or the project's own, "adapter-export".
    checkpoint_format: ClassVar[str]
    # The frozen dataclass of its operators; what differs between them are its fields.
    operator_type: ClassVar[type[Any]]
    learning_rate: ClassVar[float]
    # A frozen dataclass of the method's own settings, each made by `setting`.
    Options: ClassVar[type[Any]]

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        """The method's own choice of sites in these layers, each with its operator. Raises InputError where the model
        lacks a module that its architecture should have."""

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        """Sites at modules that the user chose (`--target`). Raises InputError for options that need more than the
        modules' paths."""

    def initial(
        self, operator: Operator, features: Features, options: Any, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """float32 tensors to start training from; together they are the identity."""
