"""Where an adapter acts: sites, and the tensors that stand at them.

Symbols used throughout: B batch, T sequence, d features at a site, k bottleneck width, n labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Port(str, Enum):
    """How a site is attached to its module; gives (u, y), what the adapter reads and what it replaces.

    INPUT   u = y = the module's input.
    OUTPUT  u = y = the module's output.
    NORM    the module is a norm N with input z: u = N(z), y = z; the adapter's result becomes N's input.
    """

    INPUT = "input"
    OUTPUT = "output"
    NORM = "norm"


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model where an adapter acts.

    `module` is a path inside the base model, without the prefix a task class puts before it
    (`encoder.layer.3.output.dense`, never `bert.encoder...`), so that one adapter fits every task class.
    """

    module: str
    port: Port

    @property
    def name(self) -> str:
        """Stable, readable and unique name: the module's path, with `.input` when the adapter acts before it."""
        return self.module if self.port is Port.OUTPUT else f"{self.module}.input"

    def without(self, prefix: str) -> Site:
        """The same site with `prefix.` removed from its path, where it has it."""
        return Site(strip_prefix(self.module, prefix), self.port)


def strip_prefix(path: str, prefix: str) -> str:
    """`bert.encoder.layer.0` and prefix `bert` give `encoder.layer.0`; other paths stay as they are."""
    return path.removeprefix(f"{prefix}.") if prefix else path
