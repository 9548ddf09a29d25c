"""What a graph is made for: its precision, whether its weights are quantized, whose fused operators it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.bundle.manifest import FUSIONS, QUANTIZATIONS
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import torch

# As a caller writes it -> as numpy, torch and the manifest do.
DTYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Target:
    """dtype: of weights, activations and adapters; what callers feed and read is float32 (see `passes.boundary`).
    quantize: `int8` stores the base model's matrices in 8 bits (see `export.quantize`); adapters keep `dtype`. fuse:
    ONNX Runtime's fused operators for that provider; such a graph runs in ONNX Runtime alone.

    Raises InputError for an unknown value, and for a combination that no provider of ONNX Runtime can run.
    """

    dtype: str = "fp32"
    quantize: str = "none"
    fuse: str = "none"

    def __post_init__(self) -> None:
        for field, value, known in (
            ("dtype", self.dtype, tuple(DTYPES)),
            ("quantize", self.quantize, QUANTIZATIONS),
            ("fuse", self.fuse, FUSIONS),
        ):
            if value not in known:
                raise InputError(f"{field} {value!r}: expected one of {', '.join(known)}")
        if self.quantize == "int8" and self.dtype != "fp32":
            raise InputError(
                f"--quantize int8 with --dtype {self.dtype}: expected fp32, which the 8-bit operators compute beside; "
                "choose one of the two"
            )
        if self.fuse == "cpu" and self.dtype == "bf16":
            raise InputError(
                "--fuse cpu with --dtype bf16: ONNX Runtime's CPU provider has no bfloat16 operators; choose fp32 or "
                "fp16, or --fuse cuda"
            )

    @property
    def dtype_name(self) -> str:
        """`float32`, `float16` or `bfloat16`."""
        return DTYPES[self.dtype]

    @property
    def value_bytes(self) -> int:
        """Bytes that a weight takes in the graph, at least: not all are quantized."""
        return 1 if self.quantize == "int8" else 4 if self.dtype == "fp32" else 2

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same, for loading the base model."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype_name)
        return dtype
