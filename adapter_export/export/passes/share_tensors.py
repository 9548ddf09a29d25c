"""Give the graphs of a bundle the same adapter tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.manifest import AdapterTensorInfo, SiteInfo
from adapter_export.export.bound_site import TensorSlot
from adapter_export.export.storage import overridable


class ShareTensors(ir.passes.InPlacePass):
    """Adds the adapter tensors of other graphs as overridable initializers, which no node reads.

    An adapter's file then fits each graph of its bundle: ONNX Runtime refuses a file with tensors that a graph does not
    have.

    Ensures: the graph has every adapter tensor of the bundle.
    """

    def __init__(self, sites: Sequence[SiteInfo]) -> None:
        """Makes the pass.

        Args:
            sites: The sites of all graphs of the bundle.
        """
        self._tensors = {name: info for site in sites for name, info in site.tensors.items()}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        missing = [name for name in self._tensors if name not in model.graph.initializers]
        for name in missing:
            overridable(model.graph, _slot(name, self._tensors[name]))
        return ir.passes.PassResult(model, modified=bool(missing))

    def ensures(self, model: ir.Model) -> None:
        if missing := [name for name in self._tensors if name not in model.graph.initializers]:
            raise ir.passes.PostconditionError(f"adapter tensor {missing[0]!r} is missing")


def _slot(name: str, info: AdapterTensorInfo) -> TensorSlot:
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    return TensorSlot(name, info.shape, np.full(shape, info.default or 0.0, info.dtype.numpy), info.default)
