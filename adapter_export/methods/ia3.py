"""(IA)^3: activations scaled by learned vectors (Liu et al. 2022, arXiv:2205.05638, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapter_export.architectures.layers import Layer, expression
from adapter_export.architectures.record import Role
from adapter_export.composition import CompositionRule
from adapter_export.errors import CannotMerge, InputError
from adapter_export.methods.contract import OUT, Operator, SiteAdapter, TensorSpec, setting
from adapter_export.methods.registry import register
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class IA3Operator:
    """Elementwise scaling: out = l * y.

    Output side: y = l * (W x + b);  merged: W' = diag(l) W, b' = l * b.
    Input side:  y = W (l * x) + b;  merged: W' = W diag(l), b' = b.
    Shapes: y (B, T, d), l (d,). A convolution has channels in place of features, and `spatial` axes after them: y
    (B, d, H, W), l (d, 1, 1). With g groups, the output channels of group i read only the inputs i d/g to (i + 1) d/g.
    Identity: l = 1.
    Composed: out = y times the product of l ** s. With strengths of 1 that is one adapter after the other.
    """

    spatial: int = 0

    method: ClassVar[str] = "ia3"
    reads: ClassVar[tuple[str, ...]] = ("y",)
    unbankable: ClassVar[str | None] = None
    body: ClassVar[str] = "out = Mul (y, l)"

    @property
    def op_type(self) -> str:
        return f"IA3Conv{self.spatial}d" if self.spatial else "IA3"

    @property
    def op_name(self) -> str:
        return f"ia3_conv{self.spatial}d" if self.spatial else "ia3"

    @property
    def specs(self) -> dict[str, TensorSpec]:
        return {"l": TensorSpec((OUT, *(1,) * self.spatial), 1.0, CompositionRule.MULTIPLIED)}

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return values["y"] * tensors["l"]

    def unmergeable(self, port: Port) -> str | None:
        return "a vector before a norm cannot be folded into the norm's weights" if port is Port.NORM else None

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        scale = tensors["l"].astype(np.float64).reshape(-1)
        if (reason := self.unmergeable(port)) is not None:
            raise CannotMerge(reason)
        outputs, inputs, *kernel = weight.shape
        if port is Port.INPUT:
            groups = len(scale) // inputs
            grouped = weight.reshape(groups, outputs // groups, inputs, *kernel)
            scaled = grouped * scale.reshape(groups, 1, inputs, *(1 for _ in kernel))
            return scaled.reshape(weight.shape), bias
        return weight * scale.reshape(outputs, 1, *(1 for _ in kernel)), None if bias is None else bias * scale


@dataclass(frozen=True)
class IA3Options:
    """Options of IA3.

    Attributes:
        feedforward: Regular expression (full match) of those of the chosen modules that are scaled at their input.
    """

    feedforward: str | None = setting("REGEX", "those of --target that are scaled at their input")


class IA3:
    """Vectors on keys, values and the input of the feed-forward's second layer, as in the paper."""

    name: ClassVar[str] = "ia3"
    checkpoint_format: ClassVar[str] = "peft"
    operator_type: ClassVar[type[Any]] = IA3Operator
    learning_rate: ClassVar[float] = 1e-2
    Options: ClassVar[type[Any]] = IA3Options

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        if options.feedforward is not None:
            raise InputError("--feedforward: needs --target as well")
        sites: list[Site] = []
        for layer in layers:
            sites += [Site(path, Port.OUTPUT) for path in layer.linear(Role.KEY, Role.VALUE)]
            sites += [Site(path, Port.INPUT) for path in layer.linear(Role.DOWN)]
        return {site: IA3Operator() for site in sites}

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        inner = expression("--feedforward", options.feedforward or "")
        at_input = {path for path in modules if options.feedforward and inner.fullmatch(path)}
        return {Site(path, Port.INPUT if path in at_input else Port.OUTPUT): IA3Operator() for path in modules}

    def initial(self, operator: Operator, features: Features, options: Any, rng: np.random.Generator) -> SiteAdapter:
        return SiteAdapter(operator, {"l": np.ones(features.outputs, np.float32)})


register(IA3())
