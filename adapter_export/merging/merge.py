"""`adapter-export merge`: a copy of the base model with the adapter folded in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from adapter_export.basemodel import load_base, quiet
from adapter_export.bundle.companions import copy_companions
from adapter_export.bundle.layout import atomic_folder, check_output
from adapter_export.checkpoints.files import existing_folder, read_json, sha256
from adapter_export.checkpoints.folder import SIDECAR, checkpoint_task, load_adapter, read_checkpoint
from adapter_export.errors import CannotMerge, InputError
from adapter_export.injection import load_head
from adapter_export.merging.model import merge_into


@dataclass(frozen=True)
class MergeResult:
    """output: the merged model's folder. changed: names of the scaled tensors. head: whether a task head came along."""

    output: Path
    changed: tuple[str, ...]
    head: bool
    architecture: str


def merge(model: str | Path, adapter: str | Path, output: str | Path, *, force: bool = False) -> MergeResult:
    """Write a model folder that `from_pretrained` loads and that computes what base and adapter compute together.

    Weights keep the base model's dtype: W' = round(float64(W) * float64(l)). A task head of the adapter becomes the
    model's. A receipt (`adapter_export.json`) says what was merged into what.

    Raises CannotMerge with the reason, also for a base model that already holds this adapter; InputError for bad input.
    """
    import torch

    folder = existing_folder(model, "model")
    check_output(output, force, inputs=[folder, adapter])
    checkpoint = read_checkpoint(adapter)
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise CannotMerge(f"{folder / 'config.json'}: the base model is quantized; merge into the original weights")
    digest = _digest(checkpoint.folder)
    receipt = read_json(folder / SIDECAR) if (folder / SIDECAR).exists() else {}
    merged = receipt.get("merged", [])
    if any(item.get("adapter_sha256") == digest for item in merged):
        raise CannotMerge(f"model {folder}: {SIDECAR} says that this adapter is already merged into it")
    task = checkpoint_task(checkpoint) or "auto"
    base = load_base(folder, task, dtype="auto")
    loaded = load_adapter(adapter, base.info)
    if base.untrained_head and not loaded.head:
        base = load_base(folder, "features", dtype="auto")
    if loaded.head:
        load_head(base.module, loaded)
        base = replace(base, untrained_head=False)
    changed = merge_into(base.module, loaded)
    with atomic_folder(output, force, inputs=[folder, adapter]) as temporary:
        with quiet(), torch.no_grad():
            base.module.save_pretrained(temporary)
        copy_companions(folder, temporary)
        entry = {
            "adapter_sha256": digest,
            "method": loaded.method,
            "source_format": loaded.source_format,
            "base_sha256": base.info.sha256,
            "changed": changed,
            "project_version": version("adapter-export"),
        }
        (temporary / SIDECAR).write_text(json.dumps({"merged": [*merged, entry]}, indent=2) + "\n", encoding="utf-8")
    return MergeResult(Path(output), tuple(changed), bool(loaded.head), base.info.architecture)


def _digest(folder: Path) -> str:
    """Identity of an adapter checkpoint: the digest of its tensor file."""
    for name in ("adapter_model.safetensors", "adapter.safetensors", "adapter_model.bin", "pytorch_adapter.bin"):
        if (folder / name).exists():
            return sha256(folder / name)
    raise InputError(f"adapter {folder}: expected a tensor file, found none")
