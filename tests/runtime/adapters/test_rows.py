"""Room for the rows of a bank."""

from __future__ import annotations

import ctypes
import sys

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.benchmarking.memory import anonymous_bytes
from adapter_export.bundle.manifest import TensorInfo
from adapter_export.bundle.ort_values import new_ort_value
from adapter_export.dtypes import DType
from adapter_export.providers import Provider
from adapter_export.runtime.adapters import rows as rows_module
from adapter_export.runtime.adapters.rows import Rows, copy_to, room_for, value_on


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


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_rows_on_a_device_are_copied_there_when_they_are_written(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is memory of the host here, which the calls that a GPU is given fill."""
    asked: list[str] = []

    def on_host(name: str, shape: tuple[int, ...], device: str) -> ort.OrtValue:
        asked.append(str(device))
        return new_ort_value(name, shape, "cpu")

    def tensor(width: int, value: float) -> dict[str, np.ndarray]:
        return {"t": np.full((width, 3), value, dtype.numpy)}

    def on_device(value: ort.OrtValue) -> np.ndarray:
        return copied_out(value).view(dtype.numpy).astype(np.float32).reshape(value.shape())

    monkeypatch.setattr(rows_module, "new_ort_value", on_host)
    rows = Rows({"t": TensorInfo(dtype, ("width", 3))}, tensor(1, 0.5), {"t": 0.25}, 2, Provider.CUDA)
    first = rows.claim(tensor(1, 2))
    before = rows.values["t"]
    wanted = np.full((3, 1, 3), 0.0)
    wanted[0], wanted[first] = 0.5, 2
    assert np.array_equal(on_device(before), wanted)
    assert np.array_equal(on_device(rows.row_zero["t"]), wanted[:1])
    # A row that is free again is overwritten in place; a wider tensor gets a stack of its own.
    rows.give_back(first)
    assert rows.claim(tensor(1, 3)) == first
    assert rows.values["t"] is before
    assert np.array_equal(on_device(before)[first], [[3, 3, 3]])
    rows.make_room(tensor(2, 4))
    second = rows.claim(tensor(2, 4))
    grown = on_device(rows.values["t"])
    assert rows.values["t"] is not before
    assert np.array_equal(grown[[0, first, second]][:, :, 0], [[0.5, 0.25], [3, 0.25], [4, 4]])
    assert np.array_equal(on_device(before)[first], [[3, 3, 3]]), "a run that has begun reads on"
    assert set(asked) == {"cuda"}


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
