"""Names of tensors in the adapter files of other tools: a module for each method that these tools know.

The tensors themselves have the layout of this package's graphs, with the scale multiplied into one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from adapter_export.modelinfo import ModelInfo

FORMAT = "onnx_adapter"


@dataclass(frozen=True)
class Place:
    """What a foreign name says. module: path in the base model. op_name, tensor: as in `naming.tensor_name`."""

    module: str
    op_name: str
    tensor: str


class NamesCodec(Protocol):
    """A module with these names.

    Attributes:
        TOOLS: The tools whose names it knows.
    """

    TOOLS: tuple[str, ...]

    def place(self, name: str, info: ModelInfo) -> Place | None:
        """Returns what the name of a tensor says; None for a name that no tool gives.

        Raises:
            InputError: The tensor is of a kind that cannot be read.
        """

    def foreign_name(self, place: Place, tool: str, info: ModelInfo) -> str | None:
        """Returns the tool's name of a tensor; None if the tool has no name for it."""
