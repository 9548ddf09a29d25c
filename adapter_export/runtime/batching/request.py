"""A request: one row that waits for a batch, and the future of its outputs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from adapter_export.runtime.adapters.choice import AdapterKey
from adapter_export.runtime.process import Home

_log = logging.getLogger(__name__)

# Outputs of one row by name, without the batch axis.
Outputs = dict[str, np.ndarray]


class RowFuture(Future[Outputs]):
    """The future of a request.

    In a fork of its process, where no worker runs, `result` and `exception` raise WrongProcess. Exceptions in callbacks
    are logged, so that they cannot end the worker.
    """

    def __init__(self) -> None:
        super().__init__()
        self._home = Home("a request's future")

    def result(self, timeout: float | None = None) -> Outputs:
        self._home.check()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._home.check()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Outputs]], object]) -> None:
        caller: int | None = threading.get_ident()

        def guarded(future: Future[Outputs]) -> None:
            try:
                fn(future)
            except BaseException as error:
                # Future itself logs an Exception. If the future is already done, the callback runs in the thread that
                # adds it; that caller gets any other error.
                if isinstance(error, Exception) or threading.get_ident() == caller:
                    raise
                _log.exception("batcher: the callback of a request's future raised")

        try:
            super().add_done_callback(guarded)
        finally:
            caller = None


@dataclass(eq=False)
class Request:
    """One row that waits for a batch.

    Attributes:
        inputs: Arrays of one row by name, without the batch axis.
        adapter: The adapter, or several with strengths; None for the base model.
        length: Number of tokens of the row.
        group: Rows of different groups cannot be in one batch.
        future: The outputs.
        admitted: True as soon as the request has a place in the queue; False if it will not get one.
        arrived: When the request asked for a place, in seconds of the queue's clock.
    """

    inputs: Mapping[str, np.ndarray]
    adapter: AdapterKey | None
    length: int
    group: Hashable
    future: Future[Outputs] = field(default_factory=RowFuture)
    admitted: Future[bool] = field(default_factory=Future)
    arrived: float = 0.0
