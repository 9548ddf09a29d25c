"""A bundle under measurement: its session, and what it is run with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_export.bench.inputs import InputMaker
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.runtime.generation.prepare import generates, positions_taken
from adapter_export.runtime.provider import still_options
from adapter_export.runtime.session import AdapterSession

# No adapter can have these names.
NO_ADAPTER, MIXED = "(no adapter)", "(mixed rows)"
# What a graph is measured at: one that scores or embeds in its one run, one that generates in its first and the rest.
RUN, PREFILL, TOKEN = "run", "prefill", "token"


@dataclass(frozen=True)
class Run:
    """One way to run a bundle. adapters: of the rows of a batch, in turns; None for the base model."""

    name: str
    adapters: tuple[str | None, ...]

    def rows(self, batch: int) -> list[str | None]:
        return [self.adapters[row % len(self.adapters)] for row in range(batch)]


class MeasuredBundle:
    """An open bundle; its adapters are loaded when first run with."""

    def __init__(self, bundle: Path, provider: str, threads: int | None) -> None:
        """threads: of ONNX Runtime's operators; None for as many as it takes by itself."""
        self.bundle, self._provider, self._threads = bundle, provider, threads
        self.session = self.opened()
        self.manifest: Manifest = self.session.manifest
        self.maker = InputMaker(bundle, self.manifest)
        self.runs = runs_of(self.manifest, self.session.slots)

    @property
    def stages(self) -> tuple[str, ...]:
        return (PREFILL, TOKEN) if generates(self.manifest) else (RUN,)

    def opened(self) -> AdapterSession:
        """Another session of the bundle, made as this one's was."""
        return AdapterSession(self.bundle, self._provider, options=still_options(self._threads))

    def call(self, run: Run, batch: int, length: int) -> Callable[[], object]:
        """One whole run of the graph, or of a generation the prefill with its first token."""
        rows = run.rows(batch)
        if generates(self.manifest):
            prompts = self.maker.prompts(batch, length)
            # One more token than is asked for, or the generation would end, and free its cache, within the call.
            return lambda: next(self.session.generate(prompts, adapters=rows, max_new_tokens=2, ignore_eos=True))
        inputs = self.maker.inputs(batch, length)
        return lambda: self.session.run(inputs, adapters=rows)

    def tokens(self, run: Run, batch: int, length: int, count: int) -> Callable[[], object]:
        """One new token a row, at most `count` times after each other."""
        prompts = self.maker.prompts(batch, length)
        generation = self.session.generate(prompts, adapters=run.rows(batch), max_new_tokens=count + 2, ignore_eos=True)
        next(generation)
        return lambda: next(generation)

    def room(self, length: int) -> int | None:
        """How many new tokens the model has positions for after a prompt; None without a limit."""
        config = self.maker.config
        if self.manifest.longest_text is None:
            return None
        # The first of them is the prefill's, the last one ends the generation.
        return self.manifest.longest_text - positions_taken(self.manifest, config, length) - 1

    def check_length(self, length: int) -> None:
        """Raise InputError for a text that the model has no positions for."""
        longest = self.maker.longest
        generated = 2 if generates(self.manifest) else 0
        if longest is not None and length + generated > longest:
            more = f" and {generated} new ones" if generated else ""
            raise InputError(
                f"--length {length}: {length} tokens{more} do not fit in the {longest} positions of {self.bundle}"
            )


def runs_of(manifest: Manifest, slots: int | None) -> tuple[Run, ...]:
    """Without an adapter, with the first of each method, and of a bank rows of different ones; the first run is what
    the others are compared with. Where the adapter is in the graph, that alone."""
    firsts = {info.method: info.name for info in reversed(manifest.adapters)}
    alone = [Run(info.name, (info.name,)) for info in manifest.adapters if info.name in firsts.values()]
    if manifest.in_graph:
        return tuple(alone)
    mixed: Sequence[str] = [info.name for info in manifest.adapters][: slots or 0]
    return (Run(NO_ADAPTER, (None,)), *alone, *([Run(MIXED, tuple(mixed))] if len(mixed) > 1 else []))
