"""Tensors of safetensors files, against the library that the format is of."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.safetensors_file import read_safetensors
from adapter_export.errors import InputError


def test_every_type_and_shape_as_the_library_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int8, np.uint16, np.bool_)
    tensors = {
        f"{np.dtype(kind).name}-{shape}": rng.normal(0, 9, shape).astype(kind)
        for kind in kinds
        for shape in ((), (0,), (3,), (2, 0, 5), (3, 5), (1, 2, 3))
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found, expected = read_safetensors(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == expected[name].tobytes() == tensor.tobytes()
        assert found[name].flags.owndata
        assert found[name].flags.aligned


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("shape", [[0, 1 << 62], [1 << 62, 0, 1 << 62], [(1 << 63) - 1, 0]])
def test_sizes_beside_a_zero_that_no_tensor_has(shape: list[int], tmp_path: Path) -> None:
    path = _file(tmp_path / "x.safetensors", {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    with pytest.raises(InputError, match="field 'shape': expected sizes that a tensor can have"):
        read_safetensors(path)


def test_more_than_memory_should_hold_is_not_read(tmp_path: Path) -> None:
    """A file of holes takes no room on a disk."""
    size = 1 << 40
    path = _file(tmp_path / "x.safetensors", {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    with pytest.raises(InputError, match="at most 8 GiB, found 1,099,511,"):
        read_safetensors(path)


@pytest.mark.parametrize("name", ["x" * 1001, "base_model.model." * 50_000, "a\nb"])
def test_names_out_of_all_proportion(name: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.safetensors", {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    with pytest.raises(InputError, match="expected a printable name of at most 1,000 characters") as caught:
        read_safetensors(path)
    assert len(str(caught.value)) < 1000


def test_more_tensors_than_a_file_has(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = _file(tmp_path / "x.safetensors", dict.fromkeys(map(str, range(200_001)), empty))
    with pytest.raises(InputError, match="header: expected at most 200,000 tensors, found 200,001"):
        read_safetensors(path)
