"""Runs requests of many callers, for different adapters, as batches of one session."""

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

from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.adapters.choice import AdapterChoice, AdapterKey, chosen
from adapter_export.runtime.batching.grouping import Limits
from adapter_export.runtime.batching.padding import Padding
from adapter_export.runtime.batching.queue import RequestQueue, closed
from adapter_export.runtime.batching.request import Outputs, Request
from adapter_export.runtime.batching.statistics import BatcherStatistics, Recorder
from adapter_export.runtime.process import Home
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.unknown import unknown_names

_log = logging.getLogger(__name__)


class DynamicBatcher:
    """Combines requests of one row each into batches. Any number of threads and asyncio loops may use one batcher.

        with AdapterSession("bundle") as session, DynamicBatcher(session) as batcher:
            future = batcher.submit({"input_ids": ids, "attention_mask": mask}, adapter="sentiment")  # ids: [tokens]
            future.result()["logits"]                                                                 # [labels]
            (await batcher.run(inputs, adapter="topics"))["logits"]

    In mode bank, a batch contains requests for different adapters; in other modes, for one adapter. A batch starts when
    a worker is free and the batch has `max_batch` rows or its oldest row has waited for `max_wait` seconds. Under load,
    the requests that arrive during one run form the next batch, so `max_wait` adds no delay. Each batch contains the
    oldest row, and the rows nearest to it in length, as long as at most `max_padding` of the batch is padding.

    The outputs of a row have no batch axis, and are cut to the labels of its adapter and to its own length. They equal
    the outputs of a run of this row alone, within the rounding of another batch shape. Errors go to the caller whose
    row caused them: rows that do not fit are refused before they are queued, and a batch that fails is run again in
    halves, until the row that fails is alone. Do not change the arrays of a request before its future is done.

    A future that is cancelled before its batch starts leaves the queue. Cancelling it later does not stop the batch.
    Callbacks of futures run in the thread of a worker, which waits for them. Exceptions that they raise are logged,
    including SystemExit.

    A batcher belongs to the process that made it. In a fork of that process it refuses requests, and its futures have
    no result.
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
        """Starts the workers.

        Args:
            session: The session that runs the batches.
            max_batch: Largest number of rows in a batch.
            max_wait: How long the oldest row waits for others, in seconds.
            max_padding: Largest share of padding among the tokens of a batch, from 0 to below 1.
            max_queue: Largest number of rows in the queue.
            workers: Number of batches that run at the same time. ONNX Runtime uses all cores for one batch.
            clock: Returns the time in seconds.

        Raises:
            InputError: A setting is out of range, or the bundle's graph has a cache or mixes the rows of a batch.
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
        # The interpreter does not wait for daemon threads when it ends, and may crash if one is inside ONNX Runtime.
        atexit.register(self.close, drain=False)

    def submit(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: AdapterChoice = None,
        *,
        head: str | None = None,
        timeout: float | None = None,
    ) -> futures.Future[Outputs]:
        """Queues one row. Waits for a place if the queue is full.

        Args:
            inputs: The inputs of the graph by name, without their batch axis.
            adapter: The adapter: a name, or the strengths of several by their names, as for `AdapterSession.run`; None
                for the base model.
            head: As for `AdapterSession.run`.
            timeout: How long to wait for a place, in seconds; None for no limit.

        Returns:
            A future of the outputs by name, without their batch axis.

        Raises:
            InputError: The inputs do not fit the graph, or the adapter is unknown.
            Unavailable: No place became free within `timeout`, or the batcher is closed.
        """
        request = self._request(inputs, chosen(adapter, head))
        for name in unknown_names(self._session, request.adapter):
            self._session.load(name)
        self._queue.put(request)
        try:
            admitted = request.admitted.result(timeout)
        except futures.TimeoutError:
            # If it cannot be cancelled, it has got a place in the meantime and is running.
            admitted = True
            if request.future.cancel():
                raise _full(timeout) from None
        except BaseException:  # the caller is interrupted while it waits, and will not get the future
            request.future.cancel()
            raise
        if not admitted:
            raise closed()
        return request.future

    async def run(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: AdapterChoice = None,
        *,
        head: str | None = None,
        timeout: float | None = None,
    ) -> Outputs:
        """Queues one row like `submit`, and returns its outputs. The event loop is not blocked meanwhile.

        If the coroutine is cancelled, the request is cancelled as well.

        Args:
            inputs: The inputs of the graph by name, without their batch axis.
            adapter: The adapter: a name, or the strengths of several by their names, as for `AdapterSession.run`; None
                for the base model.
            head: As for `AdapterSession.run`.
            timeout: How long to wait for a place, in seconds; None for no limit.

        Returns:
            The outputs by name, without their batch axis.

        Raises:
            InputError: The inputs do not fit the graph, or the adapter is unknown.
            Unavailable: No place became free within `timeout`, or the batcher is closed.
        """
        request = self._request(inputs, chosen(adapter, head))
        for name in unknown_names(self._session, request.adapter):
            await asyncio.to_thread(self._session.load, name)
        self._queue.put(request)
        try:
            if not request.admitted.done():
                # Unlike asyncio.wait_for, this cancels nothing at the timeout.
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
        """Returns counts and times of the requests and batches so far."""
        self._home.check()
        return self._recorder.statistics(len(self._queue))

    def close(self, *, drain: bool = True) -> None:
        """Refuses new requests, and waits until the workers have ended.

        Callers that wait for a place in the queue get Unavailable. In a fork of the process this does nothing.

        Args:
            drain: Whether to finish the queued requests. If not, only running batches finish, and the futures of
                queued requests raise Unavailable.
        """
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

    def _request(self, inputs: Mapping[str, np.ndarray], adapter: AdapterKey | None) -> Request:
        self._home.check()
        self._padding.check(inputs)
        group = self._padding.group(inputs), None if self._session.manifest.mode.per_row else adapter
        return Request(dict(inputs), adapter, self._padding.length(inputs), group)

    def _work(self) -> None:
        try:
            while (batch := self._queue.take()) is not None:
                self._answer(batch)
        except BaseException:  # without a worker, callers would wait forever
            _log.exception("batcher: a worker has ended, and the batcher is closed")
            self._queue.close(drain=False)

    def _answer(self, batch: list[Request]) -> None:
        """Runs the batch. Every request gets its outputs or an error, whatever happens."""
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
        """Runs a batch. If it fails, runs it again in halves, so that only rows that fail alone get an error."""
        try:
            rows = self._session.run_rows(
                self._padding.stack([request.inputs for request in batch]), [request.adapter for request in batch]
            )
            results = [self._padding.cut(row, request.length) for row, request in zip(rows, batch, strict=True)]
        except Exception as error:  # of any kind: it is the result of a request
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
