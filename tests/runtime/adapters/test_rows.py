"""Room for the rows of a bank."""

from __future__ import annotations

import ctypes
import sys

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.benchmarking.memory import anonymous_bytes
from adapter_export.providers import Provider
from adapter_export.runtime.adapters.rows import copy_to, room_for, value_on


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64])
def test_room_is_zeros_to_be_written(dtype: type) -> None:
    room = room_for((3, 1, 5), np.dtype(dtype))
    assert (room.shape, room.dtype) == ((3, 1, 5), np.dtype(dtype))
    assert not room.any()
    assert room.flags.c_contiguous
    room[1] = 2
    assert [float(row.sum()) for row in room] == [0, 10, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_on_a_device_are_copies_that_can_be_overwritten(dtype: type) -> None:
    """On the CPU, where they can be read; a GPU is given the same calls."""
    array = np.random.default_rng(0).standard_normal((4, 1, 6)).astype(dtype)
    value = value_on(Provider.CPU, array)
    for _ in range(2):
        found = copied_out(value)
        assert found.tobytes() == array.tobytes()
        array[2] = array[1] * 3
        assert copied_out(value).tobytes() == found.tobytes()
        copy_to(value, array)


def copied_out(value: ort.OrtValue) -> np.ndarray:
    """Of bfloat16 the bits, which is all that ONNX Runtime gives numpy."""
    size = value.tensor_size_in_bytes()
    return np.frombuffer((ctypes.c_uint8 * size).from_address(value.data_ptr()), np.uint8).copy()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which tells what memory a process has")
def test_only_what_is_written_takes_memory() -> None:
    before = anonymous_bytes()
    arrays = [room_for((64, 1 << 15), np.dtype(np.float32)) for _ in range(64)]
    for array in arrays:
        array[7::16] = 1
    after = anonymous_bytes()
    assert before is not None
    assert after is not None
    written = 64 * 4 * (1 << 17)
    # Pages of 2 MB would make it up to 16 times as much.
    assert written <= after - before <= 1.5 * written


def test_more_than_there_is() -> None:
    with pytest.raises((MemoryError, ValueError)):
        room_for((1 << 40, 1 << 22), np.dtype(np.float32))
