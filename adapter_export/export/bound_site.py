"""A site of the graph after its marker was replaced, and the tensors that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.bundle.manifest import SiteRole
from adapter_export.composition import CompositionRule
from adapter_export.export.function import Function


@dataclass(frozen=True)
class TensorSlot:
    """One adapter tensor that a site reads, to be stored in the graph.

    Attributes:
        name: Its full name.
        dims: Its sizes; names for sizes that adapters may differ in.
        default: Its values where there is no adapter.
        identity: The one number that all of these values are; None where they differ (the base model's own task head).
        composition: How the tensors of several adapters become one; None where they cannot.
    """

    name: str
    dims: tuple[int | str, ...]
    default: np.ndarray
    identity: float | None
    composition: CompositionRule | None = None


@dataclass(frozen=True)
class BoundSite:
    """A site of the graph, its function and its tensors.

    Attributes:
        module: Path of the module in the base model.
        site: Name of the site.
        port: How the site is attached to the module; `replace` of a task head.
        role: Whether an adapter or a task head stands there.
        method: The adapter's method; None of a task head.
        op_name: The operator in the names of the tensors.
        function: What the node of the site calls. Its last arguments are the tensors.
        slots: The tensors by their names in the operator.
    """

    module: str
    site: str
    port: str
    role: SiteRole
    method: str | None
    op_name: str
    function: Function
    slots: Mapping[str, TensorSlot]

    @property
    def name(self) -> str:
        """Name of the node."""
        return f"{self.site}.{self.op_name}"

    @property
    def gives_labels(self) -> bool:
        """Whether the number of its outputs depends on the adapter: true of the last layer of a task head."""
        return any(NUM_LABELS in slot.dims for slot in self.slots.values())
