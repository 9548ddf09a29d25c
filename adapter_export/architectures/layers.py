"""Finds the layers of a model among its module paths, and modules by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import zip_longest

from adapter_export.architectures.record import Role, Stack, Sublayer
from adapter_export.architectures.registry import facts, model_types
from adapter_export.errors import InputError

# The table that encoder and decoder have in common (BART, T5), and the names by which they call it. Files of a model
# have it under the first name only.
SHARED, USES_OF_SHARED = "shared", ("encoder.embed_tokens", "decoder.embed_tokens")
# Embeddings of transformers that are not called with the numbers of their rows. Of the others, positions are computed
# from masks or lengths (BART, OPT, Whisper), and a table is read as a whole (DeBERTa).
_NOT_CALLED = (SHARED, "embed_positions", "rel_embeddings")
# Matches the layer numbers in a module path, so that a list of candidates has one line for each kind of module.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Attributes:
        path: Its module path.
        stack: Its stack.
        modules: All module paths of the model.
    """

    path: str
    stack: Stack
    modules: Collection[str]

    def linear(self, *roles: Role) -> list[str]:
        """Returns the paths of the linear layers that have one of the roles, each once.

        Those of self-attention come first, in the order of the roles, then those of cross-attention.

        Raises:
            InputError: A layer is missing.
        """
        by_attention = zip_longest(*(self.stack.paths(role) for role in roles))
        return [self.at(path) for path in dict.fromkeys(path for paths in by_attention for path in paths if path)]

    def at(self, below: str) -> str:
        """Returns the path of a module below the layer. Raises InputError if the model has none there."""
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
    """Returns all layers of a model, stack by stack, in the order of the model.

    A layer that several stacks name belongs to the first stack that fits it, or to the last of them.

    Args:
        model_type: The `model_type` of the model's config.
        modules: The module paths inside the base model.

    Raises:
        InputError: The architecture is unknown, or the model has no such layers. The error lists candidate modules.
    """
    # A dict keeps the order of the model, and is fast to look up.
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
    """Returns the module paths that a regular expression matches as a whole.

    Args:
        modules: The module paths.
        target: The expression, as given with --target.

    Raises:
        InputError: It matches none (the error lists candidates), or is no regular expression.
    """
    paths = list(modules)
    pattern = expression("--target", target)
    matches = [path for path in paths if pattern.fullmatch(path)]
    if not matches:
        raise no_modules(f"--target {target!r} matches no module", paths)
    return matches


def expression(option: str, text: str) -> re.Pattern[str]:
    """Returns the regular expression given with an option. Raises InputError, naming the option, if it is invalid."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{option} {text!r}: not a regular expression: {error}") from None


def called_by_row(path: str) -> bool:
    """Returns whether a module of this path, if it is an embedding, is called with the numbers of its rows."""
    return path.rpartition(".")[2] not in _NOT_CALLED


def no_modules(problem: str, modules: Iterable[str]) -> InputError:
    """Returns an error that lists the candidates: the innermost modules, one for each kind."""
    paths = [path for path in modules if path]
    inner = {path.rpartition(".")[0] for path in paths}
    leaves = sorted({_NUMBER.sub("N", path) for path in paths if path not in inner})
    return InputError(
        f"{problem}; choose modules with --target REGEX (full match, and --feedforward REGEX for those scaled at their "
        f"input); candidates: {', '.join(leaves)}"
    )
