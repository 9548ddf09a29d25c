"""What files that came from somewhere else hold: every failure is one InputError that names the file and the field."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.safetensors_file import read_safetensors
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.errors import InputError
from adapter_export.reading.files import decoded, open_file, present, read_bytes
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.shown import shortened

_CHUNK_BYTES = 1 << 20
# A checkpoint's config is small; anything larger is not one, and is not read into memory.
_MAX_JSON_BYTES = 64 << 20
# The dtypes of tensors that are read.
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
# Unknown fields that are named, of one file.
_MAX_UNKNOWN = 20


def existing_folder(path: str | Path, what: str) -> Path:
    """`path` as a Path if it is a folder; raises InputError otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{what} {folder}: expected a folder, found {found}")
    return folder


def read_json(path: Path, root: Path | None = None, expect_sha256: str | None = None) -> dict[str, Any]:
    """The JSON object in `path`; raises InputError when it is missing, broken, or no object. root: the folder that must
    hold the file; without, the one that `path` is in. expect_sha256: hex digest that its bytes must have."""
    data = read_bytes(path, _MAX_JSON_BYTES, root)
    if expect_sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != expect_sha256:
        raise InputError(f"{path}: expected the file with sha256 {expect_sha256}, found {found}")
    try:
        value = parse(decoded(path, data))
    except NotJson as error:
        raise InputError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """The same, or an empty object where nothing of that name is there."""
    return read_json(path) if present(path) else {}


def field(config: Mapping[str, Any], path: Path, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """config[name] checked to be of `kind`; `default` when absent (required without one). Raises InputError."""
    value = config.get(name, default)
    if value is ...:
        raise InputError(f"{path}: field {name!r} is missing")
    if value is default or isinstance(value, kind):
        return value
    expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    raise InputError(f"{path}: field {name!r}: expected {expected}, found {shortened(value)}")


def unknown_fields(config: Mapping[str, Any], file: str, kind: str, known: Collection[str]) -> tuple[str, ...]:
    """What to tell the user: fields that are set and not `known`; the library that reads the file ignores such."""
    unknown = sorted(name for name, value in config.items() if value and name not in known)
    told = [
        f"{file}: field {shortened(name)} is unknown for {kind} and has no effect (found {shortened(config[name])})"
        for name in unknown[:_MAX_UNKNOWN]
    ]
    if more := len(unknown) - len(told):
        told.append(f"{file}: {more:,} more fields are unknown for {kind} and have no effect")
    return tuple(told)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors or a .bin file as float32 (float64 stays); raises InputError for anything odd."""
    return {name: as_float(tensor) for name, tensor in read_stored(path).items()}


def read_stored(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors or a .bin file in the dtypes they have there, 16 to 64 bits of floating point.

    Of a .bin file tensors only are read, and no code is run, see `torch_file`. Raises InputError for anything odd.
    """
    tensors = _read_bin(path) if path.suffix == ".bin" else read_safetensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _FLOATS:
            raise InputError(f"{path}: tensor {name!r}: expected floating point, found {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name!r}: expected finite values, found NaN or infinity")
    return tensors


def as_float(tensor: np.ndarray) -> np.ndarray:
    """The same values in float32, or float64 where they are: exact for the half types."""
    return tensor if tensor.dtype == np.float64 else tensor.astype(np.float32)


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_torch_file(path)
    except NotTensors as error:
        raise InputError(f"{path}: {error}") from None


def sha256(path: Path, root: Path | None = None) -> str:
    """Hex digest of a file's bytes; raises InputError where it cannot be read. root: see `read_json`."""
    digest = hashlib.sha256()
    with open_file(path, root) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
