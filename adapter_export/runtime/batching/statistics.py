"""Statistics of a batcher."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Number of the latest waiting times from which percentiles are computed.
_WAITS = 4096
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class BatcherStatistics:
    """What a batcher has done so far.

    Attributes:
        requests: Number of requests that ran.
        failed: Number of requests that ended in an error.
        batches: Number of batches that ran.
        split: Number of batches that failed and were run again in halves.
        rows_per_batch: Mean number of rows in a batch.
        padding: Share of padding among the tokens computed.
        queued: Number of requests in the queue now.
        waits: Seconds from the arrival of a request to the start of its batch, by percentile (50, 90, 99), over the
            last 4,096 requests.
    """

    requests: int
    failed: int
    batches: int
    split: int
    rows_per_batch: float
    padding: float
    queued: int
    waits: Mapping[int, float]


class Recorder:
    """Counts requests and batches for many threads. Its memory does not grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._failed = self._batches = self._split = 0
        self._tokens = self._computed = 0
        self._waits: deque[float] = deque(maxlen=_WAITS)

    def batch(self, lengths: Sequence[int], waits: Sequence[float]) -> None:
        """Counts a batch that starts now.

        Args:
            lengths: Number of tokens of each row.
            waits: Seconds that each row has waited.
        """
        with self._lock:
            self._batches += 1
            self._requests += len(lengths)
            self._tokens += sum(lengths)
            self._computed += max(lengths) * len(lengths)
            self._waits.extend(waits)

    def split(self) -> None:
        """Counts a batch that failed and is run again in halves."""
        with self._lock:
            self._split += 1

    def failure(self) -> None:
        """Counts a request that failed alone."""
        with self._lock:
            self._failed += 1

    def statistics(self, queued: int) -> BatcherStatistics:
        """Returns the counts so far, with the number of queued requests."""
        with self._lock:
            waits = np.array(self._waits)
            return BatcherStatistics(
                requests=self._requests,
                failed=self._failed,
                batches=self._batches,
                split=self._split,
                rows_per_batch=self._requests / max(1, self._batches),
                padding=1 - self._tokens / max(1, self._computed) if self._computed else 0.0,
                queued=queued,
                waits={p: float(np.percentile(waits, p)) if len(waits) else 0.0 for p in _PERCENTILES},
            )
