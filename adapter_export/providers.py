"""The execution providers of ONNX Runtime that bundles run on."""

from __future__ import annotations

from typing import Any

from adapter_export.choices import Choice

# TF32 keeps 10 of the 23 bits of a float32 mantissa, and CUDA would use it for every MatMul. Off, so that fp32 means
# fp32.
_CUDA_OPTIONS = {"use_tf32": "0"}


class Provider(Choice):
    """Where a bundle runs."""

    CPU = "cpu"
    CUDA = "cuda"

    @property
    def execution_provider(self) -> str:
        """ONNX Runtime's name of the provider."""
        return f"{self.name}ExecutionProvider"

    @property
    def on_host(self) -> bool:
        """Whether tensors of the provider lie in the memory of the host."""
        return self is Provider.CPU

    @property
    def computes_bfloat16(self) -> bool:
        """Whether the provider has operators for bfloat16."""
        return self is not Provider.CPU

    def session_providers(self) -> list[Any]:
        """Returns the list for ONNX Runtime's `providers`, the provider itself first.

        The CPU follows for the few nodes that CUDA does not have, such as those that compute shapes.
        """
        if self is Provider.CUDA:
            return [(self.execution_provider, _CUDA_OPTIONS), Provider.CPU.execution_provider]
        return [self.execution_provider]
