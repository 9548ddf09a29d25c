"""What the graphs of a bundle are made for: their precision, quantized weights, and fused operators of a provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapter_export.choices import Choice

if TYPE_CHECKING:
    from adapter_export.dtypes import DType


class Precision(Choice):
    """The data type that a graph computes in, as users write it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def dtype(self) -> DType:
        """The data type of weights, activations and adapters."""
        from adapter_export.dtypes import DType

        return {Precision.FP32: DType.FLOAT32, Precision.FP16: DType.FLOAT16, Precision.BF16: DType.BFLOAT16}[self]

    @property
    def value_bytes(self) -> int:
        """Bytes of one value."""
        return 4 if self is Precision.FP32 else 2


class Quantization(Choice):
    """How the matrices of the base model are stored. Adapters keep the graph's dtype.

    NONE  in the graph's dtype.
    INT8  as 8-bit integers in blocks, each with a scale.
    INT4  the same with 4 bits.
    """

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def used(self) -> bool:
        """Whether weights are quantized."""
        return self is not Quantization.NONE

    @property
    def bits(self) -> int:
        """Bits of a weight; 0 where weights are not quantized."""
        return {Quantization.NONE: 0, Quantization.INT8: 8, Quantization.INT4: 4}[self]


class Fusion(Choice):
    """The provider of ONNX Runtime for whose fused operators a graph is made, or none."""

    NONE = "none"
    CPU = "cpu"
    CUDA = "cuda"

    @property
    def used(self) -> bool:
        """Whether the graph has fused operators. It then runs in ONNX Runtime alone."""
        return self is not Fusion.NONE
