"""A row on its way into a batch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from adapter_export.runtime.process import Home

_log = logging.getLogger(__name__)

# Outputs of one row by name, without the batch's axis.
Outputs = dict[str, np.ndarray]


class RowFuture(Future[Outputs]):
    """A future that is worth nothing in a fork of its process, where no worker lives, and whose callbacks cannot end
    the worker: what they raise is logged."""

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
                # Future itself logs an Exception. Anything else is the caller's, who calls back at once where the
                # future is done.
                if isinstance(error, Exception) or threading.get_ident() == caller:
                    raise
                _log.exception("batcher: the callback of a request's future raised")

        try:
            super().add_done_callback(guarded)
        finally:
            caller = None


@dataclass(eq=False)
class Request:
    """inputs: arrays of one row, without the batch's axis. length: its tokens. group: rows of unequal groups cannot be
    in one batch. future: its outputs. admitted: True as soon as it has a place in the queue, False when it gets
    none any more. arrived: when it asked for one.
    """

    inputs: Mapping[str, np.ndarray]
    adapter: str | None
    length: int
    group: Hashable
    future: Future[Outputs] = field(default_factory=RowFuture)
    admitted: Future[bool] = field(default_factory=Future)
    arrived: float = 0.0
