"""Describes a bundle by its manifest, and compares its files with the manifest."""

from __future__ import annotations

from pathlib import Path

from adapter_export.bundle.manifest import Manifest, TensorInfo, read_manifest
from adapter_export.bundle.unlisted import unlisted
from adapter_export.inspection.descriptions import (
    CHANGED,
    MISSING,
    OK,
    UNLISTED,
    AdapterSummary,
    BaseSummary,
    BundleDescription,
    BundleFile,
    NamedTensor,
    SiteGroup,
)
from adapter_export.inspection.tensors import Tensor, families, grouped
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.files import present, size_of
from adapter_export.reading.hashes import sha256


def describe_bundle(folder: Path) -> BundleDescription:
    """Describes a bundle. Raises InputError for a broken manifest."""
    manifest = read_manifest(folder)
    base = manifest.base
    return BundleDescription(
        path=folder,
        kind="bundle",
        manifest_sha256=sha256(folder / MANIFEST),
        mode=manifest.mode,
        task=manifest.task,
        dtype=manifest.dtype,
        quantize=manifest.quantize,
        fuse=manifest.fuse,
        bind=manifest.bind,
        contrib=manifest.contrib,
        opset=manifest.opset,
        labels=manifest.labels,
        problem_type=manifest.problem_type,
        project_version=manifest.project_version,
        base=BaseSummary(
            base.model_type,
            base.architecture,
            base.hidden_size,
            base.sha256,
            manifest.base_source,
            manifest.base_license,
        ),
        sites_total=len(manifest.sites),
        inputs=tuple(_boundary(name, info) for name, info in manifest.inputs.items()),
        outputs=tuple(_boundary(name, info) for name, info in manifest.outputs.items()),
        adapters=tuple(
            AdapterSummary(
                name=info.name,
                method=info.method,
                source_format=info.source_format,
                parameters=info.parameters,
                labels=info.labels,
                problem_type=info.problem_type,
                file=info.file,
                sha256=info.sha256 or None,
                source=info.source,
                license=info.license,
            )
            for info in manifest.adapters
        ),
        sites=_sites(manifest),
        tensors=grouped(Tensor(name, info.dtype, info.shape) for name, info in manifest.tensors.items()),
        files=_files(folder, manifest),
    )


def _boundary(name: str, info: TensorInfo) -> NamedTensor:
    return NamedTensor(name, info.dtype, info.shape)


def _sites(manifest: Manifest) -> tuple[SiteGroup, ...]:
    """Returns one entry for all sites with the same operator whose names differ in numbers only."""
    operators: dict[tuple[str, str | None, str], list[str]] = {}
    for site in manifest.sites:
        operators.setdefault((site.port, site.method, site.op_type), []).append(site.module)
    return tuple(
        SiteGroup(family, port, method, op_type)
        for (port, method, op_type), modules in operators.items()
        for family in families(modules)
    )


def _files(folder: Path, manifest: Manifest) -> tuple[BundleFile, ...]:
    result: list[BundleFile] = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not present(path):
            result.append(BundleFile(name, None, MISSING))
            continue
        status = OK if sha256(path, folder) == digest else CHANGED
        result.append(BundleFile(name, size_of(path, folder), status))
    others = unlisted(folder, manifest)
    return (*result, *(BundleFile(name, (folder / name).lstat().st_size, UNLISTED) for name in others))
