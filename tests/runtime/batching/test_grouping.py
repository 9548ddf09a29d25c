"""Which rows go together: properties over random queues."""

from __future__ import annotations

import random

import pytest

from adapter_export.runtime.batching.grouping import Limits, choose
from adapter_export.runtime.batching.request import Request


def request(length: int = 5, adapter: str | None = None, group: object = None) -> Request:
    return Request({}, adapter, length, group)


def lengths(batch: list[Request]) -> list[int]:
    return [row.length for row in batch]


def padding(batch: list[Request]) -> float:
    return 1 - sum(lengths(batch)) / (max(lengths(batch)) * len(batch))


def test_the_oldest_comes_first_and_the_nearest_in_length_join_it() -> None:
    waiting = [request(length) for length in (20, 12, 21, 500, 19, 22)]
    assert lengths(choose(waiting, Limits(4, None, 0.5))) == [20, 21, 19, 22]


def test_of_equally_near_ones_the_older_joins() -> None:
    waiting = [request(5) for _ in range(5)]
    assert choose(waiting, Limits(3, None, 0.5)) == waiting[:3]


def test_padding_is_bounded() -> None:
    long_among_short = [request(length) for length in (10, 10, 500, 10)]
    assert lengths(choose(long_among_short, Limits(8, None, 0.25))) == [10, 10, 10]
    short_behind_long = [request(length) for length in (500, 10, 490)]
    assert lengths(choose(short_behind_long, Limits(8, None, 0.25))) == [500, 490]
    assert lengths(choose(short_behind_long, Limits(8, None, 0.0))) == [500]


def test_groups_do_not_mix() -> None:
    waiting = [request(group=group) for group in "xyxyx"]
    assert choose(waiting, Limits(8, None, 0.5)) == waiting[::2]


def test_different_adapters_are_as_many_as_there_are_slots() -> None:
    waiting = [request(adapter=adapter) for adapter in ("a", "b", None, "c", "b", "a")]
    assert [row.adapter for row in choose(waiting, Limits(8, 2, 0.5))] == ["a", "b", None, "b", "a"]
    assert len(choose(waiting, Limits(8, None, 0.5))) == 6


@pytest.mark.parametrize("seed", range(20))
def test_nobody_starves(seed: int) -> None:
    """Whatever arrives, a row with k others before it goes with one of the next k + 1 batches."""
    rng = random.Random(seed)
    limits = Limits(rng.randint(1, 6), rng.choice([1, 2, 3, None]), rng.choice([0.0, 0.1, 0.25, 0.6]))
    waiting: list[Request] = []
    last_batch: dict[Request, int] = {}
    for number in range(300):
        for _ in range(rng.randint(0, 4) if number < 200 else 0):
            row = request(
                rng.choice([1, 3, 10, 11, 12, 100, 500]), rng.choice(["a", "b", "c", None]), rng.choice("xxy")
            )
            last_batch[row] = number + len(waiting)
            waiting.append(row)
        if not waiting:
            continue
        batch = choose(waiting, limits)
        assert batch[0] is waiting[0]
        assert len(set(batch)) == len(batch) <= limits.rows
        assert len({row.group for row in batch}) == 1
        assert padding(batch) <= limits.padding
        assert limits.adapters is None or len({row.adapter for row in batch} - {None}) <= limits.adapters
        assert all(number <= last_batch[row] for row in batch)
        waiting = [row for row in waiting if row not in batch]
