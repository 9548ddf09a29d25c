"""Writing a bundle folder from lowered graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from adapter_export.basemodel import BaseModel
from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.bundle.add import describe_adapter, write_adapter
from adapter_export.bundle.companions import copy_companions
from adapter_export.bundle.manifest import (
    ADAPTERS,
    MANY,
    NO_ADAPTER_FILE,
    SLOTS,
    GraphInfo,
    Manifest,
    write_manifest,
)
from adapter_export.bundle.no_adapter import no_adapter_tensors
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.files import sha256
from adapter_export.export.checking import contrib_operators
from adapter_export.export.genai import write_genai_config
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, all_sites
from adapter_export.export.saving import save_graphs
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32


def write_bundle(
    folder: Path,
    base: BaseModel,
    graphs: Mapping[str, Lowered],
    mode: str,
    adapters: Mapping[str, Adapter],
    target: Target = FP32,
    slots: int = SLOTS,
    bind: str = "initializer",
    task_asked: bool = False,
) -> Manifest:
    """Fill `folder` with the graphs, the adapters, what a runtime needs beside them, and last the manifest."""
    save_graphs(graphs, folder)
    copy_companions(base.folder, folder)
    write_config(base, folder / "config.json")
    manifest = Manifest(
        project_version=version("adapter-export"),
        mode=mode,
        task=base.task,
        dtype=target.dtype_name,
        opset=next(iter(graphs.values())).model.graph.opset_imports[""],
        base=base.info,
        graphs={file: GraphInfo(lowered.inputs, lowered.outputs) for file, lowered in graphs.items()},
        sites=all_sites(graphs.values()),
        adapters=(),
        files={},
        labels=own_labels(base),
        quantize=target.quantize,
        fuse=target.fuse,
        slots=slots,
        bind=bind,
        task_asked=task_asked,
        contrib=tuple(sorted({name for lowered in graphs.values() for name in contrib_operators(lowered.model)})),
    )
    write_genai_config(folder, base, manifest)
    if mode in MANY:
        (folder / ADAPTERS).mkdir()
        infos = [write_adapter(folder / ADAPTERS, name, adapter, manifest) for name, adapter in adapters.items()]
        if mode == "bank":
            infos = [replace(info, slot=slot) for slot, info in enumerate(infos, start=1)]
            if manifest.labels is not None:
                write_adapter_file(folder / NO_ADAPTER_FILE, head_defaults(base), base.info.sha256)
        elif bind == "input":
            tensors = no_adapter_tensors(manifest, head_defaults(base))
            write_adapter_file(folder / NO_ADAPTER_FILE, tensors, base.info.sha256)
    else:
        infos = [describe_adapter(name, adapter) for name, adapter in adapters.items()]
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = replace(manifest, adapters=tuple(infos), files=files)
    write_manifest(folder, manifest)
    return manifest


def own_labels(base: BaseModel) -> tuple[str, ...] | None:
    """Class names of the base model's own task head, or None without a trained one."""
    if not base.info.head or base.untrained_head:
        return None
    id2label = base.module.config.id2label
    return tuple(str(id2label[i]) for i in sorted(id2label))


def write_config(base: BaseModel, path: Path) -> None:
    """The model's config as loaded, its class named, without the path it was loaded from."""
    config = base.module.config.to_dict()
    config.pop("_name_or_path", None)
    config["architectures"] = [base.info.architecture]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
