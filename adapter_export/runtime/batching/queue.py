"""The queue of the rows that wait for a batch. It has a limited number of places; further requests wait for a place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from adapter_export.errors import Unavailable
from adapter_export.runtime.batching.grouping import Limits, choose
from adapter_export.runtime.batching.request import Outputs, Request


class RequestQueue:
    """A queue with a limited number of places, for many threads. Requests get places in the order of their arrival.

    A batch leaves the queue when it is full, when its oldest row has waited for `max_wait` seconds, or when every place
    is taken, so that no other row can join it. A request whose future is cancelled leaves at once and frees its place.
    """

    def __init__(
        self, places: int, limits: Limits, max_wait: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Makes an empty queue.

        Args:
            places: Number of places.
            limits: Limits of a batch.
            max_wait: How long the oldest row waits for others, in seconds.
            clock: Returns the time in seconds.
        """
        self._places, self._limits, self._max_wait, self._clock = places, limits, max_wait, clock
        self._changed = threading.Condition()
        # Both in order of arrival. The keys are the futures, because a cancelled request is reported by its future.
        self._queued: dict[Future[Outputs], Request] = {}
        self._outside: dict[Future[Outputs], Request] = {}
        self._closed = False

    def __len__(self) -> int:
        """Number of requests that have a place."""
        with self._changed:
            return len(self._queued)

    def put(self, request: Request) -> None:
        """Queues the request as soon as there is a place for it. The result of its `admitted` is then True."""
        request.arrived = self._clock()
        request.future.add_done_callback(self._forget)
        with self._changed:
            if not self._closed:
                self._outside[request.future] = request
                self._admit()
                return
        request.admitted.set_result(False)

    def take(self) -> list[Request] | None:
        """Waits for the next batch and returns it. Its futures can no longer be cancelled.

        Returns:
            The requests of the batch; None if the queue is closed and empty.
        """
        with self._changed:
            while self._queued or not self._closed:
                batch, wait = self._next()
                if batch and wait <= 0:
                    started = self._start(batch)
                    self._admit()
                    if started:
                        return started
                else:
                    self._changed.wait(wait if batch else None)
            return None

    def close(self, drain: bool) -> None:
        """Gives no more places.

        Args:
            drain: Whether queued requests keep their places. If not, their futures raise Unavailable.
        """
        with self._changed:
            self._closed = True
            outside, queued = [*self._outside.values()], [] if drain else [*self._queued.values()]
            self._outside.clear()
            if not drain:
                self._queued.clear()
            self._changed.notify_all()
        for request in outside:
            request.admitted.set_result(False)
        for request in queued:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(closed())

    def _next(self) -> tuple[list[Request], float]:
        """Returns the batch that can be formed now, and for how many seconds to wait for more rows."""
        if not self._queued:
            return [], 0.0
        batch = choose(self._queued.values(), self._limits)
        if self._closed or len(batch) == self._limits.rows or len(self._queued) >= self._places:
            return batch, 0.0
        return batch, batch[0].arrived + self._max_wait - self._clock()

    def _start(self, batch: list[Request]) -> list[Request]:
        for request in batch:
            del self._queued[request.future]
        return [request for request in batch if request.future.set_running_or_notify_cancel()]

    def _admit(self) -> None:
        while self._outside and len(self._queued) < self._places:
            future = next(iter(self._outside))
            self._queued[future] = request = self._outside.pop(future)
            request.admitted.set_result(True)
        self._changed.notify_all()

    def _forget(self, future: Future[Outputs]) -> None:
        """Removes a request that was cancelled before its batch."""
        with self._changed:
            queued = self._queued.pop(future, None)
            if queued is None and self._outside.pop(future, None) is None:
                return
            # concurrent.futures.wait and as_completed count a cancelled future only after this.
            future.set_running_or_notify_cancel()
            self._admit()


def closed() -> Unavailable:
    """Returns the error for a request that arrives after the batcher was closed."""
    return Unavailable("batcher: closed")
