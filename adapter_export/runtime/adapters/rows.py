"""The rows of a bank in memory: all tensors of one operator, stacked as `bundle.bank` describes."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.bank import fill_row, named_sizes, row_shape
from adapter_export.bundle.manifest import TensorInfo
from adapter_export.bundle.ort_values import needs_ort_value, new_ort_value, ort_value
from adapter_export.errors import InputError
from adapter_export.providers import Provider

if TYPE_CHECKING:
    import onnxruntime as ort


class Rows:
    """Stacked tensors, of which row 0 is no adapter's. For one thread at a time.

    Rows are claimed, written once, read by any number of runs, and given back. The address space of all rows is
    reserved at once; the operating system assigns memory only to rows that were written.
    On CUDA the arrays are on the device as well, and writing a row copies its tensors there again.

    Attributes:
        values: The stacked tensors by name, as ONNX Runtime takes them.
        row_zero: Only row 0 of each, at its smallest size. Fed when no row of the batch uses the operator, so that the
            stacks are not read.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        no_adapter: Mapping[str, np.ndarray],
        padding: Mapping[str, float],
        rows: int,
        provider: Provider,
    ) -> None:
        """Reserves the rows.

        Args:
            tensors: All tensors of the operator, by name.
            no_adapter: Their values in row 0, by name.
            padding: What fills a row beyond an adapter's own sizes, by name; see `bundle.bank.padding_of`.
            rows: Number of rows besides row 0.
            provider: Where the session runs.

        Raises:
            InputError: There is not enough memory.
        """
        self._tensors, self._no_adapter, self._padding, self._provider = tensors, no_adapter, padding, provider
        self._count = 1 + rows
        self._free = list(range(rows, 0, -1))
        self._sizes: dict[str, int] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, ort.OrtValue] = {}
        self.make_room(no_adapter)
        self.row_zero = {name: self._value(array[:1].copy()) for name, array in self._arrays.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(array[0].nbytes for array in self._arrays.values())

    @property
    def used(self) -> int:
        """Number of rows that hold an adapter."""
        return self._count - 1 - len(self._free)

    def claim(self, tensors: Mapping[str, np.ndarray]) -> int:
        """Writes tensors into a free row and returns its number. `make_room` was called with them before.

        Tensors that are missing get the values of no adapter.
        """
        row = self._free.pop()
        for name, array in self._arrays.items():
            self._fill(array[row], name, tensors.get(name, self._no_adapter[name]))
            self._upload(name)
        return row

    def give_back(self, row: int) -> None:
        """Frees a row that no run reads any more."""
        self._free.append(row)

    def _fill(self, row: np.ndarray, name: str, tensor: np.ndarray) -> None:
        fill_row(row, tensor, self._padding[name])

    def make_room(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Makes every row large enough for these tensors.

        If a tensor is larger than all before, its array is copied to a larger one. Runs that hold the previous array
        continue to read it.

        Raises:
            InputError: There is not enough memory. Nothing has changed then.
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
                array = room_for(shape, info.dtype.numpy)
            except (MemoryError, ValueError) as error:
                raise InputError(f"slots: no memory for {self._count} rows of {name!r} {list(shape[1:])}") from error
            if old is None:
                self._fill(array[0], name, self._no_adapter[name])
            else:
                for row in used:
                    self._widen(array[row], name, old[row])
            arrays[name], values[name] = array, self._value(array)
        self._sizes, self._arrays, self.values = sizes, arrays, values

    def _widen(self, row: np.ndarray, name: str, old: np.ndarray) -> None:
        row[...] = self._padding[name]
        row[tuple(map(slice, old.shape))] = old

    def _value(self, array: np.ndarray) -> ort.OrtValue:
        # On the host both have the same memory.
        return ort_value(array) if self._provider.on_host else value_on(self._provider, array)

    def _upload(self, name: str) -> None:
        if not self._provider.on_host:
            copy_to(self.values[name], self._arrays[name])


def value_on(provider: Provider, array: np.ndarray) -> ort.OrtValue:
    """Returns a copy of the array in the provider's memory."""
    value = new_ort_value(array.dtype.name, array.shape, provider)
    copy_to(value, array)
    return value


def copy_to(value: ort.OrtValue, array: np.ndarray) -> None:
    """Overwrites the value in place with an array of its shape."""
    # By its bits: ONNX Runtime 1.23 takes an array here, and no value of its own.
    value.update_inplace(array.view(np.uint16) if needs_ort_value(array) else array)


def room_for(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    """Returns an array of zeros that takes memory page by page, when it is written.

    On Linux numpy asks for pages of 2 MB, so a single row would take as much of each array.

    Raises:
        MemoryError: There is not enough memory. Numpy raises ValueError on other systems.
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
