"""Gives the model an adapter's task head: which tensors are added, removed and renamed, and how the config changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import LM_HEAD, Adapter, HeadLayer
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.errors import InputError
from adapter_export.merging.model_folder import ModelFolder
from adapter_export.merging.rounding import STORED, rounded
from adapter_export.merging.task_classes import TaskClass
from adapter_export.models.heads import different
from adapter_export.reading.files import open_file

# A model's output layer, and the input embedding, which is also the output layer where the two are tied.
_INPUT_OR_OUTPUT = re.compile(
    r"(^|\.)(lm_head|embed_out|proj_out|embed_tokens|wte|shared|word_embeddings|embed_in)\.weight$"
)


@dataclass(frozen=True)
class HeadChange:
    """How a task head changes a model.

    Attributes:
        architecture: Class of the model with the head.
        dtype: Type of the new tensors, by its safetensors name.
        added: New tensors, as they are stored.
        dropped: Names on disk of the tensors that are removed.
        prefix: Put before the names of the tensors that stay.
        config: Config fields that change. A value of None removes the field.
    """

    architecture: str
    dtype: str
    added: Mapping[str, np.ndarray] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def head_change(model: ModelFolder, adapter: Adapter, task: str | None) -> HeadChange | None:
    """Returns how the adapter's head changes the model; None without a head.

    Args:
        model: The base model.
        adapter: The adapter.
        task: Task of the head.

    Raises:
        InputError: The head does not fit the model, or the result would lack weights that its class needs.
    """
    layers = {name: layer for name, layer in adapter.head.items() if name != LM_HEAD}
    if not layers:
        return None
    chosen = model.task_class(task)
    info = model.info(task)
    if task is None:
        raise InputError(
            f"model {model.folder}: {', '.join(layers)}: saved with the adapter, and neither a module of the base "
            "model nor a task head that is known; --task features merges the body without it"
        )
    if not info.head:
        raise InputError(
            f"model {model.folder}: which task head a {model.model_type} model has for task {task!r} is not known; "
            "merge into a model that was saved with a head for that task, or leave the head out with --task features"
        )
    pooler = info.pooler if info.pooler in layers else ""
    doubled = chosen is not None and chosen.doubled
    _check_sizes(model, doubled, (pooler, *info.head) if pooler else info.head, layers)
    if lost := [name for name in info.untrained if name not in layers]:
        raise InputError(f"task head {lost[0]!r}: is neither in the adapter nor in the base model {model.folder}")
    dtype = _dtype(model)
    added: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        has_bias = name in (*chosen.biases, info.pooler) if chosen else f"{name}.bias" in model.weights.where
        if layer.bias is not None and not has_bias:
            raise InputError(f"task head {name!r}: has a bias, but the model's layer has none")
        added[f"{name}.weight"] = _stored(layer.weight, dtype)
        if has_bias:
            added[f"{name}.bias"] = _stored(np.zeros(len(layer.weight)) if layer.bias is None else layer.bias, dtype)
    for norm in chosen.norms if chosen else ():
        # Where the checkpoint has no norm, training made one that is the identity, and did not train it.
        if f"{norm}.weight" not in model.weights.where:
            added[f"{norm}.weight"] = _stored(np.ones(model.hidden_size), dtype)
    labels = adapter.label_names
    architecture = chosen.architecture if chosen else model.architecture
    config: dict[str, Any] = {
        "architectures": [architecture],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        # A number of labels in the config would override the names of the labels.
        "num_labels": None,
        "problem_type": with_problem_type(adapter, model.config).problem_type,
    }
    if adapter.pad_token_id is not None:
        own = model.config.get("pad_token_id")
        if own not in (None, adapter.pad_token_id):
            raise InputError(
                f"model {model.folder}: the adapter was trained with padding token {adapter.pad_token_id}, but the "
                f"base model pads with {own}: the end of a text is found by it"
            )
        config["pad_token_id"] = adapter.pad_token_id
    return HeadChange(
        architecture,
        dtype,
        added,
        frozenset(_dropped(model, chosen, layers, pooler)),
        f"{chosen.prefix}." if chosen and not model.prefix else "",
        config,
    )


def check_language_head(model: ModelFolder, adapter: Adapter) -> None:
    """Checks that an `lm_head` in the adapter equals the model's own. Raises InputError if it does not."""
    if (layer := adapter.head.get(LM_HEAD)) is None:
        return
    own = [name for name in model.weights.where if _INPUT_OR_OUTPUT.search(name)]
    for name in sorted(own, key=lambda name: LM_HEAD not in name):
        found = model.weights.entry(name)
        if found.dtype in STORED and found.shape == layer.weight.shape:
            if _bytes(model, name) == _stored(layer.weight, found.dtype).tobytes():
                return
            break
    raise InputError("task head 'lm_head': differs from the base model's own, which is not supported")


def check_repeated(model: ModelFolder, adapter: Adapter) -> None:
    """Checks that embeddings in the adapter equal the model's own. Raises InputError if they do not."""
    for module, weight in adapter.repeated.items():
        name = f"{model.modules.get(module)}.weight"
        if model.weights.aliases.get(name, name) not in model.weights.where:
            raise InputError(f"{module!r}, saved with the adapter, is not in the base model {model.folder}")
        found = model.weights.entry(model.weights.aliases.get(name, name))
        same = found.shape == weight.shape and found.dtype in STORED
        if not same or _bytes(model, name) != _stored(weight, found.dtype).tobytes():
            raise InputError(different(module, weight.shape, found.shape))


def _bytes(model: ModelFolder, name: str) -> bytes:
    """Returns the values of a tensor as they are on disk."""
    found = model.weights.aliases.get(name, name)
    header, entry = model.weights.files[model.weights.where[found]], model.weights.entry(found)
    with open_file(header.path) as file:
        file.seek(header.start + entry.begin)
        return file.read(entry.size)


def _dropped(model: ModelFolder, chosen: TaskClass | None, layers: Mapping[str, HeadLayer], pooler: str) -> list[str]:
    """Returns the names of the tensors that the new class does not use, or that are replaced.

    pooler: Path of the pooler that the head brings; empty if it brings none.
    """
    replaced = tuple(f"{name}." for name in layers)
    if chosen is None:
        return [name for name in model.outside if name.startswith(replaced)]
    inside: list[str] = []
    if pooler:
        own = model.prefix + pooler.removeprefix(f"{chosen.prefix}.")
        inside = [name for name in model.weights.where if name.startswith(f"{own}.")]
    elif chosen.needed is not None and f"{model.prefix}{chosen.needed}.weight" not in model.weights.where:
        raise InputError(
            f"model {model.folder}: tensor '{model.prefix}{chosen.needed}.weight' is missing, which "
            f"{chosen.architecture} needs below its task head"
        )
    kept = tuple(f"{name}." for name in (*chosen.layers, *chosen.norms) if name not in layers)
    return [*inside, *(name for name in model.outside if not (kept and name.startswith(kept)))]


def _check_sizes(model: ModelFolder, doubled: bool, head: tuple[str, ...], layers: Mapping[str, HeadLayer]) -> None:
    """Checks that each layer has the sizes of the model's own layer.

    Where the model has no such layer on disk, all layers but the last must be square, and the last must have as many
    inputs as the base model, or the layer before it, has outputs.
    """
    # Without a head on disk to compare with: sizes that may differ between models of one architecture.
    first = model.config.get("word_embed_proj_dim")
    inputs = first if type(first) is int else model.hidden_size * (2 if doubled else 1)
    for name in head:
        if name not in layers:
            continue
        shape = layers[name].weight.shape
        known = model.weight_shape(name)
        expected = known[1] if known else inputs
        if shape[1] != expected:
            raise InputError(f"task head {name!r}: expected {expected} inputs for this base model, found {shape[1]}")
        rows = known[0] if known else inputs
        if name != head[-1] and shape[0] != rows:
            raise InputError(f"task head {name!r}: expected {rows} outputs for this base model, found {shape[0]}")


def _dtype(model: ModelFolder) -> str:
    """Returns the type of most bytes of the model, of the types that weights may have."""
    sizes = dict.fromkeys(STORED, 0)
    for name in model.weights.where:
        entry = model.weights.entry(name)
        if entry.dtype in sizes:
            sizes[entry.dtype] += entry.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    return rounded(np.ascontiguousarray(values, np.float64), dtype)
