"""Data types of tensors at the boundary of a graph, in the terms of numpy and of ONNX Runtime."""

from __future__ import annotations

import numpy as np

from adapter_export.choices import Choice

# ONNX's number of bfloat16. Numpy has no such type, and ONNX Runtime's Python interface knows it by this number alone.
ONNX_BFLOAT16 = 16


class DType(Choice):
    """The data type of a tensor, by its name in numpy."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The dtype of numpy, for bfloat16 that of ml_dtypes."""
        return numpy_dtype(self.value)

    @property
    def onnxruntime(self) -> str:
        """How ONNX Runtime writes the type of such a tensor: `tensor(float)`."""
        return f"tensor({_ORT_NAMES.get(self, self.value)})"

    @property
    def onnxruntime_element(self) -> int | type[np.generic]:
        """What ONNX Runtime takes as the element type of a new value."""
        return ONNX_BFLOAT16 if self is DType.BFLOAT16 else self.numpy.type

    @property
    def needs_cuda(self) -> bool:
        """Whether ONNX Runtime's CPU provider has no operators that compute in it."""
        return self is DType.BFLOAT16


# Where ONNX Runtime has another name than numpy.
_ORT_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double"}
# Of the weights of a graph and of adapters.
WEIGHT_DTYPES = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """Returns the dtype of numpy with this name, bfloat16 included."""
    if name == DType.BFLOAT16:
        import ml_dtypes  # noqa: F401 (lets numpy know bfloat16)
    return np.dtype(str(name))
