"""Checks for opening a bundle: its files, its precision, and that graph and manifest agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.bundle.adapter_file import check_tensors, read_adapter_file
from adapter_export.bundle.bank import rows_table
from adapter_export.bundle.graphs import LOGITS_TO_KEEP
from adapter_export.bundle.manifest import NO_ADAPTER_FILE, Manifest, TensorInfo, license_owner
from adapter_export.bundle.unlisted import unlisted
from adapter_export.errors import InputError, ProviderError
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.providers import Provider
from adapter_export.reading.files import present
from adapter_export.reading.hashes import sha256
from adapter_export.reading.shown import shortened

if TYPE_CHECKING:
    import onnxruntime as ort


def stamp_of(bundle: Path) -> tuple[int, ...] | None:
    """Returns numbers that change whenever the manifest does, because it is never written in place.

    None if there is no manifest.
    """
    try:
        found = (bundle / MANIFEST).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Checks that the bundle's files are those that the manifest lists.

    Adapters are checked when they are loaded. Files that the runtime does not require, such as a tokenizer, may be
    missing but not changed. License files of adapters are not checked: nothing reads them, and `add` may replace them
    at this moment.

    Raises:
        InputError: A file has another sha256, or a file of a graph is missing.
    """
    adapters = {info.file for info in manifest.adapters}
    for name, digest in manifest.files.items():
        path = bundle / name
        if name in adapters or license_owner(name) is not None:
            continue
        if present(path):
            if (found := sha256(path, bundle)) != digest:
                raise InputError(f"{path}: expected a file with sha256 {digest[:12]}..., found {found[:12]}...")
        elif name.startswith(tuple(manifest.graphs)):
            raise InputError(f"{path}: no such file, though the bundle's manifest lists it")


def check_digest(expected: str, verify: bool) -> None:
    """Checks the argument `expect_sha256` of a session.

    Raises:
        InputError: It is no digest, or `verify` is False, so that files would not be compared with the manifest.
    """
    if re.fullmatch("[0-9a-f]{64}", expected) is None:
        raise InputError(f"expect_sha256: expected 64 hexadecimal digits in lower case, found {shortened(expected)}")
    if not verify:
        raise InputError("expect_sha256: expected verify=True with it, found False, so that files would not be checked")


def check_nothing_else(bundle: Path, manifest: Manifest) -> None:
    """Checks that the folder contains the files that the manifest lists, and no others.

    Without this check a file that the manifest does not list, such as a chat template, would be read.

    Raises:
        InputError: A file is missing, or is not in the manifest.
    """
    if missing := [name for name in manifest.files if not present(bundle / name)]:
        raise InputError(f"{bundle / missing[0]}: no such file, though the bundle's manifest lists it")
    for name, digest in manifest.files.items():
        if license_owner(name) is not None and sha256(bundle / name, bundle) != digest:
            raise InputError(f"{bundle / name}: expected the file that the bundle's manifest lists, found another one")
    if others := unlisted(bundle, manifest):
        raise InputError(f"{bundle / others[0]}: expected only files that the bundle's manifest lists, found this one")


def check_dtype(manifest: Manifest, provider: Provider) -> None:
    """Raises ProviderError if the provider cannot compute in the bundle's dtype."""
    if manifest.dtype.needs_cuda and provider is not Provider.CUDA:
        raise ProviderError(
            "provider 'cpu': the bundle computes in bfloat16, for which ONNX Runtime's CPU provider has no operators; "
            "use provider 'cuda', or export with --dtype fp16 or fp32"
        )


def graphs_of(manifest: Manifest) -> tuple[Any, ...]:
    """Returns the parts of the manifest that must not change while a session has the bundle open."""
    return manifest.sites, manifest.base, {graph: manifest.files[graph] for graph in manifest.graphs}


def check_graph(bundle: Path, graph: str, manifest: Manifest, session: ort.InferenceSession) -> None:
    """Checks that a graph and the manifest have the same inputs, outputs and adapter tensors.

    Args:
        bundle: Folder of the bundle.
        graph: File name of the graph.
        manifest: The manifest of the bundle.
        session: The session of the graph.

    Raises:
        InputError: A name, dtype or shape differs.
    """
    overridable = {value.name for value in session.get_overridable_initializers()}
    inputs = {value.name for value in session.get_inputs()}
    bound = {*manifest.tensors} & inputs if manifest.bind.required else set()
    info = manifest.graphs[graph]
    kept, optional = {LOGITS_TO_KEEP} if info.logits_to_keep else set(), {LOGITS_TO_KEEP} & overridable
    for what, expected, found in (
        ("input", {*info.inputs} | bound | kept, inputs | optional),
        ("output", {*info.outputs}, {value.name for value in session.get_outputs()}),
        ("adapter tensor", _overridable(manifest, overridable), overridable - optional),
    ):
        if differing := expected ^ found:
            name = min(differing)
            reason = "the manifest lists, the graph lacks" if name in expected else "the manifest does not list"
            raise InputError(f"{bundle / graph}: {what} {name!r}: {reason}")
    # A bank has stacks of tensors, of which the manifest lists one row.
    tensors = {} if manifest.mode.per_row else manifest.tensors
    for what, declared, values in (
        ("input", {**info.inputs, **tensors}, session.get_inputs()),
        ("output", info.outputs, session.get_outputs()),
        ("adapter tensor", tensors, session.get_overridable_initializers()),
    ):
        for value in values:
            if (listed := declared.get(value.name)) is not None and not _fits(listed, value):
                shown = f"{listed.dtype} {list(listed.shape)}"
                raise InputError(
                    f"{bundle / graph}: {what} {value.name!r}: the manifest lists it as {shown}, the graph has "
                    f"{value.type} {value.shape}"
                )


def _fits(info: TensorInfo, value: Any) -> bool:
    """Returns whether a value of the graph has the dtype and rank of the manifest, and the same fixed dims."""
    dims = zip(info.shape, value.shape, strict=False)
    sizes = all(a == b for a, b in dims if isinstance(a, int) and isinstance(b, int))
    return value.type == info.dtype.onnxruntime and (len(info.shape) == len(value.shape) and sizes)


def _overridable(manifest: Manifest, found: set[str]) -> set[str]:
    """Returns the names that the manifest expects among the overridable initializers of a graph.

    Args:
        manifest: The manifest of the bundle.
        found: The overridable initializers of the graph.
    """
    if manifest.mode.in_graph or manifest.bind.required:
        return set()
    if not manifest.mode.per_row:
        return {*manifest.tensors}
    # With several graphs, each has the tensors of its own sites.
    sites = [site for site in manifest.sites if len(manifest.graphs) == 1 or {*site.tensors} & found]
    return {name for site in sites for name in (*site.tensors, rows_table(site.op_name))}


def read_no_adapter(bundle: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the tensors of no adapter that are not in the graph, by name.

    Only two sorts of bundles have such tensors: a bank of a base model with a task head, and a bundle whose adapter
    tensors are required inputs.

    Raises:
        InputError: The file is missing, or not the one that the manifest lists.
    """
    if NO_ADAPTER_FILE not in manifest.files:
        return {}
    tensors = read_adapter_file(bundle / NO_ADAPTER_FILE, manifest.base.sha256, manifest.files[NO_ADAPTER_FILE])
    # A head without labels has empty tensors. `check_tensors` refuses these, because those of an adapter may not be
    # empty.
    filled = {name: tensor for name, tensor in tensors.items() if tensor.size}
    check_tensors(str(bundle / NO_ADAPTER_FILE), filled, manifest.tensors)
    return tensors
