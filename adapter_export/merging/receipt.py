"""The receipt in a merged model's folder, `adapter_export.json`: what was merged into what, by hashes.

{"merged": [{"name": "topics", "method": "ia3", "source_format": "peft", "adapter_sha256": ..., "tensors_sha256": ...,
             "base_sha256": ..., "dtype": ["float16"], "changed": [...], "head": ["classifier"],
             "adapter_license": "mit", "base_license": null, "project_version": "0.1.0"}, ...],
 "card": true, "files": [...]}

`card`: README.md is the model card that the merge wrote. `files`: all other files of the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging.piecewise import TensorChange
from adapter_export.merging.rounding import NAMES
from adapter_export.outputs.ownership import SIDECAR
from adapter_export.reading.files import present
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import optional_json

_TENSOR_FILES = ("adapter_model.safetensors", "adapter.safetensors", "adapter_model.bin", "pytorch_adapter.bin")


@dataclass(frozen=True)
class Identity:
    """Identifies an adapter.

    Attributes:
        name: Its name.
        file: Digest of its tensor file.
        tensors: Digest of its sites and values. It stays the same when the adapter is written again by another library
            or in another format.
    """

    name: str
    file: str
    tensors: str


def identify(folder: Path, adapter: Adapter) -> Identity:
    """Returns the identity of an adapter that was read from `folder`."""
    path = next((folder / name for name in _TENSOR_FILES if present(folder / name)), None)
    if path is None:
        raise InputError(f"adapter {folder}: expected a tensor file, found none")
    digest = hashlib.sha256()
    for site, site_adapter in sorted(adapter.sites.items()):
        for name, tensor in sorted(site_adapter.effective.items()):
            digest.update(f"{site.name}.{site_adapter.operator.op_name}.{name}{tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor, "<f8").tobytes())
    return Identity(folder.resolve().name, sha256(path), digest.hexdigest())


def read_receipt(folder: Path) -> list[dict[str, Any]]:
    """Returns the entries of the receipt in `folder`, oldest first; none without a receipt. Raises InputError for a
    broken one.
    """
    path = folder / SIDECAR
    merged = optional_json(path).get("merged", [])
    if not isinstance(merged, list) or not all(isinstance(item, dict) for item in merged):
        raise InputError(f"{path}: field 'merged': expected a list of objects, found {str(merged)[:100]!r}")
    return merged


def refuse_repeated(folder: Path, receipt: Iterable[Mapping[str, Any]], identities: Sequence[Identity]) -> None:
    """Raises CannotMerge if one of the adapters is already merged into the model, or is given twice."""
    for item in receipt:
        for one in identities:
            if one.file == item.get("adapter_sha256") or one.tensors == item.get("tensors_sha256"):
                raise CannotMerge(
                    f"model {folder}: {SIDECAR} says that this adapter is already merged into it: {one.name}"
                )
    seen: dict[str, str] = {}
    for one in identities:
        if one.tensors in seen:
            raise CannotMerge(f"adapters {seen[one.tensors]} and {one.name} are the same; merge it once")
        seen[one.tensors] = one.name


def entry(
    identity: Identity,
    adapter: Adapter,
    base_sha256: str,
    changes: Mapping[str, TensorChange],
    base_source: str | None = None,
    base_license: str | None = None,
) -> dict[str, Any]:
    """Returns the receipt's entry of one adapter.

    Args:
        identity: The adapter's identity.
        adapter: The adapter.
        base_sha256: Digest of the base model's weights.
        changes: The changes that the adapter is part of, by their names in the output.
        base_source: `org/name@commit` of a base model from the Hugging Face hub, or None.
        base_license: The license that the base model states; None if it states none.
    """
    return {
        "name": identity.name,
        "method": adapter.method,
        "source_format": adapter.source_format,
        "adapter_sha256": identity.file,
        "tensors_sha256": identity.tensors,
        "base_sha256": base_sha256,
        "dtype": sorted({NAMES[change.dtype] for change in changes.values()}),
        "changed": list(changes),
        "head": list(adapter.head),
        # As README.md states them; null for none.
        "adapter_license": adapter.license,
        "base_license": base_license,
        "project_version": version("adapter-export"),
        # `org/name@commit` of a base model and an adapter from the Hugging Face hub.
        **({"adapter_source": adapter.source} if adapter.source else {}),
        **({"base_source": base_source} if base_source else {}),
    }
