"""The layers of one model, found among its module paths; and modules chosen by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import zip_longest

from adapter_export.architectures.record import Role, Stack, Sublayer
from adapter_export.architectures.registry import facts, model_types
from adapter_export.errors import InputError

# A module path with its layer numbers replaced, so that a list of candidates has one line a kind of module.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Layer:
    """One layer of a model. path: its module path. modules: all module paths of the model."""

    path: str
    stack: Stack
    modules: Collection[str]

    def linear(self, *roles: Role) -> list[str]:
        """Paths of the linear layers that have one of the roles, each once: first those of self-attention, in the order
        of the roles, then those of cross-attention. Raises InputError where one is missing."""
        by_attention = zip_longest(*(self.stack.paths(role) for role in roles))
        return [self.at(path) for path in dict.fromkeys(path for paths in by_attention for path in paths if path)]

    def at(self, below: str) -> str:
        """The path of a module below the layer. Raises InputError where the model has none there."""
        path = f"{self.path}.{below}"
        if path not in self.modules:
            problem = f"the model has no module {path!r}, where its architecture should have one"
            raise no_modules(problem, self.modules)
        return path

    @property
    def attention(self) -> Sublayer:
        return self.stack.attention

    @property
    def feedforward(self) -> Sublayer:
        return self.stack.feedforward


def layers_of(model_type: str, modules: Iterable[str]) -> list[Layer]:
    """Every layer of a model, stack by stack, in the model's order.

    model_type: as in the model's config. modules: the module paths inside the base model.
    A layer that several stacks name belongs to the first that fits it, or to the last of them.
    Raises InputError, listing the candidate modules, for an unknown architecture and a model without such layers.
    """
    # In the model's order, and quick to look up.
    paths = dict.fromkeys(modules)
    stacks = facts(model_type).stacks
    if not stacks:
        known = ", ".join(model_types())
        raise no_modules(f"model_type {model_type!r} has no placement table (known: {known})", paths)
    claims: dict[str, list[Stack]] = {}
    for stack in stacks:
        pattern = re.compile(stack.layer)
        for path in paths:
            if pattern.fullmatch(path):
                claims.setdefault(path, []).append(stack)
    if not claims:
        raise no_modules(f"no layer of a {model_type} model found", paths)
    return [
        Layer(path, next((stack for stack in stacks if stack.fits(path, paths)), stacks[-1]), paths)
        for path, stacks in claims.items()
    ]


def matching_modules(modules: Iterable[str], target: str) -> list[str]:
    """The module paths that the expression `target` (of the option --target) matches as a whole.

    Raises InputError, listing the candidates, where it matches none, and for a broken expression.
    """
    paths = list(modules)
    pattern = expression("--target", target)
    matches = [path for path in paths if pattern.fullmatch(path)]
    if not matches:
        raise no_modules(f"--target {target!r} matches no module", paths)
    return matches


def expression(option: str, text: str) -> re.Pattern[str]:
    """The regular expression given with an option; raises InputError, naming the option, for what is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{option} {text!r}: not a regular expression: {error}") from None


def no_modules(problem: str, modules: Iterable[str]) -> InputError:
    """An error that lists the candidates: the innermost modules, one for each kind."""
    paths = [path for path in modules if path]
    inner = {path.rpartition(".")[0] for path in paths}
    leaves = sorted({_NUMBER.sub("N", path) for path in paths if path not in inner})
    return InputError(
        f"{problem}; choose modules with --target REGEX (full match, and --feedforward REGEX for those scaled at their "
        f"input); candidates: {', '.join(leaves)}"
    )
