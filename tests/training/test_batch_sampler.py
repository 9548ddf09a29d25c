"""The order of examples: every one once an epoch, the same however updates are divided."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.training.batch_sampler import EpochBatchSampler

LENGTHS = np.random.default_rng(0).integers(1, 100, 203).tolist()


def updates(parts: int = 1, processes: int = 1, epoch: int = 0, seed: int = 5) -> list[set[int]]:
    """The examples of each update, put together from every process and part."""
    merged: list[set[int]] = []
    for rank in range(processes):
        order = EpochBatchSampler(LENGTHS, 10, seed=seed, parts=parts, rank=rank, processes=processes)
        order.set_epoch(epoch)
        batches = list(order)
        assert len(batches) == len(order)
        assert all(batches), "no process may be without work"
        for i in range(len(batches) // parts):
            share = [example for batch in batches[i * parts : (i + 1) * parts] for example in batch]
            if rank == 0:
                merged.append(set())
            assert not merged[i] & set(share)
            merged[i] |= set(share)
    return merged


def test_an_epoch_has_every_example_once_in_updates_of_equal_size() -> None:
    made = updates()
    assert len(made) == 21
    assert sorted(example for update in made for example in update) == list(range(203))
    assert {len(update) for update in made} == {9, 10}


@pytest.mark.parametrize(("parts", "processes"), [(2, 1), (1, 2), (2, 3), (1, 9)])
def test_updates_do_not_depend_on_how_they_are_divided(parts: int, processes: int) -> None:
    assert updates(parts, processes) == updates()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert updates(epoch=1) != updates(epoch=0)
    assert updates(seed=6) != updates(seed=5)
    assert updates(epoch=1) == updates(epoch=1)


def test_texts_of_a_batch_have_like_lengths() -> None:
    spread = [np.ptp([LENGTHS[i] for i in update]) for update in updates()]
    assert np.mean(spread) < 20, "of 100 for a random batch"


def test_an_update_too_small_to_divide_is_refused() -> None:
    with pytest.raises(InputError, match="an update of 9 examples cannot be divided among 2 processes with 5 grad"):
        EpochBatchSampler(LENGTHS, 10, seed=0, parts=5, processes=2)
