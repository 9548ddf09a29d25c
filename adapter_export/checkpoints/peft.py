"""PEFT's IA3 checkpoints: `adapter_config.json` with `adapter_model.safetensors` (older: `adapter_model.bin`).

Tensors are `base_model.model.<module path>.ia3_l`, (out, 1) on the output side and (1, in) on the input side, for
convolutions (1, channels, 1, 1[, 1]) on both; the config's `feedforward_modules` says which is which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.architectures.renames import canonical, former
from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.checkpoints.adapter import (
    LM_HEAD,
    OUTPUT_LAYERS,
    Adapter,
    Checkpoint,
    HeadLayer,
    site_features,
)
from adapter_export.checkpoints.files import as_float, read_stored
from adapter_export.checkpoints.heads import head_layers
from adapter_export.checkpoints.peft_config import CONFIG, Patterns, PeftConfig, notes, parse
from adapter_export.checkpoints.peft_defaults import DEFAULTS
from adapter_export.checkpoints.peft_matching import is_all_linear, is_saved, scaled_at_input, targeted, withheld
from adapter_export.checkpoints.peft_writing import KEY_PREFIX, VECTOR, WEIGHTS, write
from adapter_export.errors import InputError
from adapter_export.methods.contract import Block
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.files import present
from adapter_export.sites import Port, Site, strip_prefix

__all__ = ["FORMAT", "read", "resolve", "task_of", "whole_tensors", "write"]

FORMAT = "peft"
# The adapter's name, which PEFT takes out of the names it saves, and others may not.
_NAME = re.compile(r"(?<=\.ia3_l)\.[^.]+$|\.modules_to_save\.[^.]+(?=\.)")


def read(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """Read the folder; raises InputError for a missing or unreadable file, or a PEFT method other than IA3."""
    parse(config, folder / CONFIG)
    weights = next((folder / name for name in WEIGHTS if present(folder / name)), None)
    if weights is None:
        raise InputError(f"{folder}: expected {' or '.join(WEIGHTS)}, found neither")
    tensors = _plain_names(weights, read_stored(weights))
    return Checkpoint(
        folder,
        FORMAT,
        config,
        {name: as_float(tensor) for name, tensor in tensors.items()},
        stored={name: tensor.dtype.name for name, tensor in tensors.items() if tensor.dtype.itemsize < 4},
    )


def resolve(checkpoint: Checkpoint, info: ModelInfo) -> Adapter:
    """Place the checkpoint's vectors in the model. Raises InputError for unknown, missing or misshapen tensors."""
    config = parse(checkpoint.config, checkpoint.folder / CONFIG)
    vectors = {n.removesuffix(VECTOR): t for n, t in checkpoint.tensors.items() if n.endswith(VECTOR)}
    if not vectors:
        raise InputError(f"{checkpoint.folder}: expected tensors named *{VECTOR}, found none")
    feedforward = _or_default(config.feedforward, "feedforward_modules", checkpoint, info)
    blocks = {}
    at_input = _limited(checkpoint, "feedforward_modules", lambda: scaled_at_input(vectors, feedforward))
    unread = [name for name in vectors if strip_prefix(canonical(info.model_type, name), info.prefix) in info.unread]
    for name, vector in vectors.items():
        if name in unread:
            continue
        port = Port.INPUT if name in at_input else Port.OUTPUT
        site = Site(strip_prefix(canonical(info.model_type, name), info.prefix), port)
        blocks[site] = _block(checkpoint, info, site, name, vector)
    # With or without a vector where no output reads: nothing differs.
    targets = _targets(checkpoint, config, info, vectors)
    idle = {name for name in targets if strip_prefix(canonical(info.model_type, name), info.prefix) in info.unread}
    _check_complete(checkpoint, vectors, targets - (idle - set(vectors)))
    without_effect = [
        f"tensor {name + VECTOR!r} has no effect: no output reads its module, which the base model's checkpoint lacks"
        for name in unread
    ]
    return Adapter(
        method="ia3",
        blocks=blocks,
        head=_head(checkpoint, config, info),
        labels=_labels(checkpoint),
        source_format=FORMAT,
        base_sha256=checkpoint.sidecar.get("base_sha256"),
        stored={
            strip_prefix(canonical(info.model_type, name), info.prefix): dtype
            for name, dtype in checkpoint.stored.items()
        },
        notes=(*notes(checkpoint.config), *without_effect),
        repeated=_repeated(checkpoint, info),
    )


def task_of(checkpoint: Checkpoint) -> str | None:
    """The task by PEFT's `task_type`, or None."""
    return tasks.of_peft(checkpoint.config.get("task_type"))


def whole_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """What the checkpoint holds besides vectors: the tensors of modules that were saved whole."""
    return {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(VECTOR)}


def _plain_names(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors by names without PEFT's prefix and without the adapter's name, where the file has it in them."""
    stray = [name for name in tensors if not name.startswith(KEY_PREFIX)]
    if stray and len(stray) < len(tensors):
        raise InputError(f"{path}: tensor {stray[0]!r}: expected a name that starts with {KEY_PREFIX!r}")
    plain: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = _NAME.sub("", name.removeprefix(KEY_PREFIX))
        if short in plain:
            raise InputError(f"{path}: tensor {name!r}: expected one adapter in the file, found {short!r} twice")
        plain[short] = tensor
    return plain


def _block(checkpoint: Checkpoint, info: ModelInfo, site: Site, name: str, vector: np.ndarray) -> Block:
    if site.module in info.head:
        raise InputError(
            f"{checkpoint.folder}: tensor {name + VECTOR!r} scales the task head, which is swapped as a whole; train "
            f"again with {site.module!r} in PEFT's modules_to_save or exclude_modules"
        )
    if site.module in OUTPUT_LAYERS and site.module not in info.modules:
        raise InputError(
            f"{checkpoint.folder}: tensor {name + VECTOR!r} scales the output layer, which is not supported in any "
            f"mode, merged or not; train again with {site.module!r} in PEFT's exclude_modules"
        )
    features = site_features(checkpoint, info, site).outputs
    if site.module not in info.inputs:
        raise InputError(f"{checkpoint.folder}: tensor {name + VECTOR!r}: expected a linear layer or a convolution")
    spatial = info.convolutions.get(site.module, 0)
    operator = IA3Operator(spatial)
    shape: tuple[int, ...] = (1, features) if site.port is Port.INPUT else (features, 1)
    if spatial:
        shape = (1, features, *(1,) * spatial)
    if vector.shape != shape:
        # A weight on disk has the inputs of one group.
        grouped = spatial and site.port is Port.INPUT and vector.size % features == 0
        hint = "; the inputs of a convolution in groups are not merged, only exported by `onnx`" if grouped else ""
        raise InputError(
            f"{checkpoint.folder}: tensor {name + VECTOR!r}: expected shape {shape} for this base model, "
            f"found {vector.shape}{hint}"
        )
    return Block(operator, {"l": vector.reshape(features, *(1,) * spatial)})


def _or_default(patterns: Patterns | None, name: str, checkpoint: Checkpoint, info: ModelInfo) -> Patterns:
    """What the config leaves open is PEFT's default for the architecture."""
    if patterns is not None:
        return patterns
    if (defaults := DEFAULTS.get(info.model_type)) is None:
        raise InputError(
            f"{checkpoint.folder / CONFIG}: field {name!r} is missing, and PEFT has no default for {info.model_type!r}"
        )
    return defaults.targets if name == "target_modules" else defaults.inputs


def _targets(checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo, vectors: Iterable[str]) -> set[str]:
    """Names of the modules inside the base model that PEFT would put a vector on.

    PEFT matches the names of the class it wrapped, with or without the prefix, in the transformers version it had: the
    names of the vectors tell which.
    """
    targets = _or_default(config.targets, "target_modules", checkpoint, info)
    candidates: Iterable[str] = info.inputs
    if is_all_linear(targets):
        candidates = [name for name in info.inputs if name not in info.convolutions and name != LM_HEAD]
        targets = r"(?s:.*)"
    if any(name.startswith(f"{info.prefix}.") for name in vectors):
        candidates = [f"{info.prefix}.{module}" for module in candidates]
    if any(canonical(info.model_type, name) != name for name in vectors):
        candidates = [former(info.model_type, name) for name in candidates]
    candidates = list(candidates)
    found = _limited(checkpoint, "target_modules", lambda: targeted(candidates, targets))
    excluded = _limited(checkpoint, "exclude_modules", lambda: targeted(candidates, config.excluded))
    return found - excluded - _limited(checkpoint, "modules_to_save", lambda: withheld(candidates, config.saved))


def _limited(checkpoint: Checkpoint, name: str, match: Callable[[], set[str]]) -> set[str]:
    """What `match` finds by the expressions of a field. Raises InputError where they are none, or run away."""
    try:
        return match()
    except (Exceeded, Failed) as error:
        raise InputError(f"{checkpoint.folder / CONFIG}: field {name!r}: a regular expression that {error}") from None


def _check_complete(checkpoint: Checkpoint, vectors: Mapping[str, np.ndarray], expected: set[str]) -> None:
    """PEFT would drop a surplus vector without a word, and scale by one where a vector is missing."""
    if surplus := sorted(set(vectors) - expected):
        raise InputError(
            f"{checkpoint.folder}: tensor {surplus[0] + VECTOR!r}: 'target_modules' does not name its module "
            f"({len(surplus)} such tensors)"
        )
    if missing := sorted(expected - set(vectors)):
        raise InputError(
            f"{checkpoint.folder}: tensor {missing[0] + VECTOR!r} is missing ({len(missing)} in all), but "
            "'target_modules' names its module"
        )


def _head(checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo) -> dict[str, HeadLayer]:
    repeated = _repeated(checkpoint, info)
    tensors = {
        name: tensor
        for name, tensor in whole_tensors(checkpoint).items()
        if strip_prefix(name.rpartition(".")[0], info.prefix) not in repeated
    }
    present = {name.rpartition(".")[0] for name in tensors}
    saved = [module for module in info.head if is_saved(module, config.saved)]
    missing = [module for module in saved if module not in present]
    if missing and not present - set(info.head):
        raise InputError(
            f"{checkpoint.folder}: tensor '{missing[0]}.weight' is missing, but the config's modules_to_save or "
            "task_type names its module"
        )
    return head_layers(checkpoint, tensors, info, [module for module in info.head if module not in saved])


def _repeated(checkpoint: Checkpoint, info: ModelInfo) -> dict[str, np.ndarray]:
    """Embeddings of the base model that are saved with the adapter, by module path: PEFT adds them where a vocabulary
    was resized, or where it cannot tell. They are compared with the model's; see `injection.complete_head`."""
    found = {}
    for name, tensor in whole_tensors(checkpoint).items():
        module, _, kind = name.rpartition(".")
        path = strip_prefix(canonical(info.model_type, module), info.prefix)
        if kind == "weight" and path in info.modules and path not in info.inputs and tensor.ndim == 2:
            found[path] = tensor
    return found


def _labels(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    labels = checkpoint.sidecar.get("labels")
    return tuple(labels) if labels else None
