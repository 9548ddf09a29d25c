"""Writing a bundle folder from a lowered graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from adapter_export.basemodel import BaseModel
from adapter_export.bundle.add import write_adapter
from adapter_export.bundle.companions import copy_companions
from adapter_export.bundle.manifest import ADAPTERS, AdapterInfo, GraphInfo, Manifest, write_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.files import sha256
from adapter_export.export.checking import check_saved, contrib_operators
from adapter_export.export.lower import Lowered, all_sites
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32

# Graphs below this many bytes of weights are one file, which browsers and viewers open most easily.
EXTERNAL_ABOVE_BYTES = 64 << 20
# With external data, tensors up to this size stay in the graph: adapter defaults do, at any usual hidden size.
_INLINE_UP_TO_BYTES = 64 << 10


def save_graph(lowered: Lowered, path: Path) -> None:
    """Save the graph at `path` (external data beside it when large), and check it with full shape inference."""
    import onnx_ir as ir

    size = sum(
        value.const_value.nbytes for value in lowered.model.graph.initializers.values() if value.const_value is not None
    )
    if size > EXTERNAL_ABOVE_BYTES:
        ir.save(lowered.model, path, external_data=f"{path.name}.data", size_threshold_bytes=_INLINE_UP_TO_BYTES)
    else:
        ir.save(lowered.model, path)
    check_saved(path)


def write_bundle(
    folder: Path,
    base: BaseModel,
    graphs: Mapping[str, Lowered],
    mode: str,
    adapters: Mapping[str, Adapter],
    target: Target = FP32,
) -> Manifest:
    """Fill `folder` with the graphs, the adapters, what a runtime needs beside them, and last the manifest."""
    for file, lowered in graphs.items():
        save_graph(lowered, folder / file)
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
        contrib=tuple(sorted({name for lowered in graphs.values() for name in contrib_operators(lowered.model)})),
    )
    if mode == "swappable":
        (folder / ADAPTERS).mkdir()
        infos = [write_adapter(folder / ADAPTERS, name, adapter, manifest) for name, adapter in adapters.items()]
    else:
        infos = [
            AdapterInfo(name, adapter.method, adapter.source_format, "", adapter.parameters, labels_of(adapter))
            for name, adapter in adapters.items()
        ]
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = replace(manifest, adapters=tuple(infos), files=files)
    write_manifest(folder, manifest)
    return manifest


def labels_of(adapter: Adapter) -> tuple[str, ...] | None:
    """Class names of the adapter's own task head, or None without one."""
    return adapter.label_names if adapter.num_labels is not None else None


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
