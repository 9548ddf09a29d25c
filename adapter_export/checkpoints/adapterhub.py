"""AdapterHub's bottleneck checkpoints (library `adapters`): `adapter_config.json` with `adapter.safetensors` or
`pytorch_adapter.bin`; a head in `head_config.json` with `model_head.safetensors` or `pytorch_model_head.bin`.

Tensors are `[prefix.]<layer>.<place>.adapters.<name>.adapter_{down.0,up}.{weight,bias}`, in torch's (out, in) layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter, Checkpoint, HeadLayer, site_features
from adapter_export.checkpoints.files import field, read_json, read_tensors
from adapter_export.checkpoints.heads import head_layers
from adapter_export.errors import InputError
from adapter_export.methods.activations import activation
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.methods.contract import Block
from adapter_export.modelinfo import ModelInfo
from adapter_export.placement.tables import known
from adapter_export.sites import Port, Site, strip_prefix

FORMAT = "adapterhub"
_CONFIG, _HEAD_CONFIG = "adapter_config.json", "head_config.json"
_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
_HEADS = ("model_head.safetensors", "pytorch_model_head.bin")
_VERSION = "adapters.1.3.0"
# The name inside the tensor names of what we write; the library takes another with `load_adapter(..., load_as=)`.
_NAME = "default"
_PARTS = {"adapter_down.0.weight": "down", "adapter_down.0.bias": "down_bias", "adapter_up.weight": "up",
          "adapter_up.bias": "up_bias"}  # fmt: skip
# Older versions of the library wrote `attention_text_task_adapters`, `layer_text_lang_adapters` and the like.
_KEY = re.compile(r"(?P<place>.+)\.(?:(?:attention|layer)_text_(?:task|lang)_)?adapters\.(?P<name>[^.]+)\.(?P<part>.+)")

# Settings whose effect is not implemented, with the one value that means they have none.
_UNSUPPORTED: Mapping[str, Any] = {
    "architecture": None,
    "is_parallel": False,
    "use_gating": False,
    "phm_layer": False,
    "inv_adapter": None,
    "ln_before": False,
    "ln_after": False,
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
}


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Read the folder; raises InputError for a missing or unreadable file."""
    # Either file alone is an error, so that no head is dropped silently.
    has_head = any((folder / name).exists() for name in (_HEAD_CONFIG, *_HEADS))
    return Checkpoint(
        folder,
        FORMAT,
        config,
        read_tensors(_first(folder, _WEIGHTS)),
        read_tensors(_first(folder, _HEADS)) if has_head else {},
        read_json(folder / _HEAD_CONFIG) if has_head else {},
    )


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Place the checkpoint's tensors in the model; raises InputError for what is unsupported, missing or misshapen."""
    path = checkpoint.folder / _CONFIG
    config = field(checkpoint.config, path, "config", dict)
    _refuse_unsupported(config, path)
    if (model_type := checkpoint.config.get("model_type", info.model_type)) != info.model_type:
        raise InputError(f"{path}: field 'model_type': expected {info.model_type!r}, found {model_type!r}")
    operator = BottleneckOperator(_activation(checkpoint.config, config, path))
    parts = _parts(checkpoint, info)
    expected = _places(checkpoint, config, info)
    if unknown := sorted(set(parts) - set(expected)):
        raise InputError(
            f"{checkpoint.folder}: tensors at {unknown[0]!r}: no such place for this config in a {info.model_type} "
            f"model (places: {', '.join(sorted(expected)) or 'none'})"
        )
    if missing := sorted(set(expected) - set(parts)):
        raise InputError(f"{checkpoint.folder}: tensors at {missing[0]!r} are missing ({len(missing)} places in all)")
    return Adapter(
        method="bottleneck",
        blocks={
            site: Block(
                operator, _tensors(checkpoint, place, parts[place], config, site_features(checkpoint, info, site))
            )
            for place, site in expected.items()
        },
        head=_head(checkpoint, info),
        labels=_labels(checkpoint),
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
    )


def task_of(checkpoint: Checkpoint) -> str | None:
    """The task of the class its head was saved from, or None without a head."""
    return tasks.of_architecture(str(checkpoint.head_config.get("model_class", ""))) if checkpoint.head else None


def write(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> None:
    """Write `adapter` as the library would, into an existing folder, as safetensors."""
    from safetensors.numpy import save_file

    operators = {block.operator for block in adapter.blocks.values()}
    operator = next(iter(operators))
    if len(operators) != 1 or not isinstance(operator, BottleneckOperator):
        raise InputError(f"method {adapter.method!r}: AdapterHub's format is written for one kind of bottleneck only")
    prefix = f"{info.prefix}." if info.nested else ""
    custom = custom_modules(adapter, info) is not None
    names = {site: place for kind in _all_places(info).values() for place, site in kind.items()}
    tensors = {}
    for site, block in adapter.blocks.items():
        place = site.module if custom else names[site]
        for part, name in _PARTS.items():
            tensors[f"{prefix}{place}.adapters.{_NAME}.{part}"] = np.ascontiguousarray(block.tensors[name].T)
    config = {
        **_placement_config(adapter, info),
        "non_linearity": "swish" if operator.activation == "silu" else operator.activation,
    }
    common = {
        "hidden_size": info.hidden_size,
        "model_class": info.architecture,
        "model_name": base_name,
        "model_type": info.model_type,
        "version": _VERSION,
    }
    _write_json(folder / _CONFIG, {"config": config, "name": _NAME, **common})
    save_file(tensors, folder / _WEIGHTS[0], metadata={"format": "pt"})
    if adapter.head:
        labels = adapter.label_names
        label2id = {label: i for i, label in enumerate(labels)}
        _write_json(
            folder / _HEAD_CONFIG,
            {"config": None, "label2id": label2id, "name": None, "num_labels": len(labels), **common},
        )
        head = {}
        for module, layer in adapter.head.items():
            head[f"{module}.weight"] = np.ascontiguousarray(layer.weight)
            if layer.bias is not None:
                head[f"{module}.bias"] = layer.bias
        save_file(head, folder / _HEADS[0], metadata={"format": "pt"})


def custom_modules(adapter: Adapter, info: ModelInfo) -> list[str] | None:
    """Modules of a placement the library cannot express, which is to be recorded beside the checkpoint; else None."""
    try:
        expressed = set(_library_places(_placement_config(adapter, info), info, Path(_CONFIG)).values())
    except InputError:
        expressed = set()
    return None if expressed == set(adapter.blocks) else [site.module for site in adapter.blocks]


# Every setting the library writes, at the value that switches it off or leaves it as it is in the papers.
_DEFAULTS: Mapping[str, Any] = {
    **{name: value for name, value in _UNSUPPORTED.items() if name != "architecture"},
    "dropout": 0.0,
    "factorized_phm_W": True,
    "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "learn_phm": True,
    "leave_out": [],
    "phm_bias": True,
    "phm_c_init": "normal",
    "phm_dim": 4,
    "phm_init_range": 0.0001,
    "phm_rank": 1,
    "scaling": 1.0,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "stochastic_depth": 0.0,
}


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise InputError(f"{folder}: expected {' or '.join(names)}, found neither")


def _refuse_unsupported(config: dict[str, Any], path: Path) -> None:
    for name, neutral in _UNSUPPORTED.items():
        # An absent setting has the library's default, which is the neutral value; null and false both switch it off.
        if (value := config.get(name, neutral)) != neutral and not (value is None and neutral is False):
            raise InputError(f"{path}: field {name!r}: {value!r} is not supported, expected {neutral!r}")


def _activation(checkpoint_config: dict[str, Any], config: dict[str, Any], path: Path) -> str:
    name = field(config, path, "non_linearity", str).lower()
    if "version" not in checkpoint_config:
        # Before versions were recorded, the library's "gelu" was another function than it is now.
        name = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(name, name)
    try:
        return activation(name)
    except InputError as error:
        raise InputError(f"{path}: field 'non_linearity': {error}") from None


def _parts(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, dict[str, np.ndarray]]:
    """The tensors by place, without the model's prefix, and part (`adapter_up.bias`)."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    first = None
    for name, tensor in checkpoint.tensors.items():
        if (match := _KEY.fullmatch(name)) is None or match["part"] not in {*_PARTS, "scaling"}:
            raise InputError(f"{checkpoint.folder}: tensor {name!r}: not a tensor of a bottleneck adapter")
        if (first := first or match["name"]) != match["name"]:
            raise InputError(
                f"{checkpoint.folder}: tensor {name!r}: expected one adapter in the file, found {first!r} and "
                f"{match['name']!r}"
            )
        parts.setdefault(strip_prefix(match["place"], info.prefix), {})[match["part"]] = tensor
    return parts


def _head(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, HeadLayer]:
    if checkpoint.head_config.get("config"):
        raise InputError(
            f"{checkpoint.folder / _HEAD_CONFIG}: field 'config': a flexible head (AutoAdapterModel) is not supported; "
            "train or convert with a static head class such as BertForSequenceClassification"
        )
    return head_layers(checkpoint, checkpoint.head, info)


def _all_places(info: ModelInfo) -> dict[str, dict[str, Site]]:
    """AdapterHub's place in tensor names -> our site, for each of its three kinds of place."""
    kinds: dict[str, dict[str, Site]] = {"attention": {}, "ffn": {}, "residual": {}}
    if (architecture := known(info.model_type)) is not None:
        for stack, layer in architecture.layers(info.modules):
            kinds["attention"][f"{layer}.{stack.hub_attention}"] = stack.after_attention(layer)
            kinds["ffn"][f"{layer}.{stack.hub_output}"] = stack.after_ffn(layer)
            kinds["residual"][f"{layer}.{stack.hub_output}"] = stack.after_ffn_residual(layer)
    return kinds


def _places(checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo) -> dict[str, Site]:
    """The places this config fills. Custom placements are listed in our own file beside the checkpoint."""
    if (modules := checkpoint.sidecar.get("modules")) is not None:
        return {module: Site(module, Port.OUTPUT) for module in modules}
    return _library_places(config, info, checkpoint.folder / _CONFIG)


def _library_places(config: dict[str, Any], info: ModelInfo, path: Path) -> dict[str, Site]:
    if known(info.model_type) is None:
        raise InputError(f"{path}: field 'model_type': no placement table for {info.model_type!r}")
    kinds = _all_places(info)
    before_norm = field(config, path, "original_ln_before", bool, False)
    places: dict[str, Site] = {}
    if field(config, path, "mh_adapter", bool, False):
        if before_norm:
            raise InputError(f"{path}: field 'original_ln_before': true is not supported with mh_adapter")
        places |= kinds["attention"]
    if field(config, path, "output_adapter", bool, False):
        places |= kinds["residual" if before_norm else "ffn"]
    left_out = field(config, path, "leave_out", list, None) or []
    if not all(isinstance(number, int) for number in left_out):
        raise InputError(f"{path}: field 'leave_out': expected a list of layer numbers, found {left_out!r}")
    gone = tuple(f"{layer}." for number, layer in enumerate(_layers(info)) if number in left_out)
    return {place: site for place, site in places.items() if not place.startswith(gone)}


def _layers(info: ModelInfo) -> list[str]:
    """Layers in the library's numbering: a decoder's follow its encoder's."""
    architecture = known(info.model_type)
    return [] if architecture is None else [layer for _, layer in architecture.layers(info.modules)]


def _tensors(
    checkpoint: Checkpoint, place: str, parts: Mapping[str, np.ndarray], config: Mapping[str, Any], features: int
) -> dict[str, np.ndarray]:
    folder = checkpoint.folder
    if missing := [part for part in _PARTS if part not in parts]:
        raise InputError(f"{folder}: tensor '{place}.adapters.*.{missing[0]}' is missing")
    width = len(np.atleast_1d(parts["adapter_down.0.weight"]))
    shapes = {"adapter_down.0.weight": (width, features), "adapter_down.0.bias": (width,),
              "adapter_up.weight": (features, width), "adapter_up.bias": (features,)}  # fmt: skip
    for part, shape in shapes.items():
        if parts[part].shape != shape:
            raise InputError(
                f"{folder}: tensor '{place}.adapters.*.{part}': expected shape {shape} for this base model, found "
                f"{parts[part].shape}"
            )
    tensors = {name: np.ascontiguousarray(parts[part].T) for part, name in _PARTS.items()}
    scale = np.float32(_scaling(folder, place, parts, config))
    return {**tensors, "up": tensors["up"] * scale, "up_bias": tensors["up_bias"] * scale} if scale != 1 else tensors


def _scaling(folder: Path, place: str, parts: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> float:
    scaling = config.get("scaling", 1.0)
    if scaling == "learned":
        if "scaling" not in parts or parts["scaling"].size != 1:
            raise InputError(f"{folder}: tensor '{place}.adapters.*.scaling': expected one learned value")
        return float(parts["scaling"].item())
    if isinstance(scaling, bool) or not isinstance(scaling, (int, float)) or not np.isfinite(scaling):
        raise InputError(
            f"{folder / _CONFIG}: field 'scaling': {scaling!r} is not supported, expected a number or 'learned'"
        )
    return float(scaling)


def _placement_config(adapter: Adapter, info: ModelInfo) -> dict[str, Any]:
    """The library's settings that give these sites and widths, as far as it has any."""
    used = {kind for kind, sites in _all_places(info).items() if set(sites.values()) & set(adapter.blocks)}
    factors: dict[int, float] = {}
    left_out = []
    for number, layer in enumerate(_layers(info)):
        blocks = [block for site, block in adapter.blocks.items() if f"{site.module}.".startswith(f"{layer}.")]
        if blocks:
            factors[number] = _reduction_factor(blocks[0])
        else:
            left_out.append(number)
    default = list(factors.values())[-1] if factors else _reduction_factor(next(iter(adapter.blocks.values())))
    others = {str(number): factor for number, factor in factors.items() if factor != default}
    return {
        **_DEFAULTS,
        "mh_adapter": "attention" in used,
        "output_adapter": bool(used & {"ffn", "residual"}),
        "original_ln_before": "residual" in used,
        "leave_out": left_out if factors else [],
        "reduction_factor": {**others, "default": default} if others else default,
    }


def _reduction_factor(block: Block) -> float:
    """A factor r with int(d // r) = k, as the library computes the width."""
    features, width = block.tensors["down"].shape
    exact = features / width
    return float(exact if int(features // exact) == width else features / (width + 0.5))


def _labels(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    label2id = checkpoint.head_config.get("label2id")
    # The library writes label names for language models too, where they mean nothing.
    if set(checkpoint.head) <= {f"{LM_HEAD}.weight", f"{LM_HEAD}.bias"} or not isinstance(label2id, dict):
        return None
    ids = list(label2id.values())
    if not all(isinstance(number, int) for number in ids) or sorted(ids) != list(range(len(ids))):
        path = checkpoint.folder / _HEAD_CONFIG
        raise InputError(f"{path}: field 'label2id': expected the numbers 0 to {len(ids) - 1}, found {ids}")
    return tuple(sorted(label2id, key=lambda label: int(label2id[label])))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
