"""Which of the rows that wait go together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapter_export.runtime.batching.request import Request


@dataclass(frozen=True)
class Limits:
    """Of one batch. rows: at most. adapters: different ones at most, None without a limit; no adapter is none of them.
    padding: at most this share of its tokens."""

    rows: int
    adapters: int | None
    padding: float


def choose(waiting: Iterable[Request], limits: Limits) -> list[Request]:
    """The oldest row, and those that fit beside it, nearest in length first and then oldest. waiting: oldest first.

    Whoever has k rows before him is thus in one of the next k + 1 batches, whatever comes after him.
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
