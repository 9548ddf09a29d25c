"""Attach the methods' arithmetic as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.naming import DOMAIN, DOMAIN_VERSION

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Function:
    """A model-local function `op_type(arguments) -> out`. body: ONNX text. calls: other functions that it uses."""

    op_type: str
    arguments: tuple[str, ...]
    body: str
    calls: tuple[Function, ...] = ()

    def text(self, opset: int) -> str:
        """The whole function as ONNX text (onnx.parser)."""
        own = f', "{DOMAIN}" : {DOMAIN_VERSION}' if self.calls else ""
        return (
            f'<opset_import: ["" : {opset}{own}], domain: "{DOMAIN}"> '
            f"{self.op_type} ({', '.join(self.arguments)}) => (out) {{ {self.body} }}"
        )


def attach_functions(model: ir.Model, functions: Iterable[Function]) -> None:
    """Add the functions and those they call, each once. Ensures: every node of the private domain has its function."""
    import onnx
    import onnx_ir as ir

    for function in functions:
        key = (DOMAIN, function.op_type, "")
        if key not in model.functions:
            text = function.text(model.graph.opset_imports[""])
            model.functions[key] = ir.serde.deserialize_function(onnx.parser.parse_function(text))
            model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
            attach_functions(model, function.calls)
