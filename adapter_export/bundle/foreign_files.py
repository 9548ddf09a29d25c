"""Adapter files of other tools, read for the graphs of this package and written from its bundles.

ONNX Runtime fixes the format of `.onnx_adapter` files, not the names of the tensors in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import (
    MAX_ADAPTER_BYTES,
    parse_adapter_file,
    read_adapter_file,
    write_adapter_file,
)
from adapter_export.bundle.manifest import ADAPTER_SUFFIX, AdapterInfo, Manifest, SiteRole, read_manifest
from adapter_export.checkpoints.codecs import codecs
from adapter_export.checkpoints.onnx_adapter import FORMAT, NamesCodec, Place
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.naming import tensor_name
from adapter_export.outputs.files import atomic_file, check_new_file
from adapter_export.reading.files import read_bytes
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import folder_of

# The dtypes of an adapter in the graphs of other tools.
_DTYPES = (DType.FLOAT32, DType.FLOAT16)


def is_adapter_file(path: str | Path) -> bool:
    """Returns whether a path is meant as an `.onnx_adapter` file, and not as the folder of a checkpoint."""
    return Path(path).suffix == ADAPTER_SUFFIX


def read_outside_file(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the tensors of an adapter file from outside of the bundle, by their names in the bundle's graph.

    Args:
        path: The `.onnx_adapter` file: of a bundle for the same base model, or of a tool in `tools()`.
        manifest: The manifest of the bundle.

    Raises:
        InputError: The file is broken or belongs to another base model; or another tool made it, and its matrices are
            quantized, or are for modules where the graph has no such adapter.
    """
    data = read_bytes(path, MAX_ADAPTER_BYTES, folder_of(path))
    tensors = parse_adapter_file(path, data).tensors(data)
    known = manifest.tensors
    if any(name in known for name in tensors):
        return parse_adapter_file(path, data, manifest.base.sha256).tensors(data)
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        place = _place(path, name, manifest)
        if place is None:
            # Not a name of another tool either. What the graph does not know is refused where tensors are checked.
            found[name] = tensor
            continue
        own = tensor_name(place.module, place.op_name, place.tensor)
        if own not in known:
            raise InputError(
                f"{path}: tensor {name!r}: the bundle's graph has no {place.op_name} adapter at module "
                f"{place.module!r}; it has: {_modules(manifest, place.op_name)}"
            )
        if own in found:
            raise InputError(f"{path}: tensor {name!r}: another tensor of the file is for the same place")
        found[own] = tensor
    return found


def describe_outside(name: str, tensors: Mapping[str, np.ndarray], manifest: Manifest) -> AdapterInfo:
    """Returns the manifest's entry of an adapter that came as a file, without its digest and its file.

    Raises:
        InputError: Its tensors are of several methods, which one entry cannot name; or it has a task head, whose class
            names such a file does not hold.
    """
    if any(site.role is SiteRole.HEAD and tensors.keys() & site.tensors for site in manifest.sites):
        raise InputError(f"adapter {name}: the file has a task head, and no class names; add the adapter's checkpoint")
    methods = {
        site.method for site in manifest.sites if site.role is SiteRole.ADAPTER and tensors.keys() & site.tensors
    }
    if len(methods) != 1:
        raise InputError(f"adapter {name}: expected tensors of one method, found {len(methods)}")
    parameters = sum(int(tensor.size) for tensor in tensors.values())
    return AdapterInfo(name, str(methods.pop()), FORMAT, "", parameters, None)


def tools() -> tuple[str, ...]:
    """Returns the tools whose names of tensors are known."""
    return tuple(dict.fromkeys(tool for module in codecs(FORMAT).values() for tool in module.TOOLS))


def extract_adapter(
    bundle: str | Path,
    adapter: str,
    output: str | Path,
    *,
    tool: str,
    dtype: str | None = None,
    force: bool = False,
) -> Path:
    """Writes an adapter of a bundle as a file for another tool's graph of the same base model.

    The values are those of the bundle: the scale of an adapter is multiplied in, as these tools expect it.

    Args:
        bundle: Folder of a bundle of mode swappable or bank.
        adapter: Name of the adapter.
        output: The `.onnx_adapter` file.
        tool: Whose names the tensors get: one of `tools()`.
        dtype: Data type of the tensors: `float32` or `float16`. None for that of the bundle.
        force: Whether to replace `output`.

    Returns:
        The path of the file.

    Raises:
        InputError: The bundle has no such adapter, or the tool's graphs have no place for a tensor.
        OutputExists: `output` exists, and `force` is False.
    """
    folder, path = existing_folder(bundle, "bundle"), Path(output)
    if tool not in tools():
        raise InputError(f"tool {tool!r}: expected one of {', '.join(tools())}")
    if path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: lies in the bundle; expected a file outside of it")
    check_new_file(path, "--output", force=force)
    manifest = read_manifest(folder)
    chosen = DType.parse(dtype, "dtype") if dtype is not None else manifest.dtype
    if chosen not in _DTYPES:
        raise InputError(f"dtype {chosen!r}: expected one of {', '.join(map(str, _DTYPES))}")
    info = manifest.adapter(adapter)
    if info.file is None:
        raise InputError(f"bundle {folder}: mode {manifest.mode!r} holds its adapter in the graph, not in a file")
    tensors = read_adapter_file(folder / info.file, manifest.base.sha256, info.sha256, root=folder)
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        renamed = {
            _foreign_name(adapter, name, tool, manifest): tensor.astype(chosen.numpy)
            for name, tensor in tensors.items()
        }
    if infinite := [name for name, tensor in renamed.items() if not np.isfinite(tensor).all()]:
        raise InputError(f"adapter {adapter}: tensor {infinite[0]!r}: has values that {chosen} cannot hold")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "adapter"
        write_adapter_file(file, renamed, "")
        atomic_file(path, file.read_bytes())
    return path


def _place(path: Path, name: str, manifest: Manifest) -> Place | None:
    for module in codecs(FORMAT).values():
        codec: NamesCodec = module
        try:
            if (place := codec.place(name, manifest.base)) is not None:
                return place
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return None


def _foreign_name(adapter: str, name: str, tool: str, manifest: Manifest) -> str:
    for site in manifest.sites:
        if name not in site.tensors:
            continue
        place = Place(site.module, site.op_name, name.rpartition(".")[2])
        for codec in codecs(FORMAT).values():
            if tool in codec.TOOLS and (found := codec.foreign_name(place, tool, manifest.base)) is not None:
                return str(found)
    raise InputError(f"adapter {adapter}: tensor {name!r}: graphs of {tool!r} have no place for it")


def _modules(manifest: Manifest, op_name: str) -> str:
    modules = [site.module for site in manifest.sites if site.op_name == op_name]
    shown = ", ".join(modules[:4]) + (", ..." if len(modules) > 4 else "")
    return shown or "none"
