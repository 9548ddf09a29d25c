"""Where an adapter acts: sites, and the tensors that stand at them.

Symbols used throughout: B batch, T sequence, d features at a site, k bottleneck width, n labels. Around a sublayer
(attention or feed-forward) of a transformer: x its residual input, h its output just before the residual is added,
z = x + h, and N the layer norm that a post-norm model applies to z.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Port(str, Enum):
    """How a site is attached to its module; gives (u, y), what the adapter reads and what it replaces.

    INPUT   u = y = the module's input.
    OUTPUT  u = y = the module's output.
    NORM    the module is a norm N with input z: u = N(z), y = z; the adapter's result becomes N's input.
    BRANCH  u = the module's input, y = the module's output: the adapter computes on a branch around the module.
    """

    INPUT = "input"
    OUTPUT = "output"
    NORM = "norm"
    BRANCH = "branch"


@dataclass(frozen=True)
class Features:
    """Sizes of the features axis at a site.

    inputs: of u, what the adapter reads. outputs: of y, what it replaces; x, h and n have as many. The two differ at
    Port.BRANCH of a layer that is not square, and nowhere else.
    """

    inputs: int
    outputs: int


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model where an adapter acts.

    `module` is a path inside the base model, without the prefix a task class puts before it
    (`encoder.layer.3.output.dense`, never `bert.encoder...`), so that one adapter fits every task class.

    The other fields offer an adapter more values of its sublayer to read, and are empty where it needs none.
    residual: the module whose input is x. output: the module whose output is h. norm: N, which gives n = N(x + y).
    """

    module: str
    port: Port
    residual: str = ""
    output: str = ""
    norm: str = ""

    @property
    def name(self) -> str:
        """Stable and readable name: the module's path, with `.input` when the adapter acts before it."""
        return self.module if self.port in (Port.OUTPUT, Port.BRANCH) else f"{self.module}.input"

    @property
    def reads(self) -> dict[str, str]:
        """The modules whose values it reads besides, by the names of the fields."""
        return {name: path for name in ("residual", "output", "norm") if (path := getattr(self, name))}

    def without(self, prefix: str) -> Site:
        """The same site with `prefix.` removed from its path, where it has it."""
        paths = (strip_prefix(path, prefix) for path in (self.module, self.residual, self.output, self.norm))
        module, residual, output, norm = paths
        return Site(module, self.port, residual, output, norm)


def strip_prefix(path: str, prefix: str) -> str:
    """`bert.encoder.layer.0` and prefix `bert` give `encoder.layer.0`; other paths stay as they are."""
    return path.removeprefix(f"{prefix}.") if prefix else path
