"""Putting adapters into a bundle: no torch, no tracing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG, adapter_tensors, check_tensors, write_adapter_file
from adapter_export.bundle.manifest import ADAPTERS, AdapterInfo, Manifest, read_manifest, write_manifest
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.checkpoints.files import sha256
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError, OutputExists
from adapter_export.naming import check_adapter_name


def graph_tensors(what: str, adapter: Adapter, manifest: Manifest) -> dict[str, np.ndarray]:
    """The adapter's tensors as the bundle's graph takes them; raises InputError where they do not fit it.

    A task head is left out where the graph has none (task `features`), and required where the base model has none.
    """
    tensors = adapter_tensors(adapter)
    heads = [site for site in manifest.sites if site.method == HEAD_SLUG]
    if not heads:
        tensors = {name: tensor for name, tensor in tensors.items() if name.split(".")[-2] != HEAD_SLUG}
    elif not adapter.head and manifest.labels is None:
        raise InputError(f"{what}: expected a task head ({manifest.task}), as the base model has none; found none")
    tensors = {name: np.ascontiguousarray(tensor, manifest.dtype) for name, tensor in tensors.items()}
    check_tensors(what, tensors, manifest.tensors)
    return tensors


def write_adapter(folder: Path, name: str, adapter: Adapter, manifest: Manifest) -> AdapterInfo:
    """Write `folder/NAME.onnx_adapter` for the graph that `manifest` describes."""
    path = folder / f"{name}.onnx_adapter"
    write_adapter_file(path, graph_tensors(f"adapter {name}", adapter, manifest), manifest.base.sha256)
    labels = adapter.label_names if adapter.num_labels is not None else None
    return AdapterInfo(name, adapter.method, adapter.source_format, sha256(path), adapter.parameters, labels)


def add_adapter(bundle: str | Path, adapters: Mapping[str, str | Path], force: bool = False) -> Manifest:
    """Add adapter checkpoints to a swappable bundle; all of them, or none. Returns the new manifest.

    Raises InputError for a bundle of another mode, an adapter that does not fit its graph or its base model, and
    OutputExists for a name in use, unless `force` replaces it.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if manifest.mode != "swappable":
        raise InputError(
            f"bundle {folder}: mode {manifest.mode!r} holds its adapter in the graph; expected 'swappable'"
        )
    for name in map(check_adapter_name, adapters):
        if not force and any(name == info.name for info in manifest.adapters):
            raise OutputExists(f"bundle {folder}: already has an adapter {name!r}; pass --force to replace it")

    # Complete files are made beside the bundle's, then moved in; the manifest, which makes them count, comes last.
    staging = Path(tempfile.mkdtemp(prefix=".adding.", dir=folder))
    replaced: dict[Path, Path] = {}
    try:
        for name, path in adapters.items():
            adapter = load_adapter(path, manifest.base)
            if LM_HEAD in adapter.head and manifest.task == "causal-lm":
                raise InputError(
                    f"adapter {name}: carries {LM_HEAD!r}, which only an export beside the base model can compare; "
                    "export the bundle anew with this adapter"
                )
            manifest = manifest.with_adapter(write_adapter(staging, name, adapter, manifest))
        (folder / ADAPTERS).mkdir(exist_ok=True)
        for name in adapters:
            target = folder / manifest.adapter(name).file
            if target.exists():
                replaced[target] = target.rename(staging / f"{name}.replaced")
            (staging / target.name).rename(target)
        write_manifest(folder, manifest)
    except BaseException:
        for target, old in replaced.items():
            old.replace(target)
        before = read_manifest(folder)
        for name in adapters:
            target = folder / ADAPTERS / f"{name}.onnx_adapter"
            if all(info.name != name for info in before.adapters):
                target.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest
