"""Where the methods' sites are in an architecture, as data. Without torch: tracing and `add` share the tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from adapter_export.errors import InputError
from adapter_export.sites import Port, Site

# A module path with its layer numbers replaced, so that a list of candidates has one line a kind of module.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Stack:
    """One stack of like layers. All fields but `layer` are module paths below the layer.

    layer: regular expression of a layer's path in the base model; its first group is the layer's number.
    scaled_outputs: IA3's output side (keys and values, or the fused projection that holds them).
    scaled_inputs: IA3's input side (the feed-forward's second layer).
    attention_output, ffn_output: modules whose output is the sublayer's output h, just before the residual is added.
    attention_residual, ffn_residual: modules whose input is the sublayer's residual input x.
    attention_norm, ffn_norm: post-norm stacks only, the norm that follows h + x after each sublayer.
    hub_attention, hub_output: where AdapterHub keeps the two adapters of a layer in its tensor names.
    needs: a module of the base model, by its whole path, without which this is not the stack.
    """

    layer: str
    scaled_outputs: tuple[str, ...]
    scaled_inputs: tuple[str, ...]
    attention_output: str
    attention_residual: str
    ffn_output: str
    ffn_residual: str
    attention_norm: str | None = None
    ffn_norm: str | None = None
    hub_attention: str = "attention_adapters"
    hub_output: str = "output_adapters"
    needs: str | None = None

    def fits(self, layer: str, modules: Collection[str]) -> bool:
        """Whether the layer has every module that is named here."""
        named = (*self.scaled_outputs, *self.scaled_inputs, self.attention_output, self.attention_residual)
        named += (self.ffn_output, self.ffn_residual, *filter(None, (self.attention_norm, self.ffn_norm)))
        paths = [f"{layer}.{name}" for name in named]
        return all(path in modules for path in (*paths, *filter(None, [self.needs])))

    def after_attention(self, layer: str) -> Site:
        """Houlsby's first adapter: B(h) + h."""
        return Site(f"{layer}.{self.attention_output}", Port.OUTPUT)

    def after_ffn(self, layer: str) -> Site:
        """Houlsby's second adapter: B(h) + h."""
        return Site(f"{layer}.{self.ffn_output}", Port.OUTPUT)

    def beside_ffn(self, layer: str) -> Site:
        """The parallel adapter: B(x) + h."""
        return Site(f"{layer}.{self.ffn_output}", Port.OUTPUT, residual=f"{layer}.{self.ffn_residual}")

    def after_ffn_residual(self, layer: str) -> Site:
        """Pfeiffer's adapter. Post-norm: LN(B(LN(z)) + z), z = h + x. Pre-norm: B(z) + z on the layer's output."""
        return Site(layer, Port.OUTPUT) if self.ffn_norm is None else Site(f"{layer}.{self.ffn_norm}", Port.NORM)


class Placement(Protocol):
    """Answers which sites the methods use, given the base model's module paths."""

    def ia3_sites(self, modules: Iterable[str]) -> list[Site]: ...

    def bottleneck_sites(self, modules: Iterable[str], placement: str) -> list[Site]: ...


@dataclass(frozen=True)
class Architecture:
    """A table entry: the stacks of one `model_type`."""

    model_type: str
    stacks: tuple[Stack, ...]

    def layers(self, modules: Iterable[str]) -> Iterator[tuple[Stack, str]]:
        """Every layer by path, stack by stack, in the model's order. Raises InputError where there is none.

        A layer that several stacks name belongs to the first that fits it, or to the last of them.
        """
        modules = list(modules)
        known = set(modules)
        claims: dict[str, list[Stack]] = {}
        for stack in self.stacks:
            for path in modules:
                if re.fullmatch(stack.layer, path):
                    claims.setdefault(path, []).append(stack)
        if not claims:
            raise no_sites(f"no layer of a {self.model_type} model found", modules)
        for path, stacks in claims.items():
            yield next((stack for stack in stacks if stack.fits(path, known)), stacks[-1]), path

    def ia3_sites(self, modules: Iterable[str]) -> list[Site]:
        """The paper's placement: keys, values, and the input of the feed-forward's second layer."""
        modules = list(modules)
        sites = []
        for stack, layer in self.layers(modules):
            sites += [Site(f"{layer}.{name}", Port.OUTPUT) for name in stack.scaled_outputs]
            sites += [Site(f"{layer}.{name}", Port.INPUT) for name in stack.scaled_inputs]
        return _present(sites, modules)

    def bottleneck_sites(self, modules: Iterable[str], placement: str) -> list[Site]:
        """`houlsby`: after attention and after the feed-forward. `pfeiffer`: after the feed-forward's residual.
        `parallel`: beside the feed-forward."""
        modules = list(modules)
        sites = []
        for stack, layer in self.layers(modules):
            match placement:
                case "houlsby":
                    sites += [stack.after_attention(layer), stack.after_ffn(layer)]
                case "pfeiffer":
                    sites.append(stack.after_ffn_residual(layer))
                case "parallel":
                    sites.append(stack.beside_ffn(layer))
        return _present(sites, modules)


@dataclass(frozen=True)
class Custom:
    """Placement by regular expressions over module paths (full match), for architectures without a table entry.

    target: modules whose output is adapted. feedforward: those of them (IA3 only) whose input is scaled instead.
    """

    target: str
    feedforward: str | None = field(default=None)

    def ia3_sites(self, modules: Iterable[str]) -> list[Site]:
        sites = [
            Site(path, Port.INPUT if self.feedforward and re.fullmatch(self.feedforward, path) else Port.OUTPUT)
            for path in self._matches(modules)
        ]
        return sites

    def bottleneck_sites(self, modules: Iterable[str], placement: str) -> list[Site]:
        if self.feedforward is not None:
            raise InputError("--feedforward: only IA3 scales the input of a feed-forward layer; leave it out")
        if placement == "parallel":
            raise InputError("placement 'parallel': needs to know each layer's residual, which --target does not tell")
        return [Site(path, Port.OUTPUT) for path in self._matches(modules)]

    def _matches(self, modules: Iterable[str]) -> list[str]:
        modules = list(modules)
        matches = [path for path in modules if re.fullmatch(self.target, path)]
        if not matches:
            raise no_sites(f"--target {self.target!r} matches no module", modules)
        return matches


def no_sites(problem: str, modules: Iterable[str]) -> InputError:
    """An error that lists the candidates: the innermost modules, one line's worth per kind."""
    paths = [path for path in modules if path]
    inner = {path.rpartition(".")[0] for path in paths}
    leaves = sorted({_NUMBER.sub("N", path) for path in paths if path not in inner})
    return InputError(
        f"{problem}; choose modules with --target REGEX (full match, and --feedforward REGEX for those scaled at their "
        f"input); candidates: {', '.join(leaves)}"
    )


def _present(sites: list[Site], modules: list[str]) -> list[Site]:
    known = set(modules)
    if missing := [site.module for site in sites if site.module not in known]:
        raise no_sites(f"the model has no module {missing[0]!r}, where its architecture should have one", modules)
    return sites
