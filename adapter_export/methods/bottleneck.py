"""Sequential bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapter_export.errors import CannotMerge, InputError
from adapter_export.methods.contract import Operator, TensorSpec
from adapter_export.methods.registry import register
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import torch

    from adapter_export.placement.architecture import Placement

# Activation -> ONNX text from `a` to `b`. The keys are names of `transformers.activations.ACT2FN`, which gives the
# PyTorch side; ALIASES maps other spellings of the same function onto them.
ACTIVATIONS: Mapping[str, str] = {
    "relu": "b = Relu (a)",
    "silu": "sigma = Sigmoid (a)  b = Mul (a, sigma)",
    "gelu": 'b = Gelu <approximate: string = "none"> (a)',
    "gelu_new": 'b = Gelu <approximate: string = "tanh"> (a)',
    "leaky_relu": "b = LeakyRelu <alpha: float = 0.01> (a)",
    "tanh": "b = Tanh (a)",
    "sigmoid": "b = Sigmoid (a)",
    "linear": "b = Identity (a)",
}
ALIASES: Mapping[str, str] = {"swish": "silu", "leakyrelu": "leaky_relu", "gelu_pytorch_tanh": "gelu_new"}

# Placement -> the activation its authors' library pairs it with.
PLACEMENTS: Mapping[str, str] = {"houlsby": "silu", "pfeiffer": "relu"}

# Standard deviation of the first layer at the start, as in BERT; the second layer starts at zero (identity).
INITIAL_STD = 0.02


def activation(name: str) -> str:
    """The canonical name of an activation; raises InputError naming the known ones."""
    canonical = ALIASES.get(name, name)
    if canonical not in ACTIVATIONS:
        raise InputError(f"activation {name!r}: expected one of {', '.join(sorted({*ACTIVATIONS, *ALIASES}))}")
    return canonical


@dataclass(frozen=True)
class BottleneckOperator:
    """out = y + act(u down + down_bias) up + up_bias.

    Shapes: u, y (B, T, d), down (d, k), down_bias (k,), up (k, d), up_bias (d,): the layout MatMul wants, so no
    transpose at run time. A scaling factor of the checkpoint is folded into up and up_bias. Identity: up = up_bias = 0.
    """

    activation: str

    method: ClassVar[str] = "bottleneck"

    @property
    def op_type(self) -> str:
        return "Bottleneck" + "".join(part.capitalize() for part in self.activation.split("_"))

    @property
    def slug(self) -> str:
        return f"bottleneck_{self.activation}"

    @property
    def body(self) -> str:
        return f"""
            projected = MatMul (u, down)
            a = Add (projected, down_bias)
            {ACTIVATIONS[self.activation]}
            expanded = MatMul (b, up)
            delta = Add (expanded, up_bias)
            out = Add (y, delta)
        """

    def specs(self, features: int) -> dict[str, TensorSpec]:
        return {
            "down": TensorSpec((features, "width"), 0.0),
            "down_bias": TensorSpec(("width",), 0.0),
            "up": TensorSpec(("width", features), 0.0),
            "up_bias": TensorSpec((features,), 0.0),
        }

    def forward(self, u: torch.Tensor, y: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        from transformers.activations import ACT2FN

        act: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[self.activation]
        hidden = act(u @ tensors["down"] + tensors["down_bias"])
        return y + (hidden @ tensors["up"] + tensors["up_bias"])

    def unmergeable(self, port: Port) -> str | None:
        return (
            f"a bottleneck adapter is not linear ({self.activation} between its two layers), so no weights of the base "
            "model compute the same function; export it with --mode embedded or swappable instead"
        )

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        raise CannotMerge(self.unmergeable(port))


@dataclass(frozen=True)
class BottleneckOptions:
    """placement: `houlsby` (after attention and after the feed-forward) or `pfeiffer` (after the feed-forward only).
    reduction_factor: k = max(1, int(d // reduction_factor)). activation: None takes the placement's own.
    """

    placement: str = "houlsby"
    reduction_factor: float = 16
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise InputError(f"placement {self.placement!r}: expected one of {', '.join(PLACEMENTS)}")
        if not self.reduction_factor > 0:
            raise InputError(f"reduction factor {self.reduction_factor!r}: expected a number above 0")


class Bottleneck:
    """Small networks d -> k -> d beside the residual stream."""

    name: ClassVar[str] = "bottleneck"
    checkpoint_format: ClassVar[str] = "adapterhub"
    learning_rate: ClassVar[float] = 1e-3
    Options: ClassVar[type[Any]] = BottleneckOptions

    def place(self, placement: Placement, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        operator = BottleneckOperator(activation(options.activation or PLACEMENTS[options.placement]))
        return dict.fromkeys(placement.bottleneck_sites(modules, options.placement), operator)

    def initial(
        self, operator: Operator, features: int, options: Any, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        width = max(1, int(features // options.reduction_factor))
        return {
            "down": rng.normal(0.0, INITIAL_STD, (features, width)).astype(np.float32),
            "down_bias": np.zeros(width, np.float32),
            "up": np.zeros((width, features), np.float32),
            "up_bias": np.zeros(features, np.float32),
        }


register(Bottleneck())
