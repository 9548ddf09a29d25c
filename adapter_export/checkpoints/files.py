"""Reading files that came from somewhere else: every failure is one InputError that names the file and the field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.errors import InputError

_CHUNK_BYTES = 1 << 20
# A checkpoint's config is small; anything larger is not one, and is not read into memory.
_MAX_JSON_BYTES = 64 << 20


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
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # broken syntax or encoding, nested too deep, or a number too long
        raise InputError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def field(config: dict[str, Any], path: Path, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """config[name] checked to be of `kind`; `default` when absent (required without one). Raises InputError."""
    value = config.get(name, default)
    if value is ...:
        raise InputError(f"{path}: field {name!r} is missing")
    if value is default or isinstance(value, kind):
        return value
    expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    raise InputError(f"{path}: field {name!r}: expected {expected}, found {value!r}")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors or a .bin file as float32 (float64 stays); raises InputError for anything odd.

    A .bin file is read with `weights_only=True`: tensors only, no code.
    """
    tensors = _read_bin(path) if path.suffix == ".bin" else _read_safetensors(path)
    return {name: _as_float(path, name, tensor) for name, tensor in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {_one_line(error)}") from None
    except AttributeError as error:  # how the library meets a type that numpy has not
        raise InputError(f"{path}: expected floating point, found a type that is none: {_one_line(error)}") from None


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{path}: not readable as tensors only (weights_only=True): {_one_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError(f"{path}: expected a mapping of names to tensors")
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            found = f"{tensor.dtype} ({tensor.layout})"
            raise InputError(f"{path}: tensor {name!r}: expected floating point, found {found}")
    return {
        str(name): (tensor if tensor.dtype == torch.float64 else tensor.float()).detach().numpy()
        for name, tensor in state.items()
    }


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _as_float(path: Path, name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
        raise InputError(f"{path}: tensor {name!r}: expected floating point, found {tensor.dtype}")
    tensor = tensor if tensor.dtype == np.float64 else tensor.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise InputError(f"{path}: tensor {name!r}: expected finite values, found NaN or infinity")
    return tensor


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of a model folder's weights: of sorted (name, sha256) of its .safetensors files, else of its .bin ones.

    Raises InputError when the folder holds neither.
    """
    for pattern in ("*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return _combined(files)
    raise InputError(f"model {folder}: expected *.safetensors or *.bin weights, found none")


def _combined(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()
