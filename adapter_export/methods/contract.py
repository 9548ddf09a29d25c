"""The interface of a method. A new method is one file in this folder that calls `register`.

A method places *operators* at sites. An operator is one piece of arithmetic, `out = f(values, tensors)`, in three forms
that must agree: in PyTorch (`forward`), in ONNX (`body`) and, if the maths allows it, folded into the neighbouring
weights (`merge`). The contract test checks for every registered method that they agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from adapter_export import composition
from adapter_export.architectures.layers import Layer
from adapter_export.composition import CompositionRule
from adapter_export.errors import InputError
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import torch

# Dims of a tensor whose sizes the site fixes: the features of u, and those of y (see `sites.Port`).
IN, OUT = "in", "out"
# The only value that is not an activation and that an operator may read: see `Operator.reads`.
WEIGHT = "weight"


@dataclass(frozen=True)
class TensorSpec:
    """Dims and identity value of one tensor of an operator.

    Attributes:
        dims: IN and OUT are the features of u and of y at a site. Any other name is a free dim, in which adapters of
            one bundle may differ (the width of a bottleneck). An int is a fixed size.
        identity: If all tensors are filled with their values (free dims taken as 1), the operator returns y unchanged.
        composition: How the tensors of several adapters become one; None if the maths has no rule.
    """

    dims: tuple[int | str, ...]
    identity: float
    composition: CompositionRule | None = None

    def at(self, features: Features) -> tuple[int | str, ...]:
        """Returns the dims at a site with these features. Only free dims are still names."""
        known: dict[int | str, int] = {IN: features.inputs, OUT: features.outputs}
        return tuple(known.get(dim, dim) for dim in self.dims)

    def shape(self, features: Features, free: int = 1) -> tuple[int, ...]:
        """Returns the sizes at a site with these features, with `free` for every free dim."""
        return tuple(dim if isinstance(dim, int) else free for dim in self.at(features))


class Operator(Protocol):
    """The arithmetic at a site. Operators are frozen and hashable: equal operators share one ONNX function."""

    def __hash__(self) -> int: ...

    @property
    def method(self) -> str: ...

    @property
    def op_type(self) -> str:
        """Name of the ONNX function, unique for each arithmetic (`BottleneckRelu`)."""

    @property
    def op_name(self) -> str:
        """The part of the operator in tensor names, `<site>.<op_name>.<tensor>`, unique for each arithmetic at a site.

        A bank stacks the tensors of all sites by it, so it is unique for each arithmetic that a bank takes.
        """

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it reads, in the order of the ONNX function's inputs.

        They are u and y (see `Port`); x, h and n if its sites offer them (see `Site`); and `weight` (out, in), the
        weight of the linear layer at the site.
        """

    @property
    def body(self) -> str:
        """ONNX text (onnx.parser) that computes `out` from the values and the tensors, by their names.

        Tensors may have a leading batch axis: matrices [B, m, n] and vectors [B, 1, n]. So use operators that broadcast
        (MatMul, Mul, Add), or say in `unbankable` why there are none.
        """

    @property
    def unbankable(self) -> str | None:
        """Why the rows of a batch cannot have tensors of their own, for an error; None if they can."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Tensors of this operator by name, in the order of the ONNX function's inputs."""

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Computes the same in PyTorch. Values are (..., d); around a convolution (..., d, *spatial)."""

    def unmergeable(self, port: Port) -> str | None:
        """Returns why no weights compute the same as this operator at such a site; None if `merge` can."""

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Folds the operator into a linear layer.

        An array that does not change may be returned as it is.

        Args:
            port: The port of the site.
            weight: float64 (out, in); of a convolution (out, in, *kernel).
            bias: float64 (out,); None for a layer without a bias.
            tensors: The operator's tensors.

        Returns:
            The new weight, and the new bias, which a rule may also add to a layer without one.

        Raises:
            CannotMerge: `unmergeable` returns a reason, which is the message.
        """


def strengthened(operator: Operator, tensors: Mapping[str, Any], strength: float) -> dict[str, Any]:
    """Returns tensors with which the effect of an operator has another strength: 0 is the identity, 1 no change.

    Args:
        operator: The operator.
        tensors: Arrays or PyTorch tensors by name.
        strength: The strength.

    Raises:
        InputError: The maths has no such tensors.
    """
    if strength == 1:
        return dict(tensors)
    changed = {}
    for name, spec in operator.specs.items():
        if spec.composition is None:
            raise InputError(f"strength {strength:g}: {operator.op_type} has no rule for its tensor {name!r}")
        changed[name] = composition.strengthened(tensors[name], spec.composition, spec.identity, strength)
    return changed


@dataclass(frozen=True)
class SiteAdapter:
    """The adapter at one site: an operator and its tensors.

    Attributes:
        operator: The operator.
        tensors: Arrays by name, with the shapes of `specs`, as a checkpoint has them.
        strength: What the checkpoint multiplies the effect of these tensors by.
    """

    operator: Operator
    tensors: Mapping[str, np.ndarray]
    strength: float = 1.0

    @property
    def effective(self) -> Mapping[str, np.ndarray]:
        """The tensors with the strength in them, as the operator takes them."""
        return strengthened(self.operator, self.tensors, self.strength)

    @property
    def exact(self) -> Mapping[str, np.ndarray]:
        """The same in float64, so that what is computed with them is rounded once."""
        exact = {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}
        return strengthened(self.operator, exact, self.strength)


def setting(value: str, help: str, default: Any = None) -> Any:  # noqa: A002
    """Makes a field of a method's options, which `train` offers as an option with the field's name.

    Args:
        value: What the option takes, for the command's help (`REGEX`, `N`).
        help: What the option is, for its line in that help.
        default: The default.
    """
    return field(default=default, metadata={"value": value, "help": help})


class Method(Protocol):
    """A kind of adapter: where it is placed, with which values it starts, and how it is trained best."""

    name: ClassVar[str]
    # The format of trained adapters on disk: "peft", "adapterhub", or the project's own, "adapter-export".
    checkpoint_format: ClassVar[str]
    # The frozen dataclass of its operators, which differ in its fields.
    operator_type: ClassVar[type[Any]]
    learning_rate: ClassVar[float]
    # A frozen dataclass of the method's own settings, each made by `setting`.
    Options: ClassVar[type[Any]]

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        """Returns the method's own choice of sites in these layers, each with its operator.

        Raises:
            InputError: The model lacks a module that its architecture should have.
        """

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        """Returns sites at modules that the user chose (`--target`), each with its operator.

        Raises:
            InputError: The options need more than the modules' paths.
        """

    def initial(self, operator: Operator, features: Features, options: Any, rng: np.random.Generator) -> SiteAdapter:
        """Returns the adapter to start training with. Its float32 tensors together are the identity."""
