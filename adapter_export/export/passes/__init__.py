"""Passes over `onnx_ir` graphs: one transformation a file, a class with what it requires and what it ensures.

`run` applies passes in sequence and checks both for each. Importing a pass imports onnx_ir, so callers import passes
inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapter_export.errors import AdapterExportError

if TYPE_CHECKING:
    import onnx_ir as ir


def run(model: ir.Model, *passes: ir.passes.PassBase) -> None:
    """Applies the passes to the model, in place and in this order.

    Raises:
        AdapterExportError: A pass refused the model or an adapter.
        onnx_ir.passes.PassError: What a pass requires or ensures does not hold.
    """
    import onnx_ir as ir

    try:
        ir.passes.Sequential(*passes)(model)
    except ir.passes.PassError as error:
        # The sequence wraps every error in one of its own.
        if isinstance(error.__cause__, AdapterExportError):
            raise error.__cause__ from None
        raise
