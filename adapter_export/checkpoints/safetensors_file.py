"""Reads all tensors of a small safetensors file into numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.errors import InputError
from adapter_export.reading.files import read_bytes

# The largest file that is read. The whole file goes into memory; no adapter with task head and embeddings is as large.
MAX_BYTES = 8 << 30
# The format's names of types -> numpy's; bfloat16 is from `ml_dtypes`. Narrower floats are used by quantizers only.
_DTYPES: Mapping[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "C64": "complex64",
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a file.

    Returns:
        Tensors by name, in their dtypes, each with memory of its own.

    Raises:
        InputError: The file is missing, broken or too large, or has a type that numpy lacks.
    """
    import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)

    header = read_header(path)
    for name, entry in header.tensors.items():
        if entry.dtype not in _DTYPES:
            raise InputError(f"{path}: tensor {name!r}: expected floating point of 16 to 64 bits, found {entry.dtype}")
    data = read_bytes(path, MAX_BYTES)
    if len(data) != header.size:
        raise InputError(f"{path}: changed while it was read")
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.tensors.items():
        dtype: np.dtype[np.generic] = np.dtype(_DTYPES[entry.dtype]).newbyteorder("<")
        # A copy, as the position in the file need not be a multiple of the size of a value.
        tensors[name] = np.ndarray(entry.shape, dtype, data, header.start + entry.begin).copy()
    return tensors
