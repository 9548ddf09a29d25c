"""A bundle to be measured: its session, its inputs, and the choices of adapters to run it with."""

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

# Names that no adapter can have.
NO_ADAPTER, MIXED = "(no adapter)", "(mixed rows)"
# The stages that are measured. A graph without a cache has one run. For generating, the prefill and the later tokens
# are measured separately.
RUN, PREFILL, TOKEN = "run", "prefill", "token"


@dataclass(frozen=True)
class Run:
    """One choice of adapters for a batch.

    Attributes:
        name: Name of the choice in the report.
        adapters: Adapters that the rows of a batch have in turn; None for the base model.
    """

    name: str
    adapters: tuple[str | None, ...]

    def rows(self, batch: int) -> list[str | None]:
        return [self.adapters[row % len(self.adapters)] for row in range(batch)]


class Subject:
    """An open bundle. Its adapters are loaded when they are first used.

    Attributes:
        bundle: Folder of the bundle.
        session: The session that is measured.
        manifest: The manifest of the bundle.
        maker: Makes the inputs.
        runs: The choices of adapters that are measured.
    """

    def __init__(self, bundle: Path, provider: str, threads: int | None) -> None:
        """Opens the bundle.

        Args:
            bundle: Folder of the bundle.
            provider: `cpu` or `cuda`.
            threads: Number of threads for one operator; None for ONNX Runtime's default.
        """
        self.bundle, self._provider, self._threads = bundle, provider, threads
        self.session = self.opened()
        self.manifest: Manifest = self.session.manifest
        self.maker = InputMaker(bundle, self.manifest)
        self.runs = runs_of(self.manifest, self.session.slots)

    @property
    def stages(self) -> tuple[str, ...]:
        return (PREFILL, TOKEN) if generates(self.manifest) else (RUN,)

    def opened(self) -> AdapterSession:
        """Returns another session of the bundle with the same settings."""
        return AdapterSession(self.bundle, self._provider, options=still_options(self._threads))

    def call(self, run: Run, batch: int, length: int) -> Callable[[], object]:
        """Returns a function that runs the graph once. For generating, that is the prefill with the first new token.

        Args:
            run: The choice of adapters.
            batch: Number of rows.
            length: Number of tokens of each row, including padding.
        """
        rows = run.rows(batch)
        if generates(self.manifest):
            prompts = self.maker.prompts(batch, length)
            # One more token than needed. Otherwise the generation would end, and free its cache, within the call.
            return lambda: next(self.session.generate(prompts, adapters=rows, max_new_tokens=2, ignore_eos=True))
        inputs = self.maker.inputs(batch, length)
        return lambda: self.session.run(inputs, adapters=rows)

    def tokens(self, run: Run, batch: int, length: int, count: int) -> Callable[[], object]:
        """Returns a function that generates one new token per row. It can be called `count` times.

        Args:
            run: The choice of adapters.
            batch: Number of rows.
            length: Number of tokens of each prompt.
            count: Largest number of calls.
        """
        prompts = self.maker.prompts(batch, length)
        generation = self.session.generate(prompts, adapters=run.rows(batch), max_new_tokens=count + 2, ignore_eos=True)
        next(generation)
        return lambda: next(generation)

    def room(self, length: int) -> int | None:
        """Returns how many new tokens the model has positions for after a prompt; None without a limit."""
        config = self.maker.config
        if self.manifest.longest_text is None:
            return None
        # The first new token belongs to the prefill. The last one ends the generation.
        return self.manifest.longest_text - positions_taken(self.manifest, config, length) - 1

    def check_length(self, length: int) -> None:
        """Raises InputError if the model does not have enough positions for texts of this length."""
        longest = self.maker.longest
        generated = 2 if generates(self.manifest) else 0
        if longest is not None and length + generated > longest:
            more = f" and {generated} new ones" if generated else ""
            raise InputError(
                f"--length {length}: {length} tokens{more} do not fit in the {longest} positions of {self.bundle}"
            )


def runs_of(manifest: Manifest, slots: int | None) -> tuple[Run, ...]:
    """Returns the choices of adapters to measure. All are compared with the first.

    They are: no adapter, the first adapter of each method, and for a bank rows with different adapters. If the adapter
    is in the graph, it is the only choice.

    Args:
        manifest: The manifest of the bundle.
        slots: How many adapters a bank holds at once; None in other modes.
    """
    firsts = {info.method: info.name for info in reversed(manifest.adapters)}
    alone = [Run(info.name, (info.name,)) for info in manifest.adapters if info.name in firsts.values()]
    if manifest.in_graph:
        return tuple(alone)
    mixed: Sequence[str] = [info.name for info in manifest.adapters][: slots or 0]
    return (Run(NO_ADAPTER, (None,)), *alone, *([Run(MIXED, tuple(mixed))] if len(mixed) > 1 else []))
