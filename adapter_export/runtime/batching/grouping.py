"""Chooses which of the waiting rows form the next batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapter_export.runtime.batching.request import Request


@dataclass(frozen=True)
class Limits:
    """Limits of one batch.

    Attributes:
        rows: Largest number of rows.
        adapters: Largest number of different adapters; None without a limit. The base model does not count.
        padding: Largest share of padding among the tokens of the batch.
    """

    rows: int
    adapters: int | None
    padding: float


def choose(waiting: Iterable[Request], limits: Limits) -> list[Request]:
    """Returns the requests of the next batch: the oldest, and those that fit in a batch with it.

    Requests whose length is nearest to that of the oldest are taken first; of equally near ones, the older.
    Fairness: a request with k older requests is served within the next k + 1 batches.

    Args:
        waiting: The waiting requests, oldest first; at least one.
        limits: Limits of the batch.
    """
    head, *others = waiting
    batch, adapters = [head], {head.adapter} - {None}
    tokens = longest = head.length
    mates = [request for request in others if request.group == head.group]
    for mate in sorted(mates, key=lambda request: abs(request.length - head.length)):
        if len(batch) == limits.rows:
            break
        with_mate = adapters | ({mate.adapter} - {None})
        if limits.adapters is not None and len(with_mate) > limits.adapters:
            continue
        length = max(longest, mate.length)
        if (computed := length * (len(batch) + 1)) - tokens - mate.length > limits.padding * computed:
            continue
        batch.append(mate)
        adapters, longest, tokens = with_mate, length, tokens + mate.length
    return batch
