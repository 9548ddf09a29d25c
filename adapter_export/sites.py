"""Sites, where adapters act, and the values at them.

Symbols used throughout: B batch, T sequence, d features at a site, k bottleneck width, n labels. Around a sublayer
(attention or feed-forward) of a transformer: x its residual input, h its output just before the residual is added,
z = x + h, and N the layer norm that a post-norm model applies to z.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Port(str, Enum):
    """How a site is attached to its module. It decides (u, y): the value that the adapter reads, and the one that it
    replaces.

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
    """Sizes of the features axis at a site. They differ at Port.BRANCH of a layer that is not square, and nowhere else.

    Attributes:
        inputs: Features of u, which the adapter reads; of an embedding, the number of its rows.
        outputs: Features of y, which it replaces, and of x, h and n.
    """

    inputs: int
    outputs: int


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model where an adapter acts.

    The fields after `port` offer an adapter further values of its sublayer, and are empty if it needs none.

    Attributes:
        module: A path inside the base model, without the prefix of a task class (`encoder.layer.3.output.dense`, never
            `bert.encoder...`), so that one adapter fits all task classes.
        port: How the site is attached to the module.
        residual: The module whose input is x.
        output: The module whose output is h.
        norm: N, which gives n = N(x + y).
    """

    module: str
    port: Port
    residual: str = ""
    output: str = ""
    norm: str = ""

    @property
    def name(self) -> str:
        """A stable and readable name: the module's path, with `.input` if the adapter acts before the module."""
        return self.module if self.port in (Port.OUTPUT, Port.BRANCH) else f"{self.module}.input"

    @property
    def reads(self) -> dict[str, str]:
        """The modules of the further values that it reads, by the names of the fields."""
        return {name: path for name in ("residual", "output", "norm") if (path := getattr(self, name))}

    def without(self, prefix: str) -> Site:
        """Returns the same site, with `prefix.` removed from its path if the path begins with it."""
        paths = (strip_prefix(path, prefix) for path in (self.module, self.residual, self.output, self.norm))
        module, residual, output, norm = paths
        return Site(module, self.port, residual, output, norm)


def strip_prefix(path: str, prefix: str) -> str:
    """Returns `encoder.layer.0` for `bert.encoder.layer.0` and prefix `bert`. Other paths are returned as they are."""
    return path.removeprefix(f"{prefix}.") if prefix else path
