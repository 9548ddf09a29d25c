"""Rows that wait for a batch: as many as have a place, and in front of it those that wait for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from adapter_export.errors import Unavailable
from adapter_export.runtime.batching.grouping import Limits, choose
from adapter_export.runtime.batching.request import Outputs, Request


class RequestQueue:
    """A queue of `places`, for many threads; places are given in the order in which they were asked for.

    A batch leaves when it is full, when its oldest row has waited `max_wait` seconds, or when nothing can come any more
    because every place is taken. A request whose future is cancelled leaves at once, and its place is free.
    """

    def __init__(
        self, places: int, limits: Limits, max_wait: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._places, self._limits, self._max_wait, self._clock = places, limits, max_wait, clock
        self._changed = threading.Condition()
        # By their futures, for those tell who is cancelled; both in order of arrival.
        self._queued: dict[Future[Outputs], Request] = {}
        self._outside: dict[Future[Outputs], Request] = {}
        self._closed = False

    def __len__(self) -> int:
        """Requests that have a place."""
        with self._changed:
            return len(self._queued)

    def put(self, request: Request) -> None:
        """Queue the request, when there is a place for it: its `admitted` tells."""
        request.arrived = self._clock()
        request.future.add_done_callback(self._forget)
        with self._changed:
            if not self._closed:
                self._outside[request.future] = request
                self._admit()
                return
        request.admitted.set_result(False)

    def take(self) -> list[Request] | None:
        """Wait for the next batch, whose futures can then no more be cancelled; None once closed and empty."""
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
        """Give no more places and, unless `drain`, take those given back: their futures raise Unavailable."""
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
        """What would go now, and for how long to wait for more."""
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
        """Let a request go that is done before its turn: cancelled."""
        with self._changed:
            queued = self._queued.pop(future, None)
            if queued is None and self._outside.pop(future, None) is None:
                return
            # concurrent.futures.wait and as_completed count a cancelled future only after this.
            future.set_running_or_notify_cancel()
            self._admit()


def closed() -> Unavailable:
    """What a request gets that comes too late."""
    return Unavailable("batcher: closed")
