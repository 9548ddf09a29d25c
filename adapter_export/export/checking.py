"""The ONNX checker over a saved graph, also over one with operators that only ONNX Runtime has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

CONTRIB = "com.microsoft"


def contrib_operators(model: ir.Model) -> tuple[str, ...]:
    """Operators that neither the ONNX standard nor the model itself defines, sorted: `com.microsoft.MatMulNBits`;
    without a domain those that ONNX Runtime has put into the standard's own (`SimplifiedLayerNormalization`).
    """
    import onnx

    own = {(domain, name) for domain, name, _ in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes()} - own
    return tuple(
        sorted(f"{domain}.{name}" if domain else name for domain, name in used if not onnx.defs.has(name, domain))
    )


def check_saved(path: Path) -> None:
    """Check the graph at `path` with full shape inference; raises onnx.checker.ValidationError or InferenceError.

    The checker passes over operators of foreign domains, whose results keep the types and shapes that the graph says;
    but one in the standard's domain that the standard lacks is an error: for checking, a copy of the graph without its
    weights has these in a foreign one.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    foreign = [node for node in graph.graph.node if not node.domain and not onnx.defs.has(node.op_type)]
    checked = path
    if foreign:
        for node in foreign:
            node.domain = CONTRIB
        # Beside the graph, where its external data is.
        checked = path.with_name(f".{path.name}.check")
        onnx.save(graph, str(checked))
    try:
        # By path: the checker then reads external data, and takes models above protobuf's 2 GB.
        onnx.checker.check_model(str(checked), full_check=True)
    finally:
        if foreign:
            checked.unlink()
