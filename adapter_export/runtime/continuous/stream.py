"""The new tokens of one row, for a thread or an asyncio task that waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from adapter_export.runtime.generation.stream import Finish


@dataclass(frozen=True)
class NewToken:
    """One new token of a row.

    Attributes:
        token: Its id.
        finish: Why the row has ended with this token; None while it continues.
        logprob: Natural logarithm of the token's probability, softmax of the model's logits before any rule or
            temperature; None if it was not asked for.
        top: The most probable tokens with such logarithms, the most probable first; as many as were asked for.
    """

    token: int
    finish: Finish | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokenStream:
    """The new tokens of one row, as they are chosen. For one reader: a thread, or an asyncio task.

        for new in stream: ...
        async for new in stream: ...

    The iteration ends after the token whose `finish` is not None, or raises the error that ended the row.
    `close` ends the row early; what was not read is lost then.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
    """

    def __init__(self, prompt_tokens: int, on_close: Callable[[], None] = lambda: None) -> None:
        """Makes an empty stream.

        Args:
            prompt_tokens: Number of tokens of the prompt.
            on_close: Called once, when the reader closes the stream.
        """
        self.prompt_tokens = prompt_tokens
        self._on_close = on_close
        self._lock = threading.Lock()
        # The last item is the end, once there is one: an error, or None for a normal end.
        self._items: deque[NewToken | BaseException | None] = deque()
        self._ended = self._closed = False
        # Done as soon as there is an item.
        self._arrival: Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the reader has closed the stream."""
        return self._closed

    def push(self, new: NewToken) -> None:
        """Adds a token, the last one if it has a `finish`. For the writer."""
        self._put(new, *(() if new.finish is None else (None,)))

    def end(self, error: BaseException | None = None) -> None:
        """Ends the stream, unless it has ended. For the writer.

        Args:
            error: Raised in the reader, in place of a normal end.
        """
        self._put(error)

    def close(self) -> None:
        """Ends the row, if it has not ended. The reader gets no further token."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._ended:
                self._items.clear()
        self.end()
        self._on_close()

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> NewToken:
        self._next_arrival().result()
        if (new := self._take()) is None:
            raise StopIteration
        return new

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> NewToken:
        await asyncio.wrap_future(self._next_arrival())
        if (new := self._take()) is None:
            raise StopAsyncIteration
        return new

    def _put(self, *items: NewToken | BaseException | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._items.extend(items)
            self._ended = not isinstance(items[-1], NewToken)
            arrival, self._arrival = self._arrival, None
        # A reader that was cancelled waits no more.
        if arrival is not None and arrival.set_running_or_notify_cancel():
            arrival.set_result(None)

    def _next_arrival(self) -> Future[None]:
        arrival: Future[None] = Future()
        with self._lock:
            if not self._items:
                self._arrival = arrival
                return arrival
        arrival.set_result(None)
        return arrival

    def _take(self) -> NewToken | None:
        """Returns the next token, None at the end, or raises the error that ended the row."""
        with self._lock:
            item = self._items.popleft() if isinstance(self._items[0], NewToken) else self._items[0]
        if isinstance(item, BaseException):
            raise item
        return item
