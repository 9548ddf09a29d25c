"""Describes a bundle by its manifest, and compares its files with the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_export.bundle.manifest import Manifest, TensorInfo, read_manifest
from adapter_export.bundle.unlisted import unlisted
from adapter_export.inspection.tensors import Tensor, families, grouped
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.files import present, size_of
from adapter_export.reading.hashes import sha256

# The possible results of comparing a file of the bundle with the manifest.
OK, CHANGED, MISSING, UNLISTED = "ok", "changed", "missing", "not listed"


def describe_bundle(folder: Path) -> dict[str, Any]:
    """Returns a description of the bundle in `folder`, as plain values."""
    manifest = read_manifest(folder)
    return {
        "kind": "bundle",
        "manifest_sha256": sha256(folder / MANIFEST),
        "mode": manifest.mode,
        "task": manifest.task,
        "dtype": manifest.dtype,
        "quantize": manifest.quantize,
        "fuse": manifest.fuse,
        "bind": manifest.bind,
        "contrib": list(manifest.contrib),
        "opset": manifest.opset,
        "labels": list(manifest.labels) if manifest.labels is not None else None,
        "problem_type": manifest.problem_type,
        "project_version": manifest.project_version,
        "base": {
            "model_type": manifest.base.model_type,
            "architecture": manifest.base.architecture,
            "hidden_size": manifest.base.hidden_size,
            "sha256": manifest.base.sha256,
        },
        "sites_total": len(manifest.sites),
        "inputs": [_boundary(name, info) for name, info in manifest.inputs.items()],
        "outputs": [_boundary(name, info) for name, info in manifest.outputs.items()],
        "adapters": [
            {
                "name": info.name,
                "method": info.method,
                "source_format": info.source_format,
                "parameters": info.parameters,
                "labels": list(info.labels) if info.labels is not None else None,
                "problem_type": info.problem_type,
                "file": info.file,
                "sha256": info.sha256 or None,
            }
            for info in manifest.adapters
        ],
        "sites": _sites(manifest),
        "tensors": grouped(Tensor(name, info.dtype, info.shape) for name, info in manifest.tensors.items()),
        "files": _files(folder, manifest),
    }


def _boundary(name: str, info: TensorInfo) -> dict[str, Any]:
    return {"name": name, "dtype": info.dtype, "shape": list(info.shape)}


def _sites(manifest: Manifest) -> list[dict[str, Any]]:
    """Returns one entry for all sites with the same operator whose names differ in numbers only."""
    operators: dict[tuple[str, str | None, str], list[str]] = {}
    for site in manifest.sites:
        operators.setdefault((site.port, site.method, site.op_type), []).append(site.module)
    return [
        {"modules": family, "port": port, "method": method, "operator": op_type}
        for (port, method, op_type), modules in operators.items()
        for family in families(modules)
    ]


def _files(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not present(path):
            result.append({"file": name, "bytes": None, "status": MISSING})
            continue
        status = OK if sha256(path, folder) == digest else CHANGED
        result.append({"file": name, "bytes": size_of(path, folder), "status": status})
    others = unlisted(folder, manifest)
    return result + [{"file": name, "bytes": (folder / name).lstat().st_size, "status": UNLISTED} for name in others]
