"""Runs what requests ask for: one session, and what combines the rows of many requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapter_export.errors import InputError
from adapter_export.reading.files import present
from adapter_export.runtime.adapters.watching import BundleWatch
from adapter_export.runtime.batching.batcher import DynamicBatcher
from adapter_export.runtime.continuous.batcher import ContinuousBatcher
from adapter_export.runtime.generation.prepare import generates
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder
from adapter_export.serving.generator import OneByOne
from adapter_export.serving.names import check_names
from adapter_export.serving.problems import Problem
from adapter_export.serving.settings import ServerSettings

log = logging.getLogger("adapter_export.serving")


@dataclass(frozen=True)
class Engine:
    """A bundle that is being served by this process.

    Attributes:
        session: The open bundle.
        batcher: Combines rows into batches; None if the bundle generates, or if rows cannot share a batch.
        generator: Generates tokens; None if the bundle does not generate.
        encoder: Turns texts into inputs; None if the bundle has no tokenizer, or does not read texts alone.
        prompts: Turns texts into prompts and tokens into texts; None in a bundle that does not generate, or that has no
            tokenizer.
        max_rows: Largest number of rows of one request.
        watch: Loads adapters again that `add` replaces; None if the adapter is in the graph.
    """

    session: AdapterSession
    batcher: DynamicBatcher | None
    generator: ContinuousBatcher | OneByOne | None
    encoder: TextEncoder | None
    prompts: PromptTexts | None
    max_rows: int
    watch: BundleWatch | None = None

    @property
    def generates(self) -> bool:
        """Whether the bundle generates tokens."""
        return self.generator is not None

    async def run(self, inputs: Sequence[Mapping[str, np.ndarray]], adapter: str | None) -> list[dict[str, np.ndarray]]:
        """Runs rows, and returns the outputs of each, both without a batch axis.

        Args:
            inputs: The inputs of each row by name.
            adapter: The adapter of all rows; None for the base model.

        Raises:
            InputError: A row does not fit the graph.
            Unavailable: The queue has no place for all rows.
        """
        assert self.batcher is not None
        tasks = [asyncio.ensure_future(self.batcher.run(row, adapter, timeout=0)) for row in inputs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def run_batch(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        """Runs a batch of equally long rows, and returns its outputs.

        Args:
            inputs: The inputs by name, with their batch axis.
            adapter: The adapter of all rows; None for the base model.

        Raises:
            Problem: There are too many rows, or inputs of different numbers of rows.
            InputError: The inputs do not fit the graph.
            Unavailable: The queue has no place for all rows.
        """
        if self.batcher is None:
            return await asyncio.to_thread(self.session.run, inputs, adapter)
        rows = {len(value) if value.ndim else 0 for value in inputs.values()}
        if len(rows) != 1 or 0 in rows:
            raise Problem(400, f"inputs: expected the same number of rows in each, at least 1; found {sorted(rows)}")
        (count,) = rows
        self.check_rows(count)
        found = await self.run([{name: value[row] for name, value in inputs.items()} for row in range(count)], adapter)
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def check_rows(self, rows: int) -> None:
        """Raises a Problem if a request has more rows than the queue could ever take."""
        if rows > self.max_rows:
            raise Problem(400, f"inputs: expected at most {self.max_rows} rows, found {rows}")

    def close(self) -> None:
        """Finishes all rows that were accepted, and closes the session."""
        if self.watch is not None:
            self.watch.stop()
        for part in (self.batcher, self.generator):
            if part is not None:
                part.close()
        self.session.close()


def open_engine(settings: ServerSettings) -> Engine:
    """Opens the bundle.

    Raises:
        InputError: The bundle is broken, or cannot be served.
        ProviderError: The session would run on another provider than the requested one.
    """
    session = AdapterSession(
        settings.bundle, provider=settings.provider, slots=settings.slots, expect_sha256=settings.expect_sha256
    )
    try:
        check_names(session)
        engine = _engine(session, settings)
        if session.manifest.mode.in_graph:
            return engine
        return replace(engine, watch=BundleWatch(session, on_error=lambda error: log.warning("%s", error)))
    except BaseException:
        session.close()
        raise


def _engine(session: AdapterSession, settings: ServerSettings) -> Engine:
    manifest = session.manifest
    tokenizer = present(session.bundle / "tokenizer.json")
    if generates(manifest):
        generator: ContinuousBatcher | OneByOne
        if manifest.encoder is None:
            generator = ContinuousBatcher(
                session,
                max_rows=settings.max_batch,
                max_queue=settings.max_queue,
                cache_bytes=settings.cache_bytes,
            )
        else:
            generator = OneByOne(session, max_queue=settings.max_queue)
        prompts = PromptTexts(session.bundle) if tokenizer else None
        return Engine(session, None, generator, None, prompts, settings.max_queue)
    encoder = None
    if tokenizer:
        with contextlib.suppress(InputError):  # a model that reads more than text
            encoder = TextEncoder(session.bundle, manifest)
    return Engine(session, _batcher(session, settings), None, encoder, None, settings.max_queue)


def _batcher(session: AdapterSession, settings: ServerSettings) -> DynamicBatcher | None:
    try:
        return DynamicBatcher(session, max_batch=settings.max_batch, max_queue=settings.max_queue)
    except InputError:  # a graph that compares the rows of a batch with each other
        return None
