"""Take out what a trace says about the machine it ran on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

# Where in the model a node comes from: worth keeping, and names no file.
_KEPT = "pkg.torch.onnx.name_scopes"


def strip_metadata(model: ir.Model) -> None:
    """Remove stack traces, documentation strings and debug metadata; keep the names of modules.

    Ensures: no text of the model names a path of the exporting machine.
    """
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        scopes = node.metadata_props.get(_KEPT)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[_KEPT] = scopes
        for value in node.outputs:
            value.doc_string = None
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.doc_string = None
        value.metadata_props.clear()
