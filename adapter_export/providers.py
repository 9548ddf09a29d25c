"""The execution providers of ONNX Runtime that bundles run on."""

from __future__ import annotations

from typing import Any

from adapter_export.choices import Choice

# ONNX Runtime's name of the option that lets CUDA compute products of float32 matrices in TF32. It is on by default.
_TF32 = "use_tf32"


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

    @property
    def has_tf32(self) -> bool:
        """Whether the provider can compute products of float32 matrices in TF32."""
        return self is Provider.CUDA

    def session_providers(self, *, tf32: bool = False) -> list[Any]:
        """Returns the list for ONNX Runtime's `providers`, the provider itself first.

        The CPU follows for the few nodes that CUDA does not have, such as those that compute shapes.

        Args:
            tf32: Whether products of float32 matrices may be computed in TF32, which keeps 10 of the 23 bits of a
                float32 mantissa. Providers without TF32 ignore it.
        """
        if self is Provider.CUDA:
            options = {_TF32: str(int(tf32))}
            return [(self.execution_provider, options), Provider.CPU.execution_provider]
        return [self.execution_provider]
