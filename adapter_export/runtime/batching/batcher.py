"""Requests of many callers, for different adapters, as batches of one session."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from types import TracebackType

import numpy as np

from adapter_export.bundle.manifest import MANY
from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.batching.choose import Limits
from adapter_export.runtime.batching.padding import Padding
from adapter_export.runtime.batching.queue import RequestQueue, closed
from adapter_export.runtime.batching.request import Outputs, Request
from adapter_export.runtime.batching.statistics import BatcherStatistics, Recorder
from adapter_export.runtime.process import Home
from adapter_export.runtime.session import AdapterSession

_log = logging.getLogger(__name__)


class DynamicBatcher:
    """Gathers requests of one row each into batches, for any number of threads and asyncio loops.

        with AdapterSession("bundle") as session, DynamicBatcher(session) as batcher:
            future = batcher.submit({"input_ids": ids, "attention_mask": mask}, adapter="sentiment")  # ids: [tokens]
            future.result()["logits"]                                                                 # [labels]
            (await batcher.run(inputs, adapter="topics"))["logits"]

    In mode bank, requests for different adapters become one batch; in other modes those of one adapter. A batch starts
    when it has max_batch rows, or its oldest row has waited max_wait seconds, and a worker is free; so under load it
    takes what came during the run before, and max_wait costs nothing. The oldest row is in every batch, and those
    nearest to it in length join it, as long as at most max_padding of the batch is padding.

    A row's outputs are those of its own run within the rounding of another batch shape, without the batch's axis, cut
    to the adapter's labels and to its own length. An error is the caller's whose row it is: rows that do not fit are
    refused before they are queued, and a batch that fails is run again in halves, down to the row at fault. Arrays
    given are read until the future is done: do not change them before.

    A future that is cancelled before its batch starts leaves the queue; a batch under way goes on without it. Callbacks
    of futures run in the worker's thread and hold it up; what they raise is logged, SystemExit as well.

    A batcher belongs to the process that made it: in a fork of that it takes no request, and futures have no result.
    """

    def __init__(
        self,
        session: AdapterSession,
        *,
        max_batch: int = 16,
        max_wait: float = 0.002,
        max_padding: float = 0.1,
        max_queue: int = 256,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_queue: rows that wait at most. workers: batches that run at once; ONNX Runtime uses all cores for one.

        Raises InputError for settings out of range, and for a bundle whose graph has a cache or mixes rows.
        """
        self._home = Home(f"DynamicBatcher of {session.bundle}")
        for name, value in {"max_batch": max_batch, "max_queue": max_queue, "workers": workers}.items():
            if value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")
        if not 0 <= max_wait <= threading.TIMEOUT_MAX:
            raise InputError(f"max_wait: expected at least 0 seconds, found {max_wait}")
        if not 0 <= max_padding < 1:
            raise InputError(f"max_padding: expected a share from 0 to below 1, found {max_padding}")
        self._session, self._clock = session, clock
        self._padding = Padding(session.bundle, session.manifest)
        self._queue = RequestQueue(max_queue, Limits(max_batch, session.slots, max_padding), max_wait, clock)
        self._recorder = Recorder()
        self._threads = [
            threading.Thread(target=self._work, name=f"adapter-export-batcher-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        # The interpreter does not wait for daemons, and ends badly under one that is inside ONNX Runtime.
        atexit.register(self.close, drain=False)

    def submit(
        self, inputs: Mapping[str, np.ndarray], adapter: str | None = None, *, timeout: float | None = None
    ) -> futures.Future[Outputs]:
        """Queue one row: the graph's inputs without their batch axis. Waits for a place when the queue is full.

        Raises InputError for inputs that are not the graph's and for an unknown adapter, and Unavailable when there is
        no place within `timeout` seconds (None: wait as long as it takes) or the batcher is closed.
        """
        request = self._request(inputs, adapter)
        if not self._knows(adapter):
            self._session.load(str(adapter))
        self._queue.put(request)
        try:
            admitted = request.admitted.result(timeout)
        except futures.TimeoutError:
            # Not cancelled: it got its place just now, and runs already.
            admitted = True
            if request.future.cancel():
                raise _full(timeout) from None
        except BaseException:  # whoever waits is interrupted, and nobody will have the future
            request.future.cancel()
            raise
        if not admitted:
            raise closed()
        return request.future

    async def run(
        self, inputs: Mapping[str, np.ndarray], adapter: str | None = None, *, timeout: float | None = None
    ) -> Outputs:
        """The outputs of one row; as `submit`, but waits without holding up the loop. Cancelled, its row is let go."""
        request = self._request(inputs, adapter)
        if not self._knows(adapter):
            await asyncio.to_thread(self._session.load, str(adapter))
        self._queue.put(request)
        try:
            if not request.admitted.done():
                # Unlike wait_for, it cancels nothing when it ends early.
                await asyncio.wait([asyncio.wrap_future(request.admitted)], timeout=timeout)
            if not request.admitted.done() and request.future.cancel():
                raise _full(timeout)
            if not request.admitted.result():
                raise closed()
            return await asyncio.wrap_future(request.future)
        except asyncio.CancelledError:
            request.future.cancel()
            raise

    def statistics(self) -> BatcherStatistics:
        self._home.check()
        return self._recorder.statistics(len(self._queue))

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests, finish those that are queued, and wait for it. Without `drain` only the batches under
        way finish, and the futures of the others raise Unavailable, as do callers that wait for a place. In a fork of
        the process there is nothing to end."""
        atexit.unregister(self.close)
        if not self._home.here:
            return
        self._queue.close(drain)
        for thread in self._threads:
            if thread is not threading.current_thread():  # a future's callback may close
                thread.join()

    def __enter__(self) -> DynamicBatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _request(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> Request:
        self._home.check()
        self._padding.check(inputs)
        group = self._padding.group(inputs), None if self._session.manifest.mode == "bank" else adapter
        return Request(dict(inputs), adapter, self._padding.length(inputs), group)

    def _knows(self, adapter: str | None) -> bool:
        """Whether a run takes the adapter as far as the session knows; the bundle may have been added to since.

        Raises InputError for one that no run will ever take.
        """
        try:
            self._session.labels(adapter)
        except InputError:
            if self._session.manifest.mode not in MANY:
                raise
            return adapter in self._session.adapters
        return True

    def _work(self) -> None:
        try:
            while (batch := self._queue.take()) is not None:
                self._answer(batch)
        except BaseException:  # nobody is to wait for a worker that is gone
            _log.exception("batcher: a worker has ended, and the batcher is closed")
            self._queue.close(drain=False)

    def _answer(self, batch: list[Request]) -> None:
        """Every row of the batch gets its outputs or an error, whatever happens."""
        try:
            now = self._clock()
            self._recorder.batch([request.length for request in batch], [now - request.arrived for request in batch])
            self._serve(batch)
        except BaseException as error:
            _log.exception("batcher: a batch of %d rows is given up", len(batch))
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)

    def _serve(self, batch: list[Request]) -> None:
        """Run a batch; one that fails in halves, so that only rows which fail by themselves get an error."""
        try:
            rows = self._session.run_rows(
                self._padding.stack([request.inputs for request in batch]), [request.adapter for request in batch]
            )
            results = [self._padding.cut(row, request.length) for row, request in zip(rows, batch, strict=True)]
        except Exception as error:  # whatever it is, it is the answer to somebody's request
            if len(batch) == 1:
                self._recorder.failure()
                batch[0].future.set_exception(error)
                return
            self._recorder.split()
        else:
            for request, result in zip(batch, results, strict=True):
                request.future.set_result(result)
            return
        half = len(batch) // 2
        self._serve(batch[:half])
        self._serve(batch[half:])


def _full(timeout: float | None) -> Unavailable:
    return Unavailable(f"batcher: the queue is full, and no place in it became free within {timeout} s")
