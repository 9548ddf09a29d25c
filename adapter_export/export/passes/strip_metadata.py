"""Remove what a trace contains about the machine it was made on."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

# The path of the module that a node comes from: worth keeping, and it names no file.
_KEPT = "pkg.torch.onnx.name_scopes"


class StripMetadata(ir.passes.InPlacePass):
    """Removes stack traces, documentation strings and debug metadata, and keeps the names of modules.

    Ensures: no documentation string is left, and no metadata but the names of modules.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for item in _described(model):
            scopes = item.metadata_props.get(_KEPT) if isinstance(item, ir.Node) else None
            item.doc_string = None
            item.metadata_props.clear()
            if scopes is not None:
                item.metadata_props[_KEPT] = scopes
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        for item in _described(model):
            if item.doc_string or {*item.metadata_props} - {_KEPT}:
                raise ir.passes.PostconditionError(f"metadata is left: {item!r:.200}")


def _described(model: ir.Model) -> Iterator[ir.Node | ir.Value | ir.Graph | ir.Model]:
    yield model
    yield model.graph
    for node in model.graph.all_nodes():
        yield node
        yield from node.outputs
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
