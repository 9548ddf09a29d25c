"""Where a bundle departs from PyTorch, as the report tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ParityCause:
    """The likely cause of a departure.

    Attributes:
        name: The kind of the cause, in a word or two.
        detail: What was found, in a sentence.
        next_step: What to do now, in a sentence.
    """

    name: str
    detail: str
    next_step: str


@dataclass(frozen=True)
class ParityDeparture:
    """The first place at which the values of the graph depart from those of PyTorch.

    Attributes:
        adapter: The adapter of the case; in place of one, NO_ADAPTER for the base model.
        case: The case that was run.
        state: `with the adapter` or `without the adapter`.
        cause: The likely cause.
        site: The site of an adapter, or the module, whose value is the first to depart; None if no values were paired.
        part: Which value of it: `before the adapter`, `after the adapter`, `output`.
        graph: The file of the graph.
        node: The first node that departs, with its operator; None if it is not known.
        error: The error of the value at the site.
        limit: The largest error that agrees.
    """

    adapter: str
    case: str
    state: str
    cause: ParityCause
    site: str | None = None
    part: str | None = None
    graph: str | None = None
    node: str | None = None
    error: float | None = None
    limit: float | None = None

    def lines(self) -> Iterator[str]:
        """Yields the departure in words."""
        if self.site is None and self.node is None:
            yield f"where it broke: {self.cause.name}: {self.cause.detail}"
            yield f"  next step: {self.cause.next_step}"
            return
        where = f"{self.site} ({self.part})" if self.part else self.site or "not found"
        sizes = f", error {self.error:.1e}, allowed {self.limit:.1e}" if self.error is not None else ""
        yield f"where it broke: {where}{sizes}"
        if self.graph:
            yield f"  in: case {self.case}, {self.adapter}, {self.state}, {self.graph}"
        if self.node:
            yield f"  first node: {self.node}"
        yield f"  likely cause: {self.cause.name}: {self.cause.detail}"
        yield f"  next step: {self.cause.next_step}"
