"""Bottleneck adapters: sequential (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247) and
parallel (He et al. 2022, arXiv:2110.04366), with the further norms and residuals of the library `adapters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapter_export.architectures.layers import Layer
from adapter_export.composition import CompositionRule
from adapter_export.errors import CannotMerge, InputError
from adapter_export.methods.activations import ACTIVATIONS, activation
from adapter_export.methods.contract import IN, OUT, Operator, SiteAdapter, TensorSpec, setting
from adapter_export.methods.registry import register
from adapter_export.sites import Features, Port, Site

if TYPE_CHECKING:
    import torch

# Standard deviation of the first layer's initial values, as in BERT. The second layer starts at zero (identity).
INITIAL_STD = 0.02
# The value of `torch.nn.LayerNorm`, which the library uses inside its adapters.
_EPSILON = 1e-5
_LINEAR = (CompositionRule.JOINED, CompositionRule.JOINED_SCALED, CompositionRule.ADDED)


@dataclass(frozen=True)
class BottleneckOperator:
    """out = A(D(a) + w) + p,  D(a) = act(L(a) down + down_bias) up + up_bias.

    a, w and p are sums of values; L and A are layer norms of the adapter's own, or nothing. In the papers a = u, w = 0,
    p = y; in the parallel one a = x. Shapes: values (B, T, d), down (d, k), down_bias (k,), up (k, d), up_bias (d,):
    the layout of MatMul, so that nothing is transposed at run time; norms (d,). A scaling factor of the checkpoint is
    multiplied into up and up_bias.

    With all tensors 0, out = y. If p is not y itself, or something is added within A, no values of these tensors give
    y. Then there is a further tensor `active` (1,), with which 0 gives y.

    Composed, if p = y and there is no w, L and A: out = y + sum of s D(a).

    Attributes:
        activation: The activation.
        source: Names of the values in the sum a. `-` before a name subtracts the value.
        within: Names of the values in the sum w.
        plus: Names of the values in the sum p.
        norm_before: Whether there is a norm L.
        norm_after: Whether there is a norm A.
    """

    activation: str
    source: tuple[str, ...] = ("u",)
    within: tuple[str, ...] = ()
    plus: tuple[str, ...] = ("y",)
    norm_before: bool = False
    norm_after: bool = False

    method: ClassVar[str] = "bottleneck"
    unbankable: ClassVar[str | None] = None

    @property
    def op_type(self) -> str:
        return "".join(part.capitalize() for part in self.op_name.split("_"))

    @property
    def op_name(self) -> str:
        parts = ["parallel" if self.source == ("x",) else "bottleneck", self.activation]
        if self.source not in (("u",), ("x",)):
            parts += ["of", *self.source]
        parts += ["normed"] if self.norm_before else []
        parts += ["renormed"] if self.norm_after else []
        if self.within:
            parts += ["within", *self.within]
        if self.plus != ("y",):
            parts += ["plus", *self.plus]
        return "_".join(parts).replace("-", "minus_")

    @property
    def reads(self) -> tuple[str, ...]:
        named = {
            name.lstrip("-") for name in (*self.source, *self.within, *self.plus, *(("y",) if self._gated else ()))
        }
        return tuple(name for name in ("u", "y", "x", "h", "n") if name in named)

    @property
    def _gated(self) -> bool:
        return self.plus != ("y",) or bool(self.within)

    @property
    def body(self) -> str:
        lines, a = _sum("a", self.source)
        if self.norm_before:
            lines += _layer_norm(a, "before", "normed")
            a = "normed"
        lines += [
            f"projected = MatMul ({a}, down)",
            "inner = Add (projected, down_bias)",
            ACTIVATIONS[self.activation].format(x="inner", y="outer"),
            "expanded = MatMul (outer, up)",
            "delta = Add (expanded, up_bias)",
        ]
        last = "delta"
        if self.within:
            more, w = _sum("w", self.within)
            lines += [*more, f"joined = Add (delta, {w})"]
            last = "joined"
        if self.norm_after:
            lines += _layer_norm(last, "after", "renormed")
            last = "renormed"
        result = "out" if not self._gated else "changed"
        if self.plus:
            more, p = _sum("p", self.plus)
            lines += [*more, f"{result} = Add ({p}, {last})"]
        else:
            lines.append(f"{result} = Identity ({last})")
        if self._gated:
            lines += ["half = Constant <value_float: float = 0.5> ()", "like = CastLike (half, active)",
                      "on = Greater (active, like)", "out = Where (on, changed, y)"]  # fmt: skip
        return "\n".join(lines)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        read = IN if self.source == ("u",) else OUT
        norms = (("before", read, self.norm_before), ("after", OUT, self.norm_after))
        # Without norms, out - y is linear in up and up_bias, and the sum of several is one bottleneck of all widths.
        # Norms, and a gate, belong to one adapter.
        plain = not (self._gated or self.norm_before or self.norm_after)
        joined, scaled, added = _LINEAR if plain else (None, None, None)
        return {
            "down": TensorSpec((read, "width"), 0.0, joined),
            "down_bias": TensorSpec(("width",), 0.0, joined),
            "up": TensorSpec(("width", OUT), 0.0, scaled),
            "up_bias": TensorSpec((OUT,), 0.0, added),
            **{
                f"{name}_{kind}": TensorSpec((dim,), 0.0)
                for name, dim, present in norms
                if present
                for kind in ("weight", "bias")
            },
            **({"active": TensorSpec((1,), 0.0)} if self._gated else {}),
        }

    def forward(self, values: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        from torch.nn import functional
        from transformers.activations import ACT2FN

        def total(names: tuple[str, ...]) -> torch.Tensor:
            signed = [-values[name[1:]] if name.startswith("-") else values[name] for name in names]
            return sum(signed[1:], signed[0])

        def norm(value: torch.Tensor, name: str) -> torch.Tensor:
            # For half precision, PyTorch computes the norm in float32.
            unit = functional.layer_norm(value, value.shape[-1:], eps=_EPSILON)
            return unit * tensors[f"{name}_weight"] + tensors[f"{name}_bias"]

        act: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[self.activation]
        a = total(self.source)
        hidden = act((norm(a, "before") if self.norm_before else a) @ tensors["down"] + tensors["down_bias"])
        out = hidden @ tensors["up"] + tensors["up_bias"]
        if self.within:
            out = out + total(self.within)
        if self.norm_after:
            out = norm(out, "after")
        if self.plus:
            out = total(self.plus) + out
        return out.where(tensors["active"] > 0.5, values["y"]) if self._gated else out

    def unmergeable(self, port: Port) -> str | None:
        return (
            f"a bottleneck adapter is not linear ({self.activation} between its two layers), so no weights of the base "
            "model compute the same function; export it with --mode embedded or swappable instead"
        )

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        raise CannotMerge(self.unmergeable(port))


def _sum(name: str, terms: tuple[str, ...]) -> tuple[list[str], str]:
    """Returns ONNX lines that add the named values, and the name of the sum: `name`, or the name of the only value."""
    if terms == (f"-{terms[0][1:]}",):
        return [f"{name} = Neg ({terms[0][1:]})"], name
    lines, total = [], terms[0]
    for count, term in enumerate(terms[1:], start=1):
        result = name if count == len(terms) - 1 else f"{name}{count}"
        operator = "Sub" if term.startswith("-") else "Add"
        lines.append(f"{result} = {operator} ({total}, {term.lstrip('-')})")
        total = result
    return lines, total


def _layer_norm(value: str, tensors: str, result: str) -> list[str]:
    """Returns ONNX lines of a layer norm.

    Its weight and bias may have a batch axis, which LayerNormalization does not take, so the operator gets ones. In
    half precision it computes in float32, as the squares of values from 256 on do not fit in float16.
    """
    n = result
    return [
        f"{n}_size = Shape <start: int = -1> ({value})",
        f"{n}_one = Constant <value_float: float = 1.0> ()",
        f"{n}_like = CastLike ({n}_one, {value})",
        f"{n}_ones = Expand ({n}_like, {n}_size)",
        f"{n}_unit = LayerNormalization <axis: int = -1, epsilon: float = {_EPSILON:f}> ({value}, {n}_ones)",
        f"{n}_scaled = Mul ({n}_unit, {tensors}_weight)",
        f"{result} = Add ({n}_scaled, {tensors}_bias)",
    ]


@dataclass(frozen=True)
class _Recipe:
    """The settings that the authors' library uses with a placement."""

    activation: str
    reduction_factor: float
    source: tuple[str, ...] = ("u",)


PLACEMENTS: Mapping[str, _Recipe] = {
    "houlsby": _Recipe("silu", 16),
    "pfeiffer": _Recipe("relu", 16),
    "parallel": _Recipe("relu", 2, source=("x",)),
}


@dataclass(frozen=True)
class BottleneckOptions:
    """Options of bottlenecks. None takes the placement's own value.

    Attributes:
        placement: `houlsby` (after attention and after the feed-forward), `pfeiffer` (after the feed-forward only) or
            `parallel` (beside the feed-forward, with its residual as input).
        reduction_factor: r in k = max(1, int(d // r)).
        activation: Name of the activation.
    """

    placement: str = setting("NAME", "houlsby, pfeiffer or parallel", "houlsby")
    reduction_factor: float | None = setting("X", "features over width; 16, for parallel 2, unless given")
    activation: str | None = setting("NAME", "function between its layers; the placement's own unless given")

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise InputError(f"placement {self.placement!r}: expected one of {', '.join(PLACEMENTS)}")
        if self.reduction_factor is not None and not self.reduction_factor > 0:
            raise InputError(f"reduction factor {self.reduction_factor!r}: expected a number above 0")


class Bottleneck:
    """Small networks d -> k -> d that add to the residual stream."""

    name: ClassVar[str] = "bottleneck"
    checkpoint_format: ClassVar[str] = "adapterhub"
    operator_type: ClassVar[type[Any]] = BottleneckOperator
    learning_rate: ClassVar[float] = 1e-3
    Options: ClassVar[type[Any]] = BottleneckOptions

    def place(self, layers: Iterable[Layer], options: Any) -> dict[Site, Operator]:
        sites = placement_sites(layers, options.placement)
        return dict.fromkeys(sites, _operator(options))

    def place_at(self, modules: Iterable[str], options: Any) -> dict[Site, Operator]:
        if options.placement == "parallel":
            raise InputError("placement 'parallel': needs to know each layer's residual, which --target does not tell")
        return {Site(path, Port.OUTPUT): _operator(options) for path in modules}

    def initial(self, operator: Operator, features: Features, options: Any, rng: np.random.Generator) -> SiteAdapter:
        factor = options.reduction_factor or PLACEMENTS[options.placement].reduction_factor
        width = max(1, int(features.inputs // factor))
        tensors = {
            "down": rng.normal(0.0, INITIAL_STD, (features.inputs, width)).astype(np.float32),
            "down_bias": np.zeros(width, np.float32),
            "up": np.zeros((width, features.outputs), np.float32),
            "up_bias": np.zeros(features.outputs, np.float32),
        }
        return SiteAdapter(operator, tensors)


def placement_sites(layers: Iterable[Layer], placement: str) -> list[Site]:
    """Returns the sites of a placement in these layers.

    Around a sublayer with input x and output h, z = x + h:
    houlsby: B(h) + h, after attention and after the feed-forward.
    pfeiffer: LN(B(LN(z)) + z) at the feed-forward's norm of post-norm models, B(z) + z on the layer's output of others.
    parallel: B(x) + h, beside the feed-forward.
    """
    sites = []
    for layer in layers:
        attention, feedforward = layer.attention, layer.feedforward
        match placement:
            case "houlsby":
                sites += [Site(layer.at(sublayer.output), Port.OUTPUT) for sublayer in (attention, feedforward)]
            case "pfeiffer" if feedforward.norm:
                sites.append(Site(layer.at(feedforward.norm), Port.NORM))
            case "pfeiffer":
                sites.append(Site(layer.path, Port.OUTPUT))
            case "parallel":
                residual = layer.at(feedforward.residual)
                sites.append(Site(layer.at(feedforward.output), Port.OUTPUT, residual=residual))
    return sites


def _operator(options: Any) -> BottleneckOperator:
    recipe = PLACEMENTS[options.placement]
    return BottleneckOperator(activation(options.activation or recipe.activation), recipe.source)


register(Bottleneck())
