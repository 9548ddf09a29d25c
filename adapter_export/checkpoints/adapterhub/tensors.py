"""Converts tensors of AdapterHub's bottleneck adapters from the library's names and layouts to ours."""

from __future__ import annotations

import re

import numpy as np

from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapter import Checkpoint
from adapter_export.checkpoints.adapterhub.config import BottleneckConfig, Phm
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import strip_prefix

# Older versions of the library wrote `attention_text_task_adapters`, `layer_text_lang_adapters` and similar names. The
# shortest match is the place, as an adapter itself may have the name `adapters`.
_KEY = re.compile(
    r"(?P<place>.+?)\.(?:(?:attention|layer)_text_(?:task|lang)_)?adapters\.(?P<name>[^.]+)\.(?P<part>.+)"
)
_SHARED = re.compile(r"(?:.+\.)?shared_parameters\.(?P<name>[^.]+)\.(?P<part>[^.]+)")
# Parts of the names of tensors of other kinds of adapters.
_OTHERS = {
    "adapter_fusion_layer": "AdapterFusion",
    "invertible_adapters": "an invertible adapter",
    "invertible_lang_adapters": "an invertible adapter",
    "loras": "LoRA or IA3",
    "prefix_gates": "gated prefix tuning",
    "prefix_tunings": "prefix tuning",
    "prompt_tunings": "prompt tuning",
    "refts": "ReFT",
}

Parts = dict[str, np.ndarray]


def by_place(checkpoint: Checkpoint, info: ModelInfo) -> tuple[dict[str, Parts], Parts]:
    """Returns the tensors by place (in today's module paths, without the model's prefix) and part (`adapter_up.bias`),
    and the tensors that all places share.

    Raises:
        InputError: A tensor is of anything else, or of a second adapter.
    """
    places: dict[str, Parts] = {}
    shared: Parts = {}
    names = set()
    for name, tensor in checkpoint.tensors.items():
        if match := _KEY.fullmatch(name):
            place = canonical(info.model_type, strip_prefix(match["place"], info.prefix))
            places.setdefault(place, {})[match["part"]] = tensor
        elif match := _SHARED.fullmatch(name):
            shared[match["part"]] = tensor
        else:
            kinds = [kind for piece, kind in _OTHERS.items() if piece in name.split(".")]
            what = (
                f"of {kinds[0]}, which is not supported beside bottlenecks"
                if kinds
                else "not a tensor of a bottleneck adapter"
            )
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: {what}")
        names.add(match["name"])
        if len(names) > 1:
            raise InputError(
                f"{checkpoint.folder}: tensor {name!r}: expected one adapter in the file, found {sorted(names)}"
            )
    return places, shared


def tensors_of(
    checkpoint: Checkpoint,
    place: str,
    parts: Parts,
    shared: Parts,
    settings: BottleneckConfig,
    operator: BottleneckOperator,
    number: int,
    features: int,
) -> dict[str, np.ndarray]:
    """Returns the operator's tensors, made of the tensors of one place.

    Args:
        checkpoint: The checkpoint.
        place: The place.
        parts: Tensors of the place, by part.
        shared: Tensors that all places share.
        settings: The config.
        operator: The operator.
        number: Number of the layer, in the library's count.
        features: Hidden size.

    Raises:
        InputError: A tensor is missing, unexpected or misshapen.
    """
    reader = _Reader(checkpoint, place, parts, shared)
    how = settings.arithmetic
    # A norm of ln_before is the first module before the activation. The file has it under both of its names.
    linear = "adapter_down.1" if how.ln_before else "adapter_down.0"
    width = settings.width(number, features)
    if settings.phm is None:
        if width is None:
            width = reader.rows(f"{linear}.weight")
        down, down_bias = reader.linear(linear, features, width)
        up, up_bias = reader.linear("adapter_up", width, features)
    else:
        width = features // settings.phm.dim if width is None else width
        down, down_bias = reader.products(linear, "down", settings.phm, features, width)
        up, up_bias = reader.products("adapter_up", "up", settings.phm, width, features)
    scale = reader.scale(settings.scaling, features)
    tensors = {"down": down, "down_bias": down_bias}
    tensors |= {"up": up, "up_bias": up_bias} if scale is None else {"up": up * scale, "up_bias": up_bias * scale}
    for norm, present, names in (
        ("before", how.ln_before, ("adapter_norm_before", "adapter_down.0")),
        ("after", how.ln_after, ("adapter_norm_after",)),
    ):
        if present:
            for kind in ("weight", "bias"):
                tensors[f"{norm}_{kind}"] = reader.equal([f"{name}.{kind}" for name in names], (features,))
    reader.all_used()
    if "active" in operator.specs:
        tensors["active"] = np.ones(1, down.dtype)
    return {name: np.ascontiguousarray(tensors[name]) for name in operator.specs}


class _Reader:
    """Takes tensors of one place, and knows which of them have not been taken."""

    def __init__(self, checkpoint: Checkpoint, place: str, parts: Parts, shared: Parts) -> None:
        self.checkpoint, self.place, self.parts, self.shared = checkpoint, place, parts, shared
        self.used: set[str] = set()

    def _error(self, part: str, problem: str) -> InputError:
        return InputError(f"{self.checkpoint.folder}: tensor '{self.place}.adapters.*.{part}'{problem}")

    def take(self, part: str, shape: tuple[int, ...]) -> np.ndarray:
        if part not in self.parts:
            raise self._error(part, " is missing")
        self.used.add(part)
        if self.parts[part].shape != shape:
            raise self._error(
                part, f": expected shape {shape} for this base model and config, found {self.parts[part].shape}"
            )
        return self.parts[part]

    def take_shared(self, part: str, shape: tuple[int, ...]) -> np.ndarray:
        found = self.shared.get(part)
        if found is None:
            raise InputError(
                f"{self.checkpoint.folder}: tensor '*.shared_parameters.*.{part}' is missing; a base class without a "
                "head saves its adapters without what they share: save again from a class with one"
            )
        if found.shape != shape:
            raise InputError(
                f"{self.checkpoint.folder}: tensor '*.shared_parameters.*.{part}': expected shape {shape}, found "
                f"{found.shape}"
            )
        return found

    def rows(self, part: str) -> int:
        return len(np.atleast_1d(self.parts.get(part, np.zeros(1))))

    def equal(self, names: list[str], shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor that may be there under several names."""
        present = [name for name in names if name in self.parts] or names[:1]
        first, *others = [self.take(name, shape) for name in present]
        if any(not np.array_equal(first, other) for other in others):
            raise self._error(present[1], f": expected the values of {present[0]!r}, found others")
        return first

    def linear(self, part: str, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        return self.take(f"{part}.weight", (outputs, inputs)).T, self.take(f"{part}.bias", (outputs,))

    def products(self, part: str, which: str, phm: Phm, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns W = sum over i of rule_i (n, n) kron factor_i (inputs / n, outputs / n), and b, for y = x W + b."""
        n = phm.dim
        if inputs % n or outputs % n:
            raise self._error(part, f": expected sizes that 'phm_dim' {n} divides, found {inputs} and {outputs}")
        rule = self._factor(f"{part}.phm_rule", "phm_rule", phm.shared_rule, phm.factorized_rule, (n, n, 1, n))
        size = (n, inputs // n, phm.rank, outputs // n)
        factor = self._factor(f"{part}.W", f"W_{which}", phm.shared_weight, phm.factorized_weight, size)
        weight = sum(np.kron(rule[i], factor[i]) for i in range(n))
        bias = self.take(f"{part}.b", (outputs,)) if phm.bias else np.zeros(outputs, np.float32)
        return np.asarray(weight, bias.dtype), bias

    def _factor(
        self, own: str, shared: str, is_shared: bool, factorized: bool, size: tuple[int, int, int, int]
    ) -> np.ndarray:
        """Returns (n, a, c) in float64, from a whole tensor, or from (n, a, rank) times (n, rank, c). size is n, a,
        rank, c.
        """
        n, rows, rank, columns = size
        name, take = (shared, self.take_shared) if is_shared else (own, self.take)
        if not factorized:
            return take(name, (n, rows, columns)).astype(np.float64)
        left, right = take(f"{name}_left", (n, rows, rank)), take(f"{name}_right", (n, rank, columns))
        return left.astype(np.float64) @ right.astype(np.float64)

    def scale(self, scaling: float | str, features: int) -> np.ndarray | None:
        """Returns the factor of the second layer: one value, or one for each feature; None for 1."""
        if isinstance(scaling, str):
            return self.take("scaling", (1,) if scaling == "learned" else (features,))
        return None if scaling == 1 else np.array([scaling], np.float32)

    def all_used(self) -> None:
        if surplus := sorted(set(self.parts) - self.used):
            raise self._error(surplus[0], " is not one that this config has")
