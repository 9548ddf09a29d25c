"""What graphs are made for: dtype, quantization and fusions, checked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.bundle.precision import Fusion, Precision, Quantization
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Target:
    """What the graphs are made for.

    Attributes:
        dtype: Precision of weights, activations and adapters. Inputs and outputs are float32
            (`passes.widen_boundary`).
        quantize: How the matrices of the base model are stored.
        fuse: The provider for whose fused operators the graphs are made.
    """

    dtype: Precision = Precision.FP32
    quantize: Quantization = Quantization.NONE
    fuse: Fusion = Fusion.NONE

    @classmethod
    def parse(cls, dtype: str = "fp32", quantize: str = "none", fuse: str = "none") -> Target:
        """Makes a target from a caller's words.

        Args:
            dtype: `fp32`, `fp16` or `bf16`.
            quantize: `none`, `int8` or `int4`.
            fuse: `none`, `cpu` or `cuda`.

        Raises:
            InputError: A word is not known, or no provider of ONNX Runtime can run the combination.
        """
        return cls(
            Precision.parse(dtype, "dtype"), Quantization.parse(quantize, "quantize"), Fusion.parse(fuse, "fuse")
        )

    def __post_init__(self) -> None:
        if self.quantize.used and self.dtype is not Precision.FP32:
            raise InputError(
                f"--quantize {self.quantize} with --dtype {self.dtype}: expected fp32, because the operators for "
                "quantized weights compute with float32; use only one of the two options"
            )
        if self.fuse is Fusion.CPU and self.dtype is Precision.BF16:
            raise InputError(
                "--fuse cpu with --dtype bf16: ONNX Runtime's CPU provider has no bfloat16 operators; choose fp32 or "
                "fp16, or --fuse cuda"
            )

    @property
    def value_bits(self) -> int:
        """Bits that each value of a weight takes at least. Not all weights are quantized."""
        return self.quantize.bits or 8 * self.dtype.value_bytes

    @property
    def torch_dtype(self) -> torch.dtype:
        """PyTorch's dtype in which the base model is loaded."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype.dtype.value)
        return dtype
