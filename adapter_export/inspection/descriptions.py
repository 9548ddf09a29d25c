"""What `inspect` returns: one class for each kind of path, and the JSON object of each.

A field with a default is one that not every path of its kind has; the JSON object leaves it out where it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NamedTensor:
    """A tensor that a graph takes or gives.

    Attributes:
        name: Its name in the graph.
        dtype: Name of a numpy dtype.
        shape: Sizes, and names for those that may differ between runs.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one shape and dtype whose names differ in numbers only.

    Attributes:
        name: Their common name, with ranges in the place of the numbers: `layer.{0-5}.output`.
        count: How many they are.
        dtype: Their dtype, as the file calls it.
        shape: Sizes, and names for those that adapters may differ in.
        parameters: Number of values of all of them; None where a size is a name.
    """

    name: str
    count: int
    dtype: str
    shape: tuple[int | str, ...]
    parameters: int | None


@dataclass(frozen=True)
class SiteGroup:
    """Sites with the same operator whose modules differ in numbers only; `modules` is as the name of a TensorGroup."""

    modules: str
    port: str
    method: str | None
    operator: str


@dataclass(frozen=True)
class BundleFile:
    """A file in a bundle's folder.

    Attributes:
        file: Its path in the bundle, with forward slashes.
        bytes: Its size; None where it is missing.
        status: `ok`, `changed` or `missing` against the manifest, or `not listed` there.
    """

    file: str
    bytes: int | None
    status: str


@dataclass(frozen=True)
class WeightFile:
    """A tensor file of a model or an adapter: its name, its size in bytes and its sha256."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExternalFile:
    """A file with tensors of a graph: its path, how many tensors it holds, and its size in bytes, None if missing."""

    file: str
    tensors: int
    bytes: int | None


@dataclass(frozen=True)
class OperatorCount:
    """How many nodes of a graph have this operator."""

    domain: str
    operator: str
    count: int


@dataclass(frozen=True)
class BaseSummary:
    """The base model of a bundle; `sha256` is that of its weights.

    Attributes:
        source: `org/name@commit` on the Hugging Face hub; None for a folder.
        license: The license that its README.md states; None if it states none.
    """

    model_type: str
    architecture: str
    hidden_size: int
    sha256: str
    source: str | None
    license: str | None


@dataclass(frozen=True)
class AdapterSummary:
    """An adapter of a bundle.

    Attributes:
        name: Its name in the bundle.
        method: `ia3` or `bottleneck`.
        source_format: Format of the checkpoint it was made from.
        parameters: Number of its values.
        labels: Class names of its task head; None without one.
        problem_type: What the numbers of its task head mean; None without one.
        file: Its path in the bundle; None for an adapter inside the graph.
        sha256: Of that file; None without one.
        source: `org/name@commit` on the Hugging Face hub; None for a folder.
        license: The license that its README.md states; None if it states none.
    """

    name: str
    method: str
    source_format: str
    parameters: int
    labels: tuple[str, ...] | None
    problem_type: str | None
    file: str | None
    sha256: str | None
    source: str | None
    license: str | None


@dataclass(frozen=True)
class MergedAdapter:
    """An entry of a merged model's receipt; a field is None where the receipt does not have it.

    Attributes:
        name: Name of the adapter's folder.
        method: Its method.
        source_format: Format of its checkpoint.
        adapter_sha256: Of its tensor file.
        base_sha256: Of the weights it was merged into.
        adapter_license: The license that its README.md stated.
        base_license: The license that README.md of the base model stated.
        dtype: Dtypes of the tensors it changed.
        head: Names of the tensors of its task head.
        project_version: Version of this package that merged it.
        changed: Names of the tensors it changed, those that differ in numbers only as one.
    """

    name: Any
    method: Any
    source_format: Any
    adapter_sha256: Any
    base_sha256: Any
    adapter_license: Any
    base_license: Any
    dtype: Any
    head: Any
    project_version: Any
    changed: tuple[str, ...] | None


@dataclass(frozen=True)
class ModelBeside:
    """A base model that lies in the folder of an adapter."""

    model_type: Any
    architectures: Any
    task: str | None
    weights_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a path holds.

    Attributes:
        path: The path as it was given.
        kind: What it is, in words.
    """

    path: Path
    kind: str


@dataclass(frozen=True, kw_only=True)
class BundleDescription(Description):
    """A bundle, by its manifest (see `Manifest`) and its files.

    Attributes:
        manifest_sha256: Digest of manifest.json, which `AdapterSession(expect_sha256=)` takes.
        sites_total: How many sites the graphs have.
        inputs: What the graph takes, without the tensors of adapters.
        outputs: What the graph gives.
        tensors: Tensors of adapters.
        files: Every file of the folder; those that the manifest does not list come last.
    """

    manifest_sha256: str
    mode: str
    task: str
    dtype: str
    quantize: str
    fuse: str
    bind: str
    contrib: tuple[str, ...]
    opset: int
    labels: tuple[str, ...] | None
    problem_type: str | None
    project_version: str
    base: BaseSummary
    sites_total: int
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    adapters: tuple[AdapterSummary, ...]
    sites: tuple[SiteGroup, ...]
    tensors: tuple[TensorGroup, ...]
    files: tuple[BundleFile, ...]

    @property
    def faulty(self) -> tuple[BundleFile, ...]:
        """Files that the manifest lists and that are changed or missing."""
        return tuple(item for item in self.files if item.status in (CHANGED, MISSING))


@dataclass(frozen=True, kw_only=True)
class AdapterDescription(Description):
    """A checkpoint of an adapter, also one of a method that this package cannot load.

    Attributes:
        format: `peft`, `adapterhub`, or the project's own.
        method: What the checkpoint calls it.
        base_model: Name or path of the base model, as the checkpoint has it.
        task: What its task head is for; None where nothing tells.
        labels: Class names of its task head.
        problem_type: What the numbers of its task head mean.
        settings: Settings of its config that are worth a line.
        notes: What of its config this package does not read; PEFT's only.
        base_sha256: Of the weights of the base model it was trained on.
        parameters: Number of its values; None for .bin files.
        files: Its tensor files.
        tensors: Its tensors; None for .bin files.
        note: Why there are no tensors.
        model_beside: A base model in the same folder.
        license: The license that its README.md states; None if it states none.
    """

    format: str
    method: str
    base_model: Any
    task: Any
    labels: tuple[Any, ...] | None
    problem_type: Any
    settings: Mapping[str, Any]
    notes: tuple[str, ...] | None = None
    base_sha256: Any = None
    parameters: int | None = None
    files: tuple[WeightFile, ...]
    tensors: tuple[TensorGroup, ...] | None = None
    note: str | None = None
    model_beside: ModelBeside | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelDescription(Description):
    """A model folder, and what was merged into it.

    Attributes:
        model_type: As its config says.
        architectures: As its config says.
        task: What its task head is for.
        settings: Settings of its config that are worth a line.
        weights_sha256: Digest of its weights; None where they are of a kind that is not read.
        license: The license that its README.md states; None if it states none.
        note: What keeps it from an export, or why there are no tensors.
        merged: The receipt of what was merged; None for a base model.
        parameters: Number of its values; None for .bin files.
        files: Its tensor files.
        tensors: Its tensors; None for .bin files.
    """

    model_type: Any
    architectures: Any
    task: str | None
    settings: Mapping[str, Any]
    weights_sha256: str | None = None
    license: str | None = None
    note: str | None = None
    merged: tuple[MergedAdapter, ...] | None = None
    parameters: int | None = None
    files: tuple[WeightFile, ...]
    tensors: tuple[TensorGroup, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AdapterFileDescription(Description):
    """An .onnx_adapter file.

    Attributes:
        bytes: Its size.
        sha256: Its digest.
        adapter_version: Version of the adapter, a number in the file.
        base_fingerprint: Beginning of the sha256 of the base model's weights, as the file has it.
        parameters: Number of its values.
        tensors: Its tensors.
    """

    bytes: int
    sha256: str
    adapter_version: int
    base_fingerprint: str
    parameters: int | None
    tensors: tuple[TensorGroup, ...]


@dataclass(frozen=True, kw_only=True)
class OnnxDescription(Description):
    """An .onnx file.

    Attributes:
        bytes: Size of the file, without its external data.
        sha256: Digest of the file.
        ir_version: Version of ONNX's format.
        opsets: Version by domain.
        producer: Name of the program that wrote it.
        nodes: Number of nodes.
        parameters: Number of values of its initializers.
        inputs: What a run has to be given.
        outputs: What a run gives.
        operators: The most frequent first.
        functions: Names of the functions that it defines.
        external_data: Files with its tensors.
        overridable_initializers: Tensors that a run may replace.
    """

    bytes: int
    sha256: str
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    nodes: int
    parameters: int
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    operators: tuple[OperatorCount, ...]
    functions: tuple[str, ...]
    external_data: tuple[ExternalFile, ...]
    overridable_initializers: tuple[TensorGroup, ...]


# What a file of a bundle can be, against the manifest.
OK, CHANGED, MISSING, UNLISTED = "ok", "changed", "missing", "not listed"


def as_dict(description: Description) -> dict[str, Any]:
    """The JSON object of a description."""
    found: dict[str, Any] = _plain(description)
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        given = {item.name: getattr(value, item.name) for item in fields(value)}
        optional = {item.name for item in fields(value) if item.default is None}
        return {name: _plain(item) for name, item in given.items() if item is not None or name not in optional}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
