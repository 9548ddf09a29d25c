"""Generates for models whose rows cannot share runs: the graph of an encoder-decoder has no mask for its own tokens."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from adapter_export.errors import Unavailable
from adapter_export.runtime.adapters.choice import AdapterChoice
from adapter_export.runtime.continuous.log_probabilities import log_probabilities
from adapter_export.runtime.continuous.statistics import ContinuousStatistics
from adapter_export.runtime.continuous.stream import NewToken, TokenStream
from adapter_export.runtime.generation.prepare import Prompt
from adapter_export.runtime.generation.stream import Generation
from adapter_export.runtime.session import AdapterSession


class OneByOne:
    """Generates one row after the other, with the interface of `ContinuousBatcher`."""

    def __init__(self, session: AdapterSession, *, max_queue: int = 256) -> None:
        """Starts the thread.

        Args:
            session: The session of a bundle that generates.
            max_queue: Largest number of rows that wait.
        """
        self._session, self._max_queue = session, max_queue
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Generation, TokenStream, int | None]] = deque()
        self._closed = False
        self._requests = self._refused = self._tokens = self._running = 0
        self._thread = threading.Thread(target=self._work, name="adapter-export-generator", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Prompt,
        adapter: AdapterChoice = None,
        *,
        logprobs: int | None = None,
        **settings: Any,
    ) -> TokenStream:
        """Queues a prompt. It never waits; see `ContinuousBatcher.submit`."""
        generation = self._session.generate([prompt], adapter, **settings)
        stream = TokenStream(len(prompt))
        with self._changed:
            if self._closed:
                raise Unavailable("batcher: closed")
            if len(self._waiting) >= self._max_queue:
                self._refused += 1
                raise Unavailable(f"batcher: {self._max_queue} rows wait already")
            self._requests += 1
            self._waiting.append((generation, stream, logprobs))
            self._changed.notify_all()
        return stream

    def statistics(self) -> ContinuousStatistics:
        """Returns counts of the rows so far."""
        with self._changed:
            return ContinuousStatistics(
                self._requests, self._refused, self._tokens, self._tokens, len(self._waiting), self._running, 0
            )

    def close(self, *, drain: bool = True) -> None:
        """Refuses new rows, and waits until all rows have ended; see `ContinuousBatcher.close`."""
        with self._changed:
            self._closed = True
            if not drain:
                for _, stream, _ in self._waiting:
                    stream.end(Unavailable("batcher: closed"))
                self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = 0
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                generation, stream, logprobs = self._waiting.popleft()
                self._running = 1
            try:
                self._generate(generation, stream, logprobs)
            except Exception as error:  # of any kind: it is the result of this row
                stream.end(error)

    def _generate(self, generation: Generation, stream: TokenStream, logprobs: int | None) -> None:
        for step in generation:
            if stream.closed:
                generation.close()
                return
            ((token,), (finish,)) = step.tokens, step.finish
            assert token is not None
            self._tokens += 1
            stream.push(NewToken(token, finish, *log_probabilities(step.logits[0], token, logprobs)))
