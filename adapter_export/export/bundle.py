"""Writes the folder of a bundle from lowered graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adapter_export.architectures.positions import longest_text_of
from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.bundle.add import describe_adapter, write_adapter
from adapter_export.bundle.card import write_card
from adapter_export.bundle.companions import copy_companions
from adapter_export.bundle.graphs import is_past
from adapter_export.bundle.manifest import (
    ADAPTER_LICENSES,
    ADAPTERS,
    BASE_LICENSES,
    NO_ADAPTER_FILE,
    SLOTS,
    Manifest,
    write_manifest,
)
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.bundle.no_adapter import stored_tensors
from adapter_export.bundle.pooling import read_pooling
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.licenses import base_model_name, license_files, stated, write_license_files
from adapter_export.checkpoints.problem_types import stated as stated_problem
from adapter_export.export.genai import write_genai_config
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, all_sites
from adapter_export.export.rotary import reread_at, rotary_border
from adapter_export.export.samples import position_table
from adapter_export.export.saving import save_graphs
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32
from adapter_export.export.validate import contrib_operators
from adapter_export.hub import source_of
from adapter_export.models.base_model import BaseModel
from adapter_export.models.tokenizer import write_tokenizer
from adapter_export.reading.hashes import sha256

if TYPE_CHECKING:
    import numpy as np


def write_bundle(
    folder: Path,
    base: BaseModel,
    graphs: Mapping[str, Lowered],
    mode: Mode,
    adapters: Mapping[str, Adapter],
    target: Target = FP32,
    slots: int = SLOTS,
    bind: Binding = Binding.INITIALIZER,
    tokenizer: Any = None,
    task_asked: bool = False,
    checkpoints: Mapping[str, Path] = MappingProxyType({}),
) -> Manifest:
    """Writes the graphs, the adapters, the other files that a runtime needs, the licenses, and last the manifest.

    Args:
        folder: An empty folder.
        base: The base model as exported.
        graphs: The graphs by file name.
        mode: The mode of the graphs.
        adapters: The adapters by name.
        target: What the graphs were made for.
        slots: In mode bank, how many adapters a runtime has in memory at once.
        bind: How the graphs take adapter tensors.
        tokenizer: See `tokenizer.exportable_tokenizer`; None for a bundle that takes token ids only.
        task_asked: Whether the caller chose the task, instead of `auto`.
        checkpoints: Folders of the checkpoints by the names of the adapters, whose license files are copied.

    Returns:
        The manifest.
    """
    save_graphs(graphs, folder)
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder)
    copy_companions(base.folder, folder)
    write_generation_config(base, folder)
    write_config(base, folder / "config.json")
    manifest = Manifest(
        project_version=version("adapter-export"),
        mode=mode,
        task=base.task,
        dtype=target.dtype.dtype,
        opset=next(iter(graphs.values())).model.graph.opset_imports[""],
        base=base.info,
        graphs={file: lowered.info for file, lowered in graphs.items()},
        sites=all_sites(graphs.values()),
        adapters=(),
        files={},
        labels=own_labels(base),
        problem_type=stated_problem(base.module.config.to_dict()) if own_labels(base) else None,
        quantize=target.quantize,
        fuse=target.fuse,
        slots=slots,
        bind=bind,
        task_asked=task_asked,
        base_source=(source := source_of(base.folder)),
        base_name=base_model_name(source, [adapter.base_model for adapter in adapters.values()]),
        base_license=stated(base.folder).license,
        card=True,
        rotary_border=rotary_border(base.module),
        positions=position_table(base),
        longest_text=longest_text_of(base.module.config.to_dict()),
        pooling=read_pooling(base.folder) if base.task == "features" else None,
        reread_at=reread_at(base) if any(is_past(name) for graph in graphs.values() for name in graph.inputs) else None,
        contrib=tuple(sorted({name for lowered in graphs.values() for name in contrib_operators(lowered.model)})),
    )
    write_genai_config(folder, base, manifest)
    return finish_bundle(folder, manifest, adapters, head_defaults(base), base.folder, checkpoints)


def finish_bundle(
    folder: Path,
    manifest: Manifest,
    adapters: Mapping[str, Adapter],
    head_tensors: Mapping[str, np.ndarray],
    base_folder: Path | None,
    checkpoints: Mapping[str, Path],
) -> Manifest:
    """Writes the adapters, the licenses, the card and the manifest of a bundle.

    Args:
        folder: The folder, which has all other files.
        manifest: The manifest without adapters and files.
        adapters: The adapters by name.
        head_tensors: Tensors of the base model's own task head, by full name.
        base_folder: Folder of the base model, whose license files are copied; None if it is not known.
        checkpoints: Folders of the checkpoints by the names of the adapters, whose license files are copied.

    Returns:
        The manifest as written.
    """
    mode = manifest.mode
    if mode.in_graph:
        infos = [describe_adapter(name, adapter) for name, adapter in adapters.items()]
    else:
        (folder / ADAPTERS).mkdir()
        infos = [write_adapter(folder / ADAPTERS, name, adapter, manifest) for name, adapter in adapters.items()]
        if mode.per_row:
            infos = [replace(info, slot=slot) for slot, info in enumerate(infos, start=1)]
        if tensors := stored_tensors(manifest, head_tensors):
            write_adapter_file(folder / NO_ADAPTER_FILE, tensors, manifest.base.sha256)
    if base_folder is not None:
        write_license_files(license_files(base_folder), folder / BASE_LICENSES)
    for name, checkpoint in checkpoints.items():
        write_license_files(license_files(checkpoint), folder / ADAPTER_LICENSES / name)
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = replace(manifest, adapters=tuple(infos), files=files)
    write_card(folder, manifest)
    write_manifest(folder, manifest)
    return manifest


def own_labels(base: BaseModel) -> tuple[str, ...] | None:
    """Returns the class names of the base model's own task head; None without a trained head."""
    if not base.info.head or base.untrained_head:
        return None
    id2label = base.module.config.id2label
    return tuple(str(id2label[i]) for i in sorted(id2label))


def write_generation_config(base: BaseModel, folder: Path) -> None:
    """Writes generation_config.json if the folder has none.

    For a model without this file, transformers takes the settings from config.json. The loaded config, which is written
    to the bundle, does not contain them any more.
    """
    path, loaded = folder / "generation_config.json", getattr(base.module, "generation_config", None)
    if loaded is None or path.exists():
        return
    values = {name: value for name, value in loaded.to_diff_dict().items() if not name.startswith("_")}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_config(base: BaseModel, path: Path) -> None:
    """Writes the loaded config of the model, with the name of its class, and without the path it was loaded from."""
    config = base.module.config.to_dict()
    config.pop("_name_or_path", None)
    config["architectures"] = [base.info.architecture]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
