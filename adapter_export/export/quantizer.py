"""The quantizer that transformers' exporter calls between its fusions and the end of an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir


class BlockQuantizer:
    """A quantizer that `transformers.exporters.OnnxConfig` takes. It runs after the trace and its fusions."""

    quantizes_fx_graph: ClassVar[bool] = False
    calibration_dataset: ClassVar[None] = None

    def __init__(self, bits: int) -> None:
        """Makes a quantizer to 8 or 4 bits."""
        self._bits = bits

    def validate_environment(self, export_format: object) -> None:
        """Requires nothing beyond what the project requires."""

    def quantize(self, model: ir.Model, sample_inputs: Mapping[str, Any], export_format: object) -> ir.Model:
        """Quantizes the weights of the model in place and returns it."""
        from adapter_export.export.passes import run
        from adapter_export.export.passes.quantize_weights import QuantizeWeights

        run(model, QuantizeWeights(self._bits))
        return model
