"""A bundle's manifest: what the exported folder holds, written last; without it the folder is no bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adapter_export.bundle.layout import write_json
from adapter_export.checkpoints.files import existing_folder, read_json
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import check_adapter_name

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
ADAPTERS = "adapters"
ADAPTER_SUFFIX = ".onnx_adapter"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor at the graph's boundary. shape: ints, and names for dims that may differ (`batch`, `num_labels`)."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class SiteInfo:
    """One adapted place of the graph. tensors: by full name, each with its shape, dtype and the value of no adapter.

    A `default` of None means that the tensor's default is not one repeated value (the base model's own task head).
    """

    module: str
    port: str
    op_type: str
    method: str
    tensors: Mapping[str, TensorInfo]
    default: float | None


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of the bundle. labels: class names of its task head, None without one. slot: its place in a bank."""

    name: str
    method: str
    source_format: str
    sha256: str
    parameters: int
    labels: tuple[str, ...] | None = None
    slot: int | None = None

    @property
    def file(self) -> str:
        """Path in the bundle, with forward slashes."""
        return f"{ADAPTERS}/{self.name}{ADAPTER_SUFFIX}"


@dataclass(frozen=True)
class Manifest:
    """The whole of it. dtype: of weights and adapters. labels: class names of the base model's own head, None without.

    files: sha256 of every other file of the bundle by its path. adapters: in the order they were added; in modes
    merged and embedded the one adapter lives inside the graph and has no file.
    """

    project_version: str
    mode: str
    task: str
    dtype: str
    opset: int
    base: ModelInfo
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    sites: tuple[SiteInfo, ...]
    adapters: tuple[AdapterInfo, ...]
    files: Mapping[str, str]
    labels: tuple[str, ...] | None = None
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """All adapter tensors of the graph by name."""
        return {name: info for site in self.sites for name, info in site.tensors.items()}

    def adapter(self, name: str) -> AdapterInfo:
        """The adapter called `name`; raises InputError naming the known ones."""
        for info in self.adapters:
            if info.name == name:
                return info
        known = ", ".join(info.name for info in self.adapters) or "none"
        raise InputError(f"adapter {name!r}: not in the bundle (it has: {known})")

    def with_adapter(self, adapter: AdapterInfo) -> Manifest:
        """The same manifest with `adapter` added, or put in the place of the one of its name."""
        others = tuple(info for info in self.adapters if info.name != adapter.name)
        return replace(self, adapters=(*others, adapter), files={**self.files, adapter.file: adapter.sha256})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the bundle, whole or not at all."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a bundle folder. Raises InputError for a folder that is no bundle or a broken manifest."""
    folder = existing_folder(path, "bundle")
    file = folder / MANIFEST
    if not file.exists():
        raise InputError(f"bundle {folder}: expected {MANIFEST}, found none; the folder is not a bundle")
    value = read_json(file)
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{file}: field 'format_version': expected {FORMAT_VERSION}, found {version!r}")
    try:
        return _parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: not a manifest of this format: {type(error).__name__}: {error}") from None


def _parse(value: dict[str, Any]) -> Manifest:
    def tensors(items: dict[str, Any]) -> dict[str, TensorInfo]:
        return {name: TensorInfo(item["dtype"], tuple(item["shape"])) for name, item in items.items()}

    def labels(items: list[str] | None) -> tuple[str, ...] | None:
        return None if items is None else tuple(items)

    base = dict(value["base"])
    return Manifest(
        **{
            **value,
            "base": ModelInfo(**{**base, "head": tuple(base["head"])}),
            "inputs": tensors(value["inputs"]),
            "outputs": tensors(value["outputs"]),
            "sites": tuple(SiteInfo(**{**site, "tensors": tensors(site["tensors"])}) for site in value["sites"]),
            "adapters": tuple(
                AdapterInfo(**{**item, "name": check_adapter_name(item["name"]), "labels": labels(item["labels"])})
                for item in value["adapters"]
            ),
            "labels": labels(value["labels"]),
        }
    )
