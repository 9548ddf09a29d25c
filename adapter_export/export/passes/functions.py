"""Attach the methods' arithmetic as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from adapter_export.naming import DOMAIN, DOMAIN_VERSION

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.export.passes.bind import Bound


def function_text(op_type: str, arguments: Iterable[str], body: str, opset: int) -> str:
    """ONNX text of a model-local function `op_type(arguments) -> out`."""
    return (
        f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {op_type} ({", ".join(arguments)}) => (out) {{ {body} }}'
    )


def attach_functions(model: ir.Model, places: Iterable[Bound]) -> None:
    """Add one function per op_type in use. Ensures: every node of the private domain has its function."""
    import onnx
    import onnx_ir as ir

    for place in places:
        key = (DOMAIN, place.function.op_type, "")
        if key not in model.functions:
            text = function_text(
                place.function.op_type, place.arguments, place.function.body, model.graph.opset_imports[""]
            )
            model.functions[key] = ir.serde.deserialize_function(onnx.parser.parse_function(text))
            model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
