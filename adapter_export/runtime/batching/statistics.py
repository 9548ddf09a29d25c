"""What a batcher did."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Waits that percentiles are taken of: the last ones.
_WAITS = 4096
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class BatcherStatistics:
    """requests, batches: that ran. failed: requests that ended in an error. split: batches that failed as a whole and
    were run again in parts. padding: share of the tokens computed that were padding. queued: requests that wait now.
    waits: seconds from asking for a place to the start of the batch, by percentile, of the last 4,096 requests.
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
    """Counts, for many threads, in memory that does not grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._failed = self._batches = self._split = 0
        self._tokens = self._computed = 0
        self._waits: deque[float] = deque(maxlen=_WAITS)

    def batch(self, lengths: Sequence[int], waits: Sequence[float]) -> None:
        """A batch of rows of these lengths begins, which have waited so long."""
        with self._lock:
            self._batches += 1
            self._requests += len(lengths)
            self._tokens += sum(lengths)
            self._computed += max(lengths) * len(lengths)
            self._waits.extend(waits)

    def split(self) -> None:
        """A batch failed as a whole."""
        with self._lock:
            self._split += 1

    def failure(self) -> None:
        """A request failed by itself."""
        with self._lock:
            self._failed += 1

    def statistics(self, queued: int) -> BatcherStatistics:
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
