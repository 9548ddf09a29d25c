"""Describes adapter folders and model folders by their configs and the headers of their tensor files. Nothing is
loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from adapter_export import tasks
from adapter_export.checkpoints import own
from adapter_export.checkpoints.adapterhub import reading as adapterhub
from adapter_export.checkpoints.codecs import codecs
from adapter_export.checkpoints.licenses import stated
from adapter_export.checkpoints.peft import reading as peft
from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.weights import CHOICES, CONFIG, adapter_beside, weight_files, weights_sha256
from adapter_export.errors import InputError
from adapter_export.inspection.descriptions import (
    AdapterDescription,
    MergedAdapter,
    ModelBeside,
    ModelDescription,
    WeightFile,
)
from adapter_export.inspection.tensors import Tensor, families, grouped, total
from adapter_export.outputs.ownership import SIDECAR
from adapter_export.reading.files import present, size_of
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import optional_json, read_json

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", CONFIG
# The settings that are shown, of PEFT's config besides those of the method, and of AdapterHub's.
_PEFT_SETTINGS = ("task_type", "target_modules", "modules_to_save")
_HUB_SETTINGS = ("mh_adapter", "output_adapter", "original_ln_before", "non_linearity", "reduction_factor", "scaling")
_MODEL_SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "dtype", "problem_type")


def describe_adapter(folder: Path) -> AdapterDescription:
    """An adapter folder as PEFT or AdapterHub write it, also of a method this project cannot load."""
    config = read_json(folder / ADAPTER_CONFIG)
    sidecar = optional_json(folder / SIDECAR)
    if "peft_type" in config:
        known: dict[str, Any] = {
            "format": "peft",
            "method": str(config["peft_type"]).lower(),
            "base_model": config.get("base_model_name_or_path"),
            "task": sidecar.get("task") or tasks.of_peft(config.get("task_type")),
            "labels": sidecar.get("labels"),
            "problem_type": sidecar.get("problem_type"),
            "settings": _settings(config, (*_PEFT_SETTINGS, *_own_settings(config["peft_type"]))),
            "notes": tuple(peft.notes(config, folder / ADAPTER_CONFIG)) if _is_known(config["peft_type"]) else (),
        }
        files = [folder / name for name in ("adapter_model.bin", "adapter_model.safetensors") if present(folder / name)]
    elif own.recognises(config):
        about = config[own.KEY] if isinstance(config[own.KEY], dict) else {}
        known = {
            "format": own.FORMAT,
            "method": str(about.get("method")),
            "base_model": about.get("base_model"),
            "task": sidecar.get("task"),
            "labels": sidecar.get("labels"),
            "problem_type": sidecar.get("problem_type"),
            "settings": {},
        }
        files = [folder / name for name in ("adapter.safetensors", "model_head.safetensors") if present(folder / name)]
    else:
        named = isinstance(config.get("config"), (dict, str))
        inner = adapterhub.settings_of(config, folder / ADAPTER_CONFIG) if named else {}
        head = optional_json(folder / "head_config.json")
        owner = head["config"] if isinstance(head.get("config"), dict) else head
        label2id = owner.get("label2id") if isinstance(owner.get("label2id"), dict) else None
        known = {
            "format": "adapterhub",
            "method": adapterhub.method_of(inner),
            "base_model": config.get("model_name"),
            "task": sidecar.get("task") or adapterhub.task_stated(head),
            "labels": sidecar.get("labels") or (list(label2id) if label2id else None),
            "problem_type": sidecar.get("problem_type"),
            "settings": _settings(inner, _HUB_SETTINGS),
        }
        names = ("adapter.safetensors", "pytorch_adapter.bin", "model_head.safetensors", "pytorch_model_head.bin")
        files = [folder / name for name in names if present(folder / name)]
    labels, notes = known.pop("labels"), known.pop("notes", None)
    return AdapterDescription(
        path=folder,
        kind="adapter checkpoint",
        **known,
        labels=tuple(labels) if isinstance(labels, list) else None,
        notes=notes,
        base_sha256=sidecar.get("base_sha256") or None,
        **_weights(files),
        # The two are apart everywhere else: `--model` of this folder is the model without the adapter.
        license=stated(folder).license,
        model_beside=_beside(describe_model(folder)) if adapter_beside(folder) else None,
    )


def _beside(model: ModelDescription) -> ModelBeside:
    return ModelBeside(model.model_type, model.architectures, model.task, model.weights_sha256)


def _own_settings(peft_type: object) -> list[str]:
    """Returns the fields of the method's own settings; none of a method that is not known."""
    known = (module.FIELDS for module in codecs(peft.FORMAT).values() if peft_type == module.PEFT_TYPE)
    return sorted(next(known, ()))


def _is_known(peft_type: object) -> bool:
    return any(peft_type == module.PEFT_TYPE for module in codecs(peft.FORMAT).values())


def describe_model(folder: Path) -> ModelDescription:
    """A model folder, and what was merged into it."""
    config = read_json(folder / MODEL_CONFIG)
    merged = optional_json(folder / SIDECAR).get("merged")
    files = _weight_files(folder)
    weights = _weights(files)
    if config.get("quantization_config"):
        weights.setdefault("note", "quantized weights, which are not exported")
    entries = tuple(_merged(item) for item in merged if isinstance(item, Mapping)) if isinstance(merged, list) else None
    return ModelDescription(
        path=folder,
        kind="merged model" if merged else "base model",
        model_type=config.get("model_type"),
        architectures=config.get("architectures"),
        task=tasks.of_config(config),
        settings=_settings(config, _MODEL_SETTINGS),
        weights_sha256=weights_sha256(folder) if files else None,
        license=stated(folder).license,
        merged=entries,
        **weights,
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the base model's own weight files; none if they are of a kind that is not read."""
    try:
        return weight_files(folder)
    except InputError:
        if any(present(folder / name) for name in CHOICES):
            raise
        return ()


def _merged(entry: Mapping[str, Any]) -> MergedAdapter:
    """An entry of a merge's receipt, the names of its tensors in short."""
    known = [item.name for item in fields(MergedAdapter) if item.name != "changed"]
    changed = entry.get("changed")
    names = tuple(families(map(str, changed))) if isinstance(changed, list) else None
    return MergedAdapter(**{name: entry.get(name) for name in known}, changed=names)


def _weights(files: Iterable[Path]) -> dict[str, Any]:
    """The fields of a description that tell of tensor files."""
    tensors: list[Tensor] = []
    listed = []
    readable = True
    for path in files:
        if path.suffix == ".safetensors":
            # Before the file is hashed, so that a wrong file is refused at once, whatever its size.
            header = read_header(path)
            tensors += [Tensor(name, entry.dtype, entry.shape) for name, entry in header.tensors.items()]
        else:
            readable = False
        listed.append(WeightFile(path.name, size_of(path), sha256(path)))
    if not readable:
        return {"files": tuple(listed), "note": ".bin files list no tensors without loading them"}
    return {"parameters": total(tensors), "files": tuple(listed), "tensors": grouped(tensors)}


def _settings(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns those of the settings that the config has. Lists of modules are shortened."""
    found = {name: config[name] for name in names if config.get(name) is not None}
    return {name: families(map(str, value)) if isinstance(value, list) else value for name, value in found.items()}
