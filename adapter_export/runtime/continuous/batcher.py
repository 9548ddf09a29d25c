"""Generates for many callers at once. Prompts join the batch, and rows leave it, between two tokens."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import Any

from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.adapters.choice import AdapterChoice, AdapterKey, chosen
from adapter_export.runtime.adapters.loaded import LoadedAdapter
from adapter_export.runtime.continuous.caches import bytes_per_token
from adapter_export.runtime.continuous.lane import Lane, read_prompt
from adapter_export.runtime.continuous.row import Row
from adapter_export.runtime.continuous.statistics import ContinuousStatistics
from adapter_export.runtime.continuous.stream import TokenStream
from adapter_export.runtime.generation.prepare import (
    Prompt,
    check_generates,
    check_room,
    prompt_tokens,
    row_processors,
    stop_tokens,
)
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.generation.settings import GenerationSettings
from adapter_export.runtime.process import Home
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.unknown import unknown_names

_log = logging.getLogger(__name__)

# Tokens of a prompt that are read between two steps of the rows that decode. Larger parts read a prompt sooner, and let
# the other rows wait longer.
PROMPT_PART = 256


class ContinuousBatcher:
    """Generates for any number of threads and asyncio tasks, with rows of one batch that begin and end independently.

        with AdapterSession("bundle") as session, ContinuousBatcher(session) as batcher:
            for new in batcher.submit(prompt, "poems", max_new_tokens=64):
                print(new.token, new.finish)

    A thread of the batcher repeats the following: it takes waiting rows, as long as there is memory for their caches;
    it reads a part of one prompt; and it runs the graph once, for the next token of all rows that decode. In mode bank,
    rows of different adapters share that run. In other modes there is one run for each adapter in use.

    The tokens of a row are those of `AdapterSession.generate` for this row alone, up to the rounding of a batch of
    another shape. A row keeps the version of its adapter that it began with. Errors of a prompt, or of choosing a
    token, end that row alone. If a run of several rows fails, all of them end with its error.

    A batcher belongs to the process that made it. In a fork of that process it refuses requests.
    """

    def __init__(
        self, session: AdapterSession, *, max_rows: int = 16, max_queue: int = 256, cache_bytes: int = 1 << 30
    ) -> None:
        """Starts the thread.

        Args:
            session: The session of a bundle that generates.
            max_rows: Largest number of rows that decode at the same time.
            max_queue: Largest number of rows that wait.
            cache_bytes: Largest number of bytes of all caches: rows x tokens of the longest row, with the new tokens
                that it may get. During a run, the new cache of a graph that returns a longer one is in memory as well.

        Raises:
            InputError: A setting is out of range, the bundle does not generate, or it is an encoder-decoder, whose rows
                cannot share runs unless they begin together.
        """
        self._home = Home(f"ContinuousBatcher of {session.bundle}")
        for name, value in {"max_rows": max_rows, "max_queue": max_queue, "cache_bytes": cache_bytes}.items():
            if value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")
        check_generates(session.bundle, manifest := session.manifest)
        if manifest.encoder is not None:
            raise InputError(f"bundle {session.bundle}: expected a model without an encoder, found two graphs")
        if manifest.right_padded and not session.provider.on_host:
            raise InputError(f"bundle {session.bundle}: its caches are written in place, which is done on the cpu only")
        self._session, self._config = session, session.generation_config
        self._vocabulary = manifest.outputs["logits"].shape[-1]
        self._per_row = manifest.mode.per_row
        self._max_rows, self._max_queue = max_rows, max_queue
        self._most_tokens = cache_bytes // bytes_per_token(manifest.graphs[manifest.model])
        # A cache is invalid beyond this length, and prompts that are longer must be read at once.
        self._border = manifest.reread_at
        self._part = None if manifest.right_padded or self._border is not None else PROMPT_PART
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._reading: deque[Row] = deque()
        # By the loaded adapter, as rows of another version of it cannot join; in mode bank all rows are in one lane.
        self._lanes: dict[LoadedAdapter | None, Lane] = {}
        self._closed = self._draining = False
        self._requests = self._refused = self._tokens = self._steps = 0
        self._thread = threading.Thread(target=self._work, name="adapter-export-continuous", daemon=True)
        self._thread.start()
        # The interpreter does not wait for daemon threads when it ends, and may crash if one is inside ONNX Runtime.
        atexit.register(self.close, drain=False)

    def submit(
        self,
        prompt: Prompt,
        adapter: AdapterChoice = None,
        *,
        head: str | None = None,
        logprobs: int | None = None,
        **settings: Any,
    ) -> TokenStream:
        """Queues a prompt. It never waits.

        Args:
            prompt: Token ids.
            adapter: The adapter, or several with strengths, as for `AdapterSession.run`; None for the base model.
            head: As for `AdapterSession.run`.
            logprobs: Number of most probable tokens to return with each new one, with logarithms of probabilities; 0
                for that of the new token alone; None for none.
            settings: `max_new_tokens` and the other settings of `AdapterSession.generate`.

        Returns:
            The new tokens as they are chosen.

        Raises:
            InputError: A setting is out of range, the adapter is unknown, or the prompt does not fit in the model or in
                `cache_bytes`.
            Unavailable: The queue is full, or the batcher is closed.
        """
        self._home.check()
        row = self._row(prompt, chosen(adapter, head), logprobs, GenerationSettings(**settings))
        with self._changed:
            if self._closed:
                raise Unavailable("batcher: closed")
            if len(self._waiting) >= self._max_queue:
                self._refused += 1
                raise Unavailable(f"batcher: {self._max_queue} rows wait already")
            self._requests += 1
            self._waiting.append(row)
            self._changed.notify_all()
        return row.stream

    def statistics(self) -> ContinuousStatistics:
        """Returns counts of the rows and steps so far."""
        self._home.check()
        with self._changed:
            return ContinuousStatistics(
                requests=self._requests,
                refused=self._refused,
                tokens=self._tokens,
                steps=self._steps,
                waiting=len(self._waiting),
                running=len(self._running()),
                cached_tokens=self._cached_tokens(),
            )

    def close(self, *, drain: bool = True) -> None:
        """Refuses new rows, and waits until the thread has ended. In a fork of the process this does nothing.

        Args:
            drain: Whether to finish all rows. If not, their readers get Unavailable.
        """
        atexit.unregister(self.close)
        if not self._home.here:
            return
        with self._changed:
            self._closed, self._draining = True, drain
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> ContinuousBatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _row(
        self, prompt: Prompt, adapter: AdapterKey | None, logprobs: int | None, settings: GenerationSettings
    ) -> Row:
        """Checks a request, and returns its row."""
        if settings.prefix:
            raise InputError("prefix: expected none, as this model continues the prompt itself")
        if logprobs is not None and (type(logprobs) is not int or logprobs < 0):
            raise InputError(f"logprobs: expected a whole number from 0, found {logprobs!r}")
        manifest, config = self._session.manifest, self._config
        tokens = prompt_tokens("prompt", prompt, self._vocabulary)
        check_room("prompt", len(tokens), settings.max_new_tokens, manifest.longest_text)
        limit = len(tokens) + settings.max_new_tokens
        if limit > self._most_tokens:
            raise InputError(
                f"prompt: {len(tokens)} tokens and {settings.max_new_tokens} new ones do not fit in the memory for "
                f"{self._most_tokens} tokens (cache_bytes)"
            )
        if isinstance(self._vocabulary, int):
            config.rules.check(self._vocabulary)
        for name in unknown_names(self._session, adapter):
            self._session.load(name)
        stops = stop_tokens(config, settings, self._vocabulary)
        processors = row_processors(config, settings, tokens, tokens)
        (generator,) = settings.generators(1)
        chooser = RowChooser(0, replace(settings, seed=None), tokens, generator, processors)
        stream = TokenStream(len(tokens), self._wake)
        return Row(tokens, adapter, chooser, stops, settings.max_new_tokens, logprobs, stream)

    def _wake(self) -> None:
        """Lets the thread see that a reader has closed its stream."""
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while self._has_work():
                self._take_waiting()
                self._read_one()
                self._step_all()
        except BaseException as error:  # without the thread, callers would wait forever
            _log.exception("continuous batcher: its thread has ended, and the batcher is closed")
            self._end_all(error)

    def _has_work(self) -> bool:
        """Waits for rows. Returns False if the batcher is closed and no row is left."""
        with self._changed:
            while True:
                if self._closed and not self._draining:
                    self._end_all(Unavailable("batcher: closed"))
                    return False
                self._drop_closed()
                if self._waiting or self._running():
                    return True
                if self._closed:
                    return False
                self._changed.wait()

    def _running(self) -> list[Row]:
        return [*self._reading, *(row for lane in self._lanes.values() for row in lane.rows)]

    def _drop_closed(self) -> None:
        """Ends the rows whose readers have closed their streams."""
        for row in (*self._waiting, *self._running()):
            if row.stream.closed and not row.ended:
                row.release()
        self._waiting = deque(row for row in self._waiting if not row.ended)
        self._reading = deque(row for row in self._reading if not row.ended)
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.rows}

    def _take_waiting(self) -> None:
        """Takes rows in the order of their arrival, as long as there is memory for their caches and adapters."""
        while True:
            with self._changed:
                running = self._running()
                if not self._waiting or len(running) >= self._max_rows:
                    return
                row = self._waiting[0]
                if running and not self._fits(row):
                    return
                self._waiting.popleft()
                self._reading.append(row)
            try:
                # Reads the adapter from its file if it is not in memory.
                row.lease = self._session.lease([row.adapter])
            except Exception as error:  # of any kind: it is the result of this row
                row.fail(error)
                with self._changed:
                    self._reading.remove(row)

    def _fits(self, row: Row) -> bool:
        return self._cached_tokens(row) <= self._most_tokens and self._session.has_room(row.adapter)

    def _cached_tokens(self, joining: Row | None = None) -> int:
        """Returns the most tokens that the caches may hold, each row as long as the longest of its lane."""
        lanes: dict[AdapterKey | None, list[int]] = {}
        for row in (*self._running(), *(() if joining is None else (joining,))):
            lanes.setdefault(None if self._per_row else row.adapter, []).append(row.limit)
        return sum(len(limits) * max(limits) for limits in lanes.values())

    def _read_one(self) -> None:
        """Reads a part of the oldest prompt. A row that has been read joins its lane."""
        if not self._reading:
            return
        row = self._reading[0]
        chose = False
        try:
            chose = read_prompt(self._session, row, self._part)
        except Exception as error:  # of any kind: it is the result of this row
            row.fail(error)
        with self._changed:
            self._tokens += chose
            if row.ended or not self._must_read(row):
                self._reading.popleft()
            if not row.ended and not self._must_read(row):
                assert row.lease is not None
                key = None if self._per_row else row.lease.adapters[0]
                self._lanes.setdefault(key, Lane(self._session)).join(row)

    def _must_read(self, row: Row) -> bool:
        """Returns whether a row has more to read than its last token. At the border all of it must be read again."""
        if self._border is not None and row.read == self._border:
            row.read_again()
        return len(row.unread) > 1

    def _step_all(self) -> None:
        """Gives the rows of every lane their next token. No name keeps a lane after this: it holds adapters."""
        for lane in list(self._lanes.values()):
            self._step(lane)

    def _step(self, lane: Lane) -> None:
        rows = lane.step()
        with self._changed:
            self._tokens += rows
            self._steps += bool(rows)
            for row in lane.rows:
                if self._must_read(row):
                    lane.leave(row)
                    self._reading.append(row)

    def _end_all(self, error: BaseException) -> None:
        with self._changed:
            self._closed = True
            for row in (*self._waiting, *self._running()):
                row.fail(error)
            self._waiting.clear()
            self._reading.clear()
            self._lanes.clear()
