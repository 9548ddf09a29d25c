"""Reads the tensors of a checkpoint's file: safetensors, or what torch.save writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapter_export.checkpoints.safetensors_file import read_safetensors
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.errors import InputError

# The dtypes of tensors that are read.
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a .safetensors or a .bin file as float32; those in float64 keep it.

    Raises:
        InputError: As in `read_stored`.
    """
    return {name: as_float(tensor) for name, tensor in read_stored(path).items()}


def read_stored(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a .safetensors or a .bin file in the dtypes that they have there.

    Of a .bin file tensors only are read, and no code in it is run: see `torch_file`.

    Returns:
        Tensors of 16 to 64 bits of floating point, by name.

    Raises:
        InputError: The file cannot be read, or a tensor holds other than finite floating point numbers.
    """
    tensors = _read_bin(path) if path.suffix == ".bin" else read_safetensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _FLOATS:
            raise InputError(f"{path}: tensor {name!r}: expected floating point, found {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name!r}: expected finite values, found NaN or infinity")
    return tensors


def as_float(tensor: np.ndarray) -> np.ndarray:
    """Returns the values in float32, or float64 where they are. Exact for the half types."""
    return tensor if tensor.dtype == np.float64 else tensor.astype(np.float32)


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_torch_file(path)
    except NotTensors as error:
        raise InputError(f"{path}: {error}") from None
