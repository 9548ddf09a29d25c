"""Statistics of a continuous batcher."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContinuousStatistics:
    """What a continuous batcher has done so far, and what it does now.

    Attributes:
        requests: Number of rows that were accepted.
        refused: Number of rows that found the queue full.
        tokens: Number of new tokens.
        steps: Number of runs that gave a batch its next tokens.
        waiting: Number of rows that wait for their first run.
        running: Number of rows that have begun and not ended.
        cached_tokens: Number of tokens that the caches of these rows may grow to, padding included.
    """

    requests: int
    refused: int
    tokens: int
    steps: int
    waiting: int
    running: int
    cached_tokens: int

    @property
    def rows_per_step(self) -> float:
        """Mean number of rows in a run that decodes."""
        return self.tokens / max(1, self.steps)
