"""Reading files that came from somewhere else: every failure is one InputError that names the file and the field."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.errors import InputError

_CHUNK_BYTES = 1 << 20
# A checkpoint's config is small; anything larger is not one, and is not read into memory.
_MAX_JSON_BYTES = 64 << 20
# The dtypes of tensors that are read.
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
# Characters of a wrong value that an error message shows.
_MAX_SHOWN = 200


def existing_folder(path: str | Path, what: str) -> Path:
    """`path` as a Path if it is a folder; raises InputError otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{what} {folder}: expected a folder, found {found}")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises InputError when it is missing, broken, or no object."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{path}: expected a JSON file below {_MAX_JSON_BYTES >> 20} MiB, found a larger file")
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # broken syntax or encoding, nested too deep, or a number too long
        raise InputError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: readers disagree on which of two they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return value


def field(config: Mapping[str, Any], path: Path, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """config[name] checked to be of `kind`; `default` when absent (required without one). Raises InputError."""
    value = config.get(name, default)
    if value is ...:
        raise InputError(f"{path}: field {name!r} is missing")
    if value is default or isinstance(value, kind):
        return value
    expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    raise InputError(f"{path}: field {name!r}: expected {expected}, found {shortened(value)}")


def shortened(value: object) -> str:
    """`value` as an error message shows it: in one line of bounded length, however long or deep it is."""
    text = reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors or a .bin file as float32 (float64 stays); raises InputError for anything odd."""
    return {name: as_float(tensor) for name, tensor in read_stored(path).items()}


def read_stored(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors or a .bin file in the dtypes they have there, 16 to 64 bits of floating point.

    Of a .bin file tensors only are read, and no code is run, see `torch_file`. Raises InputError for anything odd.
    """
    tensors = _read_bin(path) if path.suffix == ".bin" else _read_safetensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _FLOATS:
            raise InputError(f"{path}: tensor {name!r}: expected floating point, found {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name!r}: expected finite values, found NaN or infinity")
    return tensors


def as_float(tensor: np.ndarray) -> np.ndarray:
    """The same values in float32, or float64 where they are: exact for the half types."""
    return tensor if tensor.dtype == np.float64 else tensor.astype(np.float32)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    read_header(path)
    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {_one_line(error)}") from None
    except AttributeError as error:  # how the library meets a type that numpy has not
        raise InputError(f"{path}: expected floating point, found a type that is none: {_one_line(error)}") from None


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_torch_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except NotTensors as error:
        raise InputError(f"{path}: {error}") from None


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
