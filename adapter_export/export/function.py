"""Model-local functions: the arithmetic of adapters as text in the ONNX language."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_export.naming import DOMAIN, DOMAIN_VERSION


@dataclass(frozen=True)
class Function:
    """A model-local function `op_type(arguments) -> out`.

    Attributes:
        op_type: Its name in the project's private domain.
        arguments: Names of its inputs.
        body: ONNX text that computes `out`.
        calls: Other functions that the body uses.
    """

    op_type: str
    arguments: tuple[str, ...]
    body: str
    calls: tuple[Function, ...] = ()

    def text(self, opset: int) -> str:
        """Returns the complete function as ONNX text, for `onnx.parser`.

        Args:
            opset: Version of the ONNX standard that the body is written in.
        """
        own = f', "{DOMAIN}" : {DOMAIN_VERSION}' if self.calls else ""
        return (
            f'<opset_import: ["" : {opset}{own}], domain: "{DOMAIN}"> '
            f"{self.op_type} ({', '.join(self.arguments)}) => (out) {{ {self.body} }}"
        )
