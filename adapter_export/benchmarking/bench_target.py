"""A bundle that is measured: its session, and the ways in which it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_export.benchmarking.inputs import InputMaker
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.runtime.generation.prepare import generates, positions_taken
from adapter_export.runtime.provider import still_options
from adapter_export.runtime.session import AdapterSession

# Names of runs that are not runs of one adapter. No adapter can have these names.
NO_ADAPTER, MIXED = "(no adapter)", "(mixed rows)"
# Names of stages. A graph that scores or embeds texts has one stage: a run. A graph that generates has two: the run
# that reads the prompt, and a run that adds one token.
RUN, PREFILL, TOKEN = "run", "prefill", "token"


@dataclass(frozen=True)
class Run:
    """One way to run a bundle.

    Attributes:
        name: What the report calls it: the name of an adapter, NO_ADAPTER or MIXED.
        adapters: Names of adapters, given to the rows of a batch one after the other; None is the base model.
    """

    name: str
    adapters: tuple[str | None, ...]

    def rows(self, batch: int) -> list[str | None]:
        """Returns the adapter of each row of a batch."""
        return [self.adapters[row % len(self.adapters)] for row in range(batch)]


class BenchTarget:
    """An open bundle that is measured. An adapter is loaded by the first run that uses it.

    Attributes:
        bundle: Folder of the bundle.
        session: Its session, which whoever makes the target has to close.
        manifest: Its manifest.
        maker: Makes its inputs.
        runs: The ways in which it is run; the first is what the others are compared with.
    """

    def __init__(self, bundle: Path, provider: str, threads: int | None) -> None:
        """Opens a session of the bundle.

        Args:
            bundle: Folder of the bundle.
            provider: `cpu` or `cuda`.
            threads: Number of threads of ONNX Runtime's operators; None for its own choice.

        Raises:
            InputError: The bundle is broken, or its config does not tell the size of the vocabulary.
            ProviderError: The provider is not available.
        """
        self.bundle, self._provider, self._threads = bundle, provider, threads
        self.session = self.opened()
        self.manifest: Manifest = self.session.manifest
        self.maker = InputMaker(bundle, self.manifest)
        self.runs = runs_of(self.manifest, self.session.slots)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are measured, see RUN, PREFILL and TOKEN."""
        return (PREFILL, TOKEN) if generates(self.manifest) else (RUN,)

    def opened(self) -> AdapterSession:
        """Returns a new session of the bundle with the same settings."""
        return AdapterSession(self.bundle, provider=self._provider, options=still_options(self._threads))

    def call(self, run: Run, batch: int, length: int) -> Callable[[], object]:
        """Prepares one run of the graph; of a bundle that generates, the run that reads the prompt.

        Args:
            run: Which adapters the rows have.
            batch: Number of rows.
            length: Number of tokens of the longest row.

        Returns:
            A function that does the run.
        """
        rows = run.rows(batch)
        if generates(self.manifest):
            prompts = self.maker.prompts(batch, length)
            # One more token than is asked for, or the generation would end, and free its cache, within the call.
            return lambda: next(self.session.generate(prompts, adapters=rows, max_new_tokens=2, ignore_eos=True))
        inputs = self.maker.inputs(batch, length)
        return lambda: self.session.run(inputs, adapters=rows)

    def tokens(self, run: Run, batch: int, length: int, count: int) -> Callable[[], object]:
        """Prepares a generation after the run that reads the prompt.

        Args:
            run: Which adapters the rows have.
            batch: Number of rows.
            length: Number of tokens of the longest prompt.
            count: How often the function may be called.

        Returns:
            A function that adds one token to each row.
        """
        prompts = self.maker.prompts(batch, length)
        generation = self.session.generate(prompts, adapters=run.rows(batch), max_new_tokens=count + 2, ignore_eos=True)
        next(generation)
        return lambda: next(generation)

    def room(self, length: int) -> int | None:
        """Returns how many new tokens fit behind a prompt of `length` tokens; None if the model has no limit."""
        config = self.maker.config
        if self.manifest.longest_text is None:
            return None
        # The first of them is the prefill's, the last one ends the generation.
        return self.manifest.longest_text - positions_taken(self.manifest, config, length) - 1

    def check_length(self, length: int) -> None:
        """Raises InputError if the model has no positions for texts of `length` tokens."""
        longest = self.maker.longest
        generated = 2 if generates(self.manifest) else 0
        if longest is not None and length + generated > longest:
            more = f" and {generated} new ones" if generated else ""
            raise InputError(
                f"--length {length}: {length} tokens{more} do not fit in the {longest} positions of {self.bundle}"
            )


def runs_of(manifest: Manifest, slots: int | None) -> tuple[Run, ...]:
    """The ways to run a bundle: without an adapter, with one of each method, and of a bank with rows of several.

    Args:
        manifest: Manifest of the bundle.
        slots: How many adapters the session of a bank holds at once; None in other modes.

    Returns:
        At least one run. An adapter inside the graph is the only run of its bundle.
    """
    firsts = {info.method: info.name for info in reversed(manifest.adapters)}
    alone = [Run(info.name, (info.name,)) for info in manifest.adapters if info.name in firsts.values()]
    if manifest.in_graph:
        return tuple(alone)
    mixed: Sequence[str] = [info.name for info in manifest.adapters][: slots or 0]
    return (Run(NO_ADAPTER, (None,)), *alone, *([Run(MIXED, tuple(mixed))] if len(mixed) > 1 else []))
