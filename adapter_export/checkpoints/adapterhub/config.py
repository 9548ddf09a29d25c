"""The settings of AdapterHub's bottleneck adapters. All fields are checked, and unknown fields are reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.methods.activations import activation
from adapter_export.reading.fields import field as read_field
from adapter_export.reading.fields import unknown_fields
from adapter_export.reading.shown import shortened

CONFIG = "adapter_config.json"
# The settings for adapters after attention, after the feed-forward and after cross-attention.
KINDS = ("mh_adapter", "output_adapter", "cross_adapter")
POST_ADD = "post_add"

# The value of each setting that a config leaves out. Required settings (places, non_linearity) have no entry.
DEFAULTS: Mapping[str, Any] = {
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
    "dropout": 0.0,
    "factorized_phm_W": True,
    "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "is_parallel": False,
    "learn_phm": True,
    "leave_out": [],
    "ln_after": False,
    "ln_before": False,
    "original_ln_after": True,
    "original_ln_before": False,
    "phm_bias": True,
    "phm_c_init": "normal",
    "phm_dim": 4,
    "phm_init_range": 0.0001,
    "phm_layer": False,
    "phm_rank": 1,
    "residual_before_ln": True,
    "scaling": 1.0,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "stochastic_depth": 0.0,
    "use_gating": False,
}
# Settings, older ones included, that only training or initial values depend on.
_INERT = frozenset(
    {
        "dropout", "hypercomplex_nonlinearity", "init_weights", "init_weights_seed", "inv_adapter_reduction_factor",
        "learn_phm", "phm_c_init", "phm_init_range", "stochastic_depth",
    }
)  # fmt: skip
_PLACES = ("mh_adapter", "output_adapter")
_REQUIRED = frozenset({*_PLACES, "non_linearity", "reduction_factor", "architecture"})
# Names of the library's fields before version 1.0, which no later version reads.
_BEFORE_1 = ("MH_Adapter", "Output_Adapter", "LN_after", "LN_before")
# Larger than any width.
_MAX_WIDTH = 1 << 31
# The largest number in single precision.
MAX_FACTOR = 3.4e38
# Before checkpoints recorded a version, the library's "gelu" was another function than now.
_UNVERSIONED = {"gelu": "gelu_new", "gelu_orig": "gelu"}


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a bottleneck, by the library's own settings, which its `methods/modeling.py` reads.

    With h the sublayer's output, x its residual, N the model's norm after it (if any), D the bottleneck with the norm
    of ln_before inside, A the norm of ln_after or nothing:
      input     x if is_parallel; N(h + x) if original_ln_before; else h
      residual  h if is_parallel or residual_before_ln is True; h + x if it is "post_add"; else the input
      out       A(D(input) + residual) if adapter_residual_before_ln (not if parallel); else A(D(input)) + residual
      result    N(out + x) if original_ln_after; else out
    """

    activation: str
    is_parallel: bool = False
    original_ln_before: bool = False
    original_ln_after: bool = True
    residual_before_ln: bool | str = True
    adapter_residual_before_ln: bool = False
    ln_before: bool = False
    ln_after: bool = False


@dataclass(frozen=True)
class Phm:
    """How a matrix is composed of Kronecker products (Mahabadi et al. 2021, arXiv:2106.04647); see
    `adapterhub.tensors`.
    """

    dim: int
    rank: int
    bias: bool
    shared_rule: bool
    factorized_rule: bool
    shared_weight: bool
    factorized_weight: bool


@dataclass(frozen=True)
class BottleneckConfig:
    """One bottleneck config.

    Attributes:
        arithmetic: What the adapters compute.
        kinds: The kinds of places that have an adapter.
        leave_out: Numbers of the layers without adapters.
        reduction_factor: Hidden size divided by width, of all layers or by layer; None leaves the widths to the
            tensors.
        scaling: Factor of the output; `learned` or `channel` for a trained one, of all features or of each.
        phm: How matrices are composed of Kronecker products, or None.
    """

    arithmetic: Arithmetic
    kinds: tuple[str, ...]
    leave_out: frozenset[int] = frozenset()
    reduction_factor: float | Mapping[str, float] | None = None
    scaling: float | str = 1.0
    phm: Phm | None = field(default=None)

    def width(self, number: int, features: int) -> int | None:
        """Returns the width k in a layer, as the library computes it; None if the config does not say.

        Args:
            number: Number of the layer, in the library's count.
            features: Hidden size.
        """
        factor = self.reduction_factor
        if isinstance(factor, Mapping):
            factor = factor.get(str(number), factor.get("default"))
        return None if factor is None else max(1, int(min(features // factor, _MAX_WIDTH)))


def parse(config: Mapping[str, Any], path: Path, *, versioned: bool, task_adapter: bool = False) -> BottleneckConfig:
    """Checks a bottleneck config.

    Args:
        config: The config.
        path: The file that it is from.
        versioned: Whether the checkpoint records the library's version.
        task_adapter: Whether this is a task adapter of versions whose task adapters named an invertible adapter that
            they did not have.

    Raises:
        InputError: A setting is not supported. The error names the field.
    """
    _refuse_unsupported(config, path, task_adapter)

    for name in _PLACES:
        if name not in config:
            raise InputError(f"{path}: field {name!r} is missing")

    def flag(name: str) -> bool:
        value = config.get(name)
        return bool(DEFAULTS.get(name, False)) if value is None else _typed(config, path, name, bool)

    return BottleneckConfig(
        Arithmetic(
            _activation(config, path, versioned),
            is_parallel=flag("is_parallel"),
            original_ln_before=flag("original_ln_before"),
            original_ln_after=flag("original_ln_after"),
            residual_before_ln=_residual(config, path),
            adapter_residual_before_ln=flag("adapter_residual_before_ln"),
            ln_before=flag("ln_before"),
            ln_after=flag("ln_after"),
        ),
        tuple(kind for kind in KINDS if flag(kind)),
        _leave_out(config, path),
        _reduction_factor(config, path),
        _scaling(config, path),
        _phm(config, path, flag) if flag("phm_layer") else None,
    )


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns notes for the user on fields that are set and that the library does not have. The library ignores
    them.
    """
    known = {*DEFAULTS, *_REQUIRED, "invertible_adapter"}
    return unknown_fields(config, CONFIG, "bottleneck adapters", known)


def _refuse_unsupported(config: Mapping[str, Any], path: Path, task_adapter: bool) -> None:
    reasons = {
        "use_gating": "the library averages the gate over all positions, padding too, so a text's result depends on "
        "the texts beside it",
        "inv_adapter": "an invertible adapter acts on the embeddings and again before the head",
        "invertible_adapter": "an invertible adapter acts on the embeddings and again before the head",
    }
    for name in _BEFORE_1:
        if name in config:
            raise InputError(
                f"{path}: field {name!r}: a configuration from before version 1.0 of the library, which no later "
                "version of it reads either"
            )
    for name, reason in reasons.items():
        if config.get(name) and not (task_adapter and name != "use_gating"):
            raise InputError(f"{path}: field {name!r}: {shortened(config[name])} is not supported: {reason}")


def _typed(config: Mapping[str, Any], path: Path, name: str, kind: Any) -> Any:
    """Returns config[name], which must be of that type; None if it is absent or null. A bool is not a number here."""
    value = read_field(config, path, name, kind, None)
    if isinstance(value, bool) and kind is not bool:
        raise InputError(f"{path}: field {name!r}: expected a number, found {value}")
    return value


def _activation(config: Mapping[str, Any], path: Path, versioned: bool) -> str:
    name = read_field(config, path, "non_linearity", str).lower()
    try:
        return activation(name if versioned else _UNVERSIONED.get(name, name))
    except InputError as error:
        raise InputError(f"{path}: field 'non_linearity': {error}") from None


def _residual(config: Mapping[str, Any], path: Path) -> bool | str:
    value = config.get("residual_before_ln", True)
    if not isinstance(value, bool) and value != POST_ADD:
        raise InputError(
            f"{path}: field 'residual_before_ln': expected true, false or {POST_ADD!r}, found {shortened(value)}"
        )
    return bool(value) if isinstance(value, bool) else POST_ADD


def _leave_out(config: Mapping[str, Any], path: Path) -> frozenset[int]:
    numbers = _typed(config, path, "leave_out", list) or []
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise InputError(f"{path}: field 'leave_out': expected a list of layer numbers, found {shortened(numbers)}")
    return frozenset(numbers)


def _reduction_factor(config: Mapping[str, Any], path: Path) -> float | Mapping[str, float] | None:
    value = _typed(config, path, "reduction_factor", (int, float, dict))
    factors = value.values() if isinstance(value, dict) else () if value is None else (value,)
    for factor in factors:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
            raise InputError(
                f"{path}: field 'reduction_factor': expected numbers above 0, by layer number or 'default' where there "
                f"are several, found {shortened(factor)}"
            )
    result: float | Mapping[str, float] | None = value
    return result


def _scaling(config: Mapping[str, Any], path: Path) -> float | str:
    value = config.get("scaling", 1.0)
    if value in ("learned", "channel"):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_FACTOR:
        raise InputError(
            f"{path}: field 'scaling': expected a number, 'learned' or 'channel', found {shortened(value)}"
        )
    return float(value)


def _phm(config: Mapping[str, Any], path: Path, flag: Any) -> Phm:
    sizes = {}
    for name in ("phm_dim", "phm_rank"):
        value = _typed(config, path, name, int)
        sizes[name] = DEFAULTS[name] if value is None else value
        if sizes[name] < 1:
            raise InputError(f"{path}: field {name!r}: expected at least 1, found {sizes[name]}")
    return Phm(
        sizes["phm_dim"],
        sizes["phm_rank"],
        bias=flag("phm_bias"),
        shared_rule=flag("shared_phm_rule"),
        factorized_rule=flag("factorized_phm_rule"),
        shared_weight=flag("shared_W_phm"),
        factorized_weight=flag("factorized_phm_W"),
    )
