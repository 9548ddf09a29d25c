"""The rows of a bank in memory: all tensors of one kind, stacked as `bundle.bank` says."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.adapter_file import BFLOAT16, ort_value
from adapter_export.bundle.adapter_format import numpy_dtype
from adapter_export.bundle.bank import fill_row, named_sizes, padding_of, row_shape
from adapter_export.bundle.manifest import TensorInfo
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import onnxruntime as ort


class Rows:
    """Stacked tensors, row 0 of each being no adapter's. For one thread at a time.

    Rows are claimed, written once, read by any number of runs, and given back. Room for all of them is set aside at
    once, and the operating system gives memory only to those that were written.
    On CUDA the arrays are on the device as well, and writing a row copies its tensors there anew.
    """

    def __init__(
        self, tensors: Mapping[str, TensorInfo], nothing: Mapping[str, np.ndarray], rows: int, device: str
    ) -> None:
        """tensors: all of the kind, by name. nothing: those of no adapter. rows: besides row 0."""
        self._tensors, self._nothing, self._device = tensors, nothing, device
        self._count = 1 + rows
        self._free = list(range(rows, 0, -1))
        self._sizes: dict[str, int] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, ort.OrtValue] = {}
        self.make_room(nothing)
        # Row 0 by itself, at its smallest: for a batch in which nobody has this kind.
        self.absent = {name: self._value(array[:1].copy()) for name, array in self._arrays.items()}

    @property
    def row_bytes(self) -> int:
        """Memory that a row takes."""
        return sum(array[0].nbytes for array in self._arrays.values())

    @property
    def used(self) -> int:
        """Rows with an adapter."""
        return self._count - 1 - len(self._free)

    def claim(self, tensors: Mapping[str, np.ndarray]) -> int:
        """A row with these tensors, for which there is room; where there are none, with those of no adapter."""
        row = self._free.pop()
        for name, array in self._arrays.items():
            self._fill(array[row], name, tensors.get(name, self._nothing[name]))
            self._upload(name)
        return row

    def give_back(self, row: int) -> None:
        """Nobody reads the row any more."""
        self._free.append(row)

    def _fill(self, row: np.ndarray, name: str, tensor: np.ndarray) -> None:
        fill_row(row, tensor, padding_of(name, self._tensors[name].shape))

    def make_room(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Let the arrays take tensors of these sizes.

        One larger than any before moves its whole array to a larger one; who has the old one reads on undisturbed.
        Raises InputError when there is no memory; then all is as it was.
        """
        sizes = dict(self._sizes)
        for name, tensor in tensors.items():
            for dim, size in named_sizes(self._tensors[name].shape, tensor.shape).items():
                sizes[dim] = max(size, sizes.get(dim, 1))
        if sizes == self._sizes and self._arrays:
            return
        used = [0, *sorted({*range(1, self._count)} - {*self._free})]
        arrays, values = dict(self._arrays), dict(self.values)
        for name, info in self._tensors.items():
            old = self._arrays.get(name)
            shape = (self._count, *row_shape(info.shape, sizes))
            if old is not None and old.shape == shape:
                continue
            try:
                array = room_for(shape, numpy_dtype(info.dtype))
            except (MemoryError, ValueError) as error:
                raise InputError(f"slots: no memory for {self._count} rows of {name!r} {list(shape[1:])}") from error
            if old is None:
                self._fill(array[0], name, self._nothing[name])
            else:
                for row in used:
                    self._widen(array[row], name, old[row])
            arrays[name], values[name] = array, self._value(array)
        self._sizes, self._arrays, self.values = sizes, arrays, values

    def _widen(self, row: np.ndarray, name: str, old: np.ndarray) -> None:
        row[...] = padding_of(name, self._tensors[name].shape)
        row[tuple(map(slice, old.shape))] = old

    def _value(self, array: np.ndarray) -> ort.OrtValue:
        if self._device == "cpu":
            return ort_value(array)  # the same memory
        return value_on(self._device, array)

    def _upload(self, name: str) -> None:
        if self._device != "cpu":
            copy_to(self.values[name], self._arrays[name])


def value_on(device: str, array: np.ndarray) -> ort.OrtValue:
    """A copy of the array in the device's memory."""
    import onnxruntime as ort

    kind = BFLOAT16 if array.dtype.name == "bfloat16" else array.dtype.type
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, kind, device, 0)
    copy_to(value, array)
    return value


def copy_to(value: ort.OrtValue, array: np.ndarray) -> None:
    """Overwrite the value, of the same shape, where it lies. ONNX Runtime takes bfloat16 from its own values alone."""
    value.update_inplace(ort_value(array) if array.dtype.name == "bfloat16" else array)


def room_for(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Zeros, which take memory page by page as they are written.

    On Linux numpy asks for pages of 2 MB, and a single row would take so much of each array.

    Raises MemoryError, and elsewhere ValueError as numpy does, where there is not as much.
    """
    if sys.platform != "linux":
        return np.zeros(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{size} bytes") from error
    with contextlib.suppress(OSError):  # a kernel that knows no such pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    array: np.ndarray = np.ndarray(shape, dtype, pages)
    return array
