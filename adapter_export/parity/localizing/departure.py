"""Where a bundle departs from PyTorch, as the report tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


def in_words(on: bool) -> str:
    """Returns the state of a run in words: whether the body of the adapter acts."""
    return "with the adapter" if on else "without the adapter"


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
class ParitySiteError:
    """The error of one value inside of the model.

    Attributes:
        site: The site of an adapter, the module, or the output of the model.
        run: How the case was run: with the adapter or without, and whether a text was read at once or in steps.
        error: The error of the value.
        limit: The largest error that agrees.
    """

    site: str
    run: str
    error: float
    limit: float


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
        sites: The errors at the sites of adapters, at the outputs, and at the first place that departs, in each run of
            the case that the search needed, in the order of computation; empty if no values were paired.
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
    sites: tuple[ParitySiteError, ...] = ()

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
