"""AdapterHub's plug-in interface: the modules of a model that the library adapts from outside, by hooks.

`adapter_interface.json` beside a checkpoint holds the interface that it was trained with, for any model at all. For
some models the library itself has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical, former
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened
from adapter_export.sites import strip_prefix

INTERFACE = "adapter_interface.json"
_THIRDS = ("attn_q_proj", "attn_k_proj", "attn_v_proj")


@dataclass(frozen=True)
class Interface:
    """Paths of modules, by the library's own names for them; None if there is no such module.

    The fields `model_layers` and `model_embeddings` are paths in the base model. The fields `layer_*` are paths below a
    layer: its sublayers, the projections of its feed-forward, the modules whose input is a sublayer's residual (`pre`),
    and the norms after attention and feed-forward (`ln`). The fields `attn_*` are paths below a layer's attention.

    Attributes:
        adapter_methods: The methods that it is meant for.
        model_layers: The list of layers.
        base_model: Where the class has the base model, if not at its prefix.
    """

    adapter_methods: tuple[str, ...]
    model_embeddings: str | None
    model_layers: str
    layer_self_attn: str | None
    layer_cross_attn: str | None
    attn_o_proj: str | None
    layer_intermediate_proj: str | None
    layer_output_proj: str | None
    attn_k_proj: str | None = None
    attn_q_proj: str | None = None
    attn_v_proj: str | None = None
    attn_qkv_proj: str | None = None
    layer_pre_self_attn: str | None = None
    layer_pre_cross_attn: str | None = None
    layer_pre_ffn: str | None = None
    layer_ln_1: str | None = None
    layer_ln_2: str | None = None
    base_model: str | None = None

    def layers(self, info: ModelInfo) -> list[str]:
        """Returns the paths of the layers in the model's order, as transformers 4 named them: see `below`.

        Raises:
            InputError: There are none. The error names the field.
        """
        for path in self._candidates(info):
            pattern = re.compile(rf"{re.escape(path)}\.(\d+)")
            found = {
                int(match[1]): match[0]
                for module in info.modules
                for name in (module, former(info.model_type, module))
                if (match := pattern.fullmatch(name))
            }
            if found:
                return [found[number] for number in sorted(found)]
        raise InputError(
            f"field 'model_layers': {shortened(self.model_layers)} is no list of layers of this {info.model_type}"
        )

    def below(self, info: ModelInfo, layer: str, *names: str | None) -> str | None:
        """Returns today's path of a module below a layer; None if one of its names is None, or the layer has no
        such module.
        """
        path = canonical(info.model_type, ".".join([layer, *filter(None, names)]))
        return path if all(names) and path in info.modules else None

    def hooks_like(self, other: Interface | None) -> bool:
        """Returns whether both interfaces put bottlenecks at the same places."""
        return other is not None and all(
            getattr(self, name) == getattr(other, name)
            for name in ("model_layers", "layer_self_attn", "layer_cross_attn", "attn_o_proj", "layer_output_proj",
                         "layer_pre_self_attn", "layer_pre_ffn", "layer_ln_1", "layer_ln_2")
        )  # fmt: skip

    def check(self, info: ModelInfo) -> None:
        """Checks that the first layer has every module that is named, as the library requires.

        Raises:
            InputError: A module is missing. The error names the field.
        """
        first = self.layers(info)[0]
        for item in fields(self):
            # Modules that only group the parts of attention may be missing: transformers 5 has removed some of them.
            if item.name.startswith("layer_") and item.name != "layer_self_attn":
                self._expect(info, first, item.name)
        for attention in ("layer_self_attn", "layer_cross_attn"):
            if (parent := getattr(self, attention)) is not None:
                for name in ("attn_o_proj", *(_THIRDS if self.attn_qkv_proj is None else ("attn_qkv_proj",))):
                    self._expect(info, first, name, parent)

    def _expect(self, info: ModelInfo, layer: str, name: str, parent: str | None = None) -> None:
        value = getattr(self, name)
        if value is not None and self.below(info, layer, *filter(None, (parent, value))) is None:
            path = ".".join(filter(None, (layer, parent, value)))
            raise InputError(f"field {name!r}: {shortened(path)} is not in this {info.model_type} model")

    def _candidates(self, info: ModelInfo) -> Iterator[str]:
        """Yields paths of the list of layers within the base model as transformers has it today."""
        if self.base_model:
            yield strip_prefix(f"{self.base_model}.{self.model_layers}", info.prefix)
        yield strip_prefix(self.model_layers, info.prefix)


# The methods of all interfaces in the library itself.
_METHODS = ("bottleneck", "lora", "reft", "invertible")


def built_in(model_type: str) -> Interface | None:
    """Returns the library's own interface for an architecture; None if it has classes for it, or does not support
    it.
    """
    named = facts(model_type).hub.interface
    values: dict[str, Any] = dict.fromkeys(item.name for item in fields(Interface) if item.default is MISSING)
    return Interface(**(values | dict(named) | {"adapter_methods": _METHODS})) if named else None


def parse(config: Mapping[str, Any], path: Path, info: ModelInfo) -> Interface:
    """Checks an interface against the model.

    Args:
        config: Content of the file.
        path: The file.
        info: Description of the base model.

    Raises:
        InputError: It is of another model, a field is missing, unknown or of a wrong type, or the model lacks a module.
            The error names the field.
    """
    found = config.get("model_type", info.model_type)
    if found != info.model_type:
        raise InputError(f"{path}: field 'model_type': expected {info.model_type!r}, found {shortened(found)}")
    values: dict[str, Any] = dict(field(config, path, "interface", dict))
    known = {item.name: item.default for item in fields(Interface)}
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{path}: field {shortened(unknown[0])} is unknown, and may change where adapters stand")
    for name, default in known.items():
        if name not in values and default is MISSING:
            raise InputError(f"{path}: field {name!r} is missing")
        if name in ("adapter_methods", "model_layers") or values.get(name) is not None:
            values[name] = field(values, path, name, list if name == "adapter_methods" else str)
    values["adapter_methods"] = tuple(map(str, values["adapter_methods"]))
    interface = Interface(**values)
    thirds = [getattr(interface, name) is not None for name in _THIRDS]
    if any(thirds) if interface.attn_qkv_proj is not None else not all(thirds):
        raise InputError(f"{path}: field 'attn_qkv_proj': expected either this or all of {', '.join(_THIRDS)}")
    try:
        interface.check(info)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return interface
