"""How the graph of a bundle holds adapters: the mode, and the binding of adapter tensors."""

from __future__ import annotations

from adapter_export.choices import Choice


class Mode(Choice):
    """How a graph holds adapters. `export.modes` has the storage of each mode, `runtime.adapters.pool` its adapters.

    MERGED     none; an adapter is folded into the weights.
    EMBEDDED   one, as constants.
    SWAPPABLE  any number outside of the graph; a run has one of them, or none.
    BANK       any number, stacked; each row of a batch has one of them, or none.
    """

    MERGED = "merged"
    EMBEDDED = "embedded"
    SWAPPABLE = "swappable"
    BANK = "bank"

    @property
    def in_graph(self) -> bool:
        """Whether the adapter, if any, is part of the graph: every run has it, and no other can be added."""
        return self in (Mode.MERGED, Mode.EMBEDDED)

    @property
    def per_row(self) -> bool:
        """Whether the rows of one batch may have different adapters."""
        return self is Mode.BANK

    @property
    def needs_adapter(self) -> bool:
        """Whether an export needs at least one adapter; without one, the graph is the base model."""
        return self is not Mode.MERGED

    @classmethod
    def that_take_adapters(cls) -> tuple[Mode, ...]:
        """Returns the modes whose bundles hold any number of adapters, and take others later."""
        return tuple(mode for mode in cls if not mode.in_graph)


class Binding(Choice):
    """How a graph of mode swappable takes adapter tensors.

    INITIALIZER  as overridable initializers, whose default is no adapter.
    INPUT        as required inputs, for runtimes that do not support overridable initializers.
    """

    INITIALIZER = "initializer"
    INPUT = "input"

    @property
    def required(self) -> bool:
        """Whether every run needs all adapter tensors as inputs."""
        return self is Binding.INPUT
