"""Reads records: files with inputs and the outputs that the library of an adapter computes for them. Without torch.

`recording` describes the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import AdapterInfo, Manifest
from adapter_export.errors import InputError
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.recording.recorder import EXACT, FORMAT, FORMAT_VERSION, ROUNDED
from adapter_export.parity.references.npy_file import NotArray, parse_npy
from adapter_export.reading.archives import BadArchive, read_archive
from adapter_export.reading.fields import field
from adapter_export.reading.files import open_file
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.links import folder_of
from adapter_export.reading.shown import shortened

# Largest size of an unpacked record in bytes. Without a limit a file from an untrusted source could fill the memory.
_MAX_BYTES = 8 << 30
_STATES = ("on", "off")
_PADDINGS = ("none", "left", "right")


@dataclass(frozen=True)
class RecordedCase(ParityCase):
    """One case of a record.

    Attributes:
        key: Name of the case in the file.
        adapter: Name of the adapter.
    """

    key: str = ""
    adapter: str = ""

    @property
    def name(self) -> str:
        return f"{super().name} recorded"


@dataclass(frozen=True)
class Record:
    """The contents of a record.

    Attributes:
        path: The file.
        witness: Name and version of the library that computed the outputs.
        versions: Versions of Python and of the libraries involved.
        base_sha256: sha256 of the base model's weights.
        adapter_sha256: sha256 of the checkpoint.
        class_name: Class of the model that was run.
        labels: Class names of the adapter's task head; None if the classes have no names.
        kinds: For each precision: None if its outputs were recorded, else the reason why they were not.
        cases: Cases by their names in the file.
        arrays: All arrays of the file by name.
    """

    path: Path
    witness: str
    versions: Mapping[str, str]
    base_sha256: str
    adapter_sha256: str
    class_name: str
    labels: tuple[str, ...] | None
    kinds: Mapping[str, str | None]
    cases: Mapping[str, RecordedCase]
    arrays: Mapping[str, np.ndarray]

    def inputs(self, case: RecordedCase) -> dict[str, np.ndarray]:
        """Returns the recorded inputs of a case, by name."""
        return self._named(f"{case.key}/input/")

    def outputs(self, case: RecordedCase, state: str, kind: str = EXACT) -> dict[str, np.ndarray]:
        """Returns the recorded outputs of a case, without nested outputs.

        Args:
            case: A case of this record.
            state: `on` or `off`.
            kind: Precision, see `recording`.

        Returns:
            Arrays by output. Empty if nothing was recorded in this precision.
        """
        outputs = self._named(f"{case.key}/{state}/{kind}/")
        return {name: array for name, array in outputs.items() if not is_nested(name)}

    def _named(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}


def is_nested(output: str) -> bool:
    """Returns whether this output is nested in another one, as those of CLIP's two models are.

    Nested outputs are not compared: transformers 4 and 5 use the same names for different tensors.
    """
    return "." in output


def read_record(path: str | Path, adapter: str) -> Record:
    """Reads the record of an adapter.

    Args:
        path: The file.
        adapter: Name of the adapter in the bundle.

    Raises:
        InputError: The file is not a complete record.
    """
    path = Path(path)
    arrays = read_arrays(path, "a record (.npz)")
    record = _parse(path, adapter, _read_meta(path, arrays.pop("meta", None)), arrays)
    _check_complete(record)
    return record


def read_arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.npz` file, by name.

    Args:
        path: The file.
        what: What the file must be, for error messages.

    Raises:
        InputError: The file cannot be read, or is damaged.
    """
    with open_file(path, folder_of(path)) as content:
        try:
            files = read_archive(content, _MAX_BYTES, deflated=True)
        except BadArchive as error:
            raise InputError(f"{path}: expected {what}, found: {error}") from None
    arrays: dict[str, np.ndarray] = {}
    for file in list(files):
        try:
            arrays[file.removesuffix(".npy")] = parse_npy(files.pop(file))
        except NotArray as error:
            raise InputError(f"{path}: expected {what}, found: {file[:100]!r}: {error}") from None
    return arrays


def check_record(record: Record, manifest: Manifest, info: AdapterInfo) -> None:
    """Raises InputError if the record was made with another base model or another checkpoint than the bundle."""
    if record.base_sha256 != manifest.base.sha256:
        raise InputError(
            f"{record.path}: was recorded with a base model of weights {record.base_sha256[:12]}..., but the bundle "
            f"was made from {manifest.base.sha256[:12]}..."
        )
    if info.source_sha256 is not None and record.adapter_sha256 != info.source_sha256:
        raise InputError(
            f"{record.path}: was recorded with a checkpoint {record.adapter_sha256[:12]}..., but adapter "
            f"{info.name!r} of the bundle was made from {info.source_sha256[:12]}...; record it again"
        )


def _read_meta(path: Path, meta: Any) -> dict[str, Any]:
    """Returns the JSON object in the array `meta`."""
    try:
        about = parse(str(meta)) if meta is not None else None
    except NotJson:
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{path}: expected a record, which has 'meta' with format {FORMAT!r}; found none")
    if about.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: field 'format_version': expected {FORMAT_VERSION}, found {about.get('format_version')!r}; record "
            "it again with the script of this version (adapter-export reference --script)"
        )
    return about


def _parse(path: Path, adapter: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Record:
    where = Path(f"{path}: 'meta'")
    cases = {}
    for item in field(about, where, "cases", list):
        if not isinstance(item, dict):
            raise InputError(f"{where}: field 'cases': expected objects, found {shortened(item)}")
        key, padding = field(item, where, "name", str), field(item, where, "padding", str)
        rows, length = (field(item, where, size, int) for size in ("rows", "length"))
        if padding not in _PADDINGS:
            expected = ", ".join(_PADDINGS)
            raise InputError(f"{where}: field 'padding': expected one of {expected}, found {shortened(padding)}")
        cases[key] = RecordedCase(rows, length, padding, key, adapter)
    labels = field(about, where, "labels", list, None)
    return Record(
        path=path,
        witness=field(about, where, "witness", str),
        versions=_texts(about, where, "versions"),
        base_sha256=field(about, where, "base_sha256", str),
        adapter_sha256=field(about, where, "adapter_sha256", str),
        class_name=field(about, where, "class", str),
        labels=None if labels is None else tuple(str(label) for label in labels),
        kinds=_texts(about, where, "kinds"),
        cases=cases,
        arrays=arrays,
    )


def _texts(about: Mapping[str, Any], where: Path, name: str) -> dict[str, Any]:
    """Returns a field whose values are strings or null."""
    values: dict[str, Any] = field(about, where, name, dict)
    for value in values.values():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: field {name!r}: expected texts, found {shortened(value)}")
    return values


def _check_complete(record: Record) -> None:
    """Checks that every case has inputs and outputs, and that lower precisions have the same outputs as float64."""
    if not record.cases:
        raise InputError(f"{record.path}: expected cases, found none")
    for key, case in record.cases.items():
        rows = {len(value) if value.ndim else 0 for value in record.inputs(case).values()}
        if not rows:
            raise InputError(f"{record.path}: case {key}: expected inputs, found none")
        for state in _STATES:
            exact = record.outputs(case, state)
            if not exact:
                raise InputError(f"{record.path}: case {key}: expected outputs {state!r} in float64, found none")
            for kind in (kind for kind, why in record.kinds.items() if why is None):
                for name in (kind, kind + ROUNDED):
                    shapes = {output: array.shape for output, array in record.outputs(case, state, name).items()}
                    if shapes != {output: array.shape for output, array in exact.items()}:
                        raise InputError(
                            f"{record.path}: case {key}: outputs {state!r} in {name}: expected those of float64, found "
                            f"{shapes or 'none'}"
                        )
