"""Adapters as ONNX Runtime's `.onnx_adapter` files: tensors by their names in the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_format import AdapterContent, BrokenAdapter, parse_adapter
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.bundle.ort_values import ort_value
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.errors import InputError
from adapter_export.naming import HEAD_OP, tensor_name
from adapter_export.reading.files import read_bytes

# The file's own version fields: ours, and a fingerprint of the base model's weights (31 bits of its sha256), so that a
# bare file without a manifest still tells which model it belongs to.
_ADAPTER_VERSION = 1
_FINGERPRINT_HEX_DIGITS = 8
_FINGERPRINT_MASK = 0x7FFFFFFF
# As FlatBuffers: their offsets reach no further.
MAX_ADAPTER_BYTES = 2 << 30


def fingerprint(base_sha256: str) -> int:
    """31 bits of the base model's digest; 0 where it is unknown."""
    return int(base_sha256[:_FINGERPRINT_HEX_DIGITS] or "0", 16) & _FINGERPRINT_MASK


def adapter_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """The adapter's tensors by their names in the graph: those of its sites, and those of its task head."""
    return {name: tensor for tensors in tensors_by_operator(adapter).values() for name, tensor in tensors.items()}


def tensors_by_operator(adapter: Adapter) -> dict[str, dict[str, np.ndarray]]:
    """The same, by the `op_name` of the operator that they belong to; `head` for the task head."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for site, site_adapter in adapter.sites.items():
        op_name = site_adapter.operator.op_name
        tensors = found.setdefault(op_name, {})
        tensors |= {tensor_name(site.name, op_name, name): value for name, value in site_adapter.tensors.items()}
    for module, layer in adapter.head.items():
        if module != LM_HEAD:
            bias = np.zeros(layer.weight.shape[0], layer.weight.dtype) if layer.bias is None else layer.bias
            tensors = found.setdefault(HEAD_OP, {})
            tensors |= {
                tensor_name(module, HEAD_OP, "weight"): layer.weight,
                tensor_name(module, HEAD_OP, "bias"): bias,
            }
    return found


def check_adapter(what: str, tensors: Mapping[str, np.ndarray], manifest: Manifest) -> None:
    """Raise InputError unless the tensors are an adapter of the manifest's graph: see `check_tensors`, and a task head
    whole or not at all, and whole where the base model has none of its own.

    Sites may be left out, as adapters leave out layers; no check can tell such a one from one that lost them.
    """
    if not tensors:
        raise InputError(f"{what}: expected tensors, found none")
    check_tensors(what, tensors, manifest.tensors)
    head = [name for site in manifest.heads for name in site.tensors]
    absent = [name for name in head if name not in tensors]
    if absent and (manifest.labels is None or len(absent) < len(head)):
        found = "none" if len(absent) == len(head) else f"no {absent[0]!r}"
        reason = ", as the base model has none" if manifest.labels is None else ""
        raise InputError(f"{what}: expected a task head ({manifest.task}){reason}; found {found}")


def check_tensors(what: str, tensors: Mapping[str, np.ndarray], expected: Mapping[str, TensorInfo]) -> None:
    """Raise InputError unless every tensor is one of the graph's, with its dtype and its fixed dims, finite, not empty.

    Named dims must agree among the tensors that share them. Tensors of other sites may be absent: there the adapter
    does nothing. A site is filled whole or not at all.
    """
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if (info := expected.get(name)) is None:
            raise InputError(f"{what}: tensor {name!r}: the graph has no such tensor")
        if tensor.dtype.name != info.dtype:
            raise InputError(f"{what}: tensor {name!r}: expected {info.dtype}, found {tensor.dtype}")
        fits = len(tensor.shape) == len(info.shape) and all(
            size == dim if isinstance(dim, int) else size > 0 and sizes.setdefault(dim, size) == size
            for size, dim in zip(tensor.shape, info.shape, strict=True)
        )
        if not fits:
            known = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in info.shape]
            raise InputError(f"{what}: tensor {name!r}: expected shape {known}, found {list(tensor.shape)}")
        if not np.isfinite(tensor).all():
            raise InputError(f"{what}: tensor {name!r}: expected finite values, found NaN or infinity")
    filled = {name.rpartition(".")[0] for name in tensors}
    if missing := [name for name in expected if name.rpartition(".")[0] in filled and name not in tensors]:
        raise InputError(f"{what}: tensor {missing[0]!r} is missing")


def write_adapter_file(path: Path, tensors: Mapping[str, np.ndarray], base_sha256: str) -> None:
    """Write the file and read it back: the writer does not report a full disk. Raises OSError when it is not whole."""
    import onnxruntime as ort

    # The arrays must live until the file is written: the format object keeps no reference to them.
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    file = ort.AdapterFormat()
    file.set_adapter_version(_ADAPTER_VERSION)
    file.set_model_version(fingerprint(base_sha256))
    file.set_parameters({name: ort_value(array) for name, array in arrays.items()})
    try:
        file.export_adapter(str(path))
        written = read_adapter_file(path)
    except (InputError, RuntimeError) as error:
        raise OSError(f"{path}: could not be written whole: {error}") from error
    if {name: tensor.tobytes() for name, tensor in written.items()} != {n: a.tobytes() for n, a in arrays.items()}:
        raise OSError(f"{path}: could not be written whole: what was read back differs")


def read_adapter_file(
    path: str | Path, base_sha256: str = "", sha256: str = "", root: Path | None = None
) -> dict[str, np.ndarray]:
    """All tensors of the file, read-only; a file written over later does not change them.

    Raises InputError for a missing or broken file, one of another base model, and, where `sha256` tells the digest it
    must have, one with another. Without a digest a changed number in it cannot be seen. root: the folder that must hold
    the file; without, the one that it is in.
    """
    path = Path(path)
    data = read_bytes(path, MAX_ADAPTER_BYTES, root)
    return parse_adapter_file(path, data, base_sha256, sha256).tensors(data)


def parse_adapter_file(path: Path, data: bytes, base_sha256: str = "", sha256: str = "") -> AdapterContent:
    """As `read_adapter_file`, of the file's bytes in memory."""
    if sha256 and (digest := hashlib.sha256(data).hexdigest()) != sha256:
        raise InputError(f"{path}: expected a file with sha256 {sha256[:12]}..., found {digest[:12]}...")
    try:
        content = parse_adapter(data)
    except BrokenAdapter as error:
        raise InputError(f"{path}: not a readable .onnx_adapter file: {error}") from None
    expected, found = fingerprint(base_sha256), content.model_version & _FINGERPRINT_MASK
    if expected and found and expected != found:
        raise InputError(
            f"{path}: belongs to another base model (fingerprint {found:#010x}, expected {expected:#010x})"
        )
    return content
