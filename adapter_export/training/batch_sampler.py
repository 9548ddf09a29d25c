"""The order of the training examples: the same for any number of processes, and for a resumed run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from adapter_export.errors import InputError

# How many batches are sorted by length together. With this many, the texts of a batch have similar lengths and little
# padding, and the choice of texts for a batch is still random.
POOL_BATCHES = 16


class EpochBatchSampler:
    """A batch sampler: gives the examples of each micro-batch that one of several processes works on.

    An epoch of n examples is ceil(n / batch_size) updates of equal size (to one example), shuffled by (seed, epoch).
    Each update is cut into `parts` micro-batches, and each micro-batch into one share for each process. No example is
    repeated or dropped. So the union over processes and parts, and with it the gradient, is the same however an update
    is divided.
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
        """Makes the batch sampler of one process.

        Args:
            lengths: Number of tokens of each example.
            batch_size: Examples of an update, over all processes and parts together.
            seed: Seed of the shuffling.
            parts: Number of micro-batches of an update.
            rank: Number of this process, from 0.
            processes: Number of processes.

        Raises:
            InputError: An update has too few examples to divide.
        """
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
        """Sets the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.updates * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for update in self._updates():
            for part in np.array_split(update, self.parts):
                # Interleaved, so that each process gets long and short texts and no process waits for another.
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
