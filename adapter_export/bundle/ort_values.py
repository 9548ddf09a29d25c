"""Makes values of ONNX Runtime from arrays, including those of bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adapter_export.dtypes import ONNX_BFLOAT16, DType

if TYPE_CHECKING:
    import onnxruntime as ort


def ort_value(array: np.ndarray) -> ort.OrtValue:
    """Returns the array as a value of ONNX Runtime on the host, which shares the array's memory."""
    import onnxruntime as ort

    if needs_ort_value(array):
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def needs_ort_value(array: np.ndarray) -> bool:
    """Returns whether ONNX Runtime accepts the array only as an OrtValue. This is the case for bfloat16."""
    # The name of a dtype takes long to make, and numpy's own kinds are many times as frequent.
    return array.dtype.kind == "V" and str(array.dtype.name) == DType.BFLOAT16


def new_ort_value(dtype: str, shape: tuple[int, ...] | list[int], device: str) -> ort.OrtValue:
    """Returns a value of ONNX Runtime with its own memory on the device. The memory is not initialized.

    Args:
        dtype: Name of its data type.
        shape: Its sizes.
        device: `cpu` or `cuda`.
    """
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), DType(dtype).onnxruntime_element, str(device), 0)
