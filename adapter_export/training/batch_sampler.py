"""The order in which training sees its examples: the same for any number of processes, and for a resumed run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from adapter_export.errors import InputError

# Batches sorted by length together: enough that a batch holds texts of like length and little padding, and few
# enough that its texts are still a random choice.
POOL_BATCHES = 16


class EpochBatchSampler:
    """A batch sampler: the examples of each micro-batch that one of several processes works on.

    An epoch of n examples is ceil(n / batch_size) updates of equal size (to one example), shuffled by (seed, epoch).
    Each update is cut into `parts` micro-batches, and each of those into one share a process. Nothing is repeated or
    dropped, so the union over processes and parts, that is the gradient, is the same however an update is divided.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        parts: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """lengths: of each example, in tokens. Raises InputError when an update has too few examples to divide."""
        self.lengths = np.asarray(lengths)
        self.updates = -(-len(self.lengths) // batch_size)
        self.edges = [len(self.lengths) * i // self.updates for i in range(self.updates + 1)]
        self.seed, self.parts, self.rank, self.processes = seed, parts, rank, processes
        self.epoch = 0
        smallest = len(self.lengths) // self.updates
        if smallest < parts * processes:
            raise InputError(
                f"an update of {smallest} examples cannot be divided among {processes} processes with "
                f"{parts} gradient accumulation steps each: raise --batch-size (now {batch_size}) or use fewer"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.updates * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for update in self._updates():
            for part in np.array_split(update, self.parts):
                # Interleaved: every process gets long and short texts, and none waits for another.
                yield part[self.rank :: self.processes].tolist()

    def _updates(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(len(self.lengths))
        batches = []
        for first in range(0, self.updates, POOL_BATCHES):
            edges = self.edges[first : first + POOL_BATCHES + 1]
            pool = shuffled[edges[0] : edges[-1]]
            by_length = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += np.split(by_length, [edge - edges[0] for edge in edges[1:-1]])
        return [batches[i] for i in rng.permutation(len(batches))]
