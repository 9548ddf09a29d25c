"""The batcher over real bundles: every row's outputs against its own single run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adapter_export import AdapterSession, DynamicBatcher, InputError
from tests.bundles import Exported

# Sums over rows of another batch shape round otherwise: float32 keeps 7 digits, the values are of size 1.
_ROUNDING = 1e-5
Row = dict[str, np.ndarray]


def row_of(rng: random.Random, length: int) -> Row:
    ids = np.array([rng.randrange(5, 100) for _ in range(length)], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def alone(session: AdapterSession, row: Row, adapter: str | None) -> Row:
    outputs = session.run({name: value[None] for name, value in row.items()}, adapter)
    return {name: value[0] for name, value in outputs.items()}


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=_ROUNDING, atol=_ROUNDING, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_each_row_of_a_bank_is_its_own_single_run(bank_bundle: Exported, seed: int) -> None:
    """Threads with random lengths, adapters and cancellations; with fewer slots than adapters, so some make way."""
    with (
        AdapterSession(bank_bundle.bundle, slots=(5, 2, 1)[seed]) as session,
        DynamicBatcher(session, max_batch=6, max_queue=20, max_padding=0.5, workers=1 + seed % 2) as batcher,
    ):
        names = [*session.adapters, None]

        def thread(number: int) -> int:
            rng, compared = random.Random(10 * seed + number), 0
            for _ in range(5):
                asked = [(row_of(rng, rng.choice([1, 3, 9, 10, 60])), rng.choice(names)) for _ in range(6)]
                futures = [batcher.submit(row, adapter) for row, adapter in asked]
                for future in futures:
                    if rng.random() < 0.2:
                        future.cancel()
                for future, (row, adapter) in zip(futures, asked, strict=True):
                    if not future.cancelled():
                        assert_same(future.result(60), alone(session, row, adapter))
                        compared += 1
            return compared

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(thread, range(8))) >= 100
        statistics = batcher.statistics()
        assert (statistics.failed, statistics.split, statistics.queued) == (0, 0, 0)
        assert statistics.rows_per_batch > 1


def test_tasks_of_a_loop_share_a_batch_of_a_bank(bank_bundle: Exported) -> None:
    rng = random.Random(4)
    with AdapterSession(bank_bundle.bundle) as session:
        asked = [(row_of(rng, rng.randint(5, 20)), adapter) for adapter in (*session.adapters, None)]

        async def main() -> list[Row]:
            with DynamicBatcher(session, max_batch=len(asked), max_wait=3600, max_padding=0.9) as batcher:
                outputs = await asyncio.gather(*(batcher.run(row, adapter) for row, adapter in asked))
                assert batcher.statistics().batches == 1
                return outputs

        for outputs, (row, adapter) in zip(asyncio.run(main()), asked, strict=True):
            assert_same(outputs, alone(session, row, adapter))
            assert len(outputs["logits"]) == len(session.labels(adapter) or ())


def test_a_row_the_graph_cannot_run_fails_alone(bank_bundle: Exported) -> None:
    rng = random.Random(5)
    with (
        AdapterSession(bank_bundle.bundle) as session,
        DynamicBatcher(session, max_batch=4, max_wait=3600, max_padding=0.9) as batcher,
    ):
        rows = [row_of(rng, length) for length in (9, 9, 70, 9)]  # longer than the model's positions
        rows[1]["input_ids"][3] = 1000  # not in its vocabulary
        futures = [batcher.submit(row, "ia3_three") for row in rows]
        for number, future in enumerate(futures):
            if number in (1, 2):
                assert isinstance(future.exception(60), InputError)
            else:
                assert_same(future.result(60), alone(session, rows[number], "ia3_three"))


def test_hidden_states_are_cut_to_the_row(features_bundle: Exported) -> None:
    """Mode swappable: a batch has one adapter."""
    rng = random.Random(6)
    with (
        AdapterSession(features_bundle.bundle) as session,
        DynamicBatcher(session, max_batch=4, max_wait=3600, max_padding=0.9) as batcher,
    ):
        asked = [(row_of(rng, 3 + i), (*session.adapters, None)[i % 3]) for i in range(12)]
        futures = [batcher.submit(row, adapter) for row, adapter in asked]
        for future, (row, adapter) in zip(futures, asked, strict=True):
            outputs = future.result(60)
            assert_same(outputs, alone(session, row, adapter))
            assert len(outputs["last_hidden_state"]) == len(row["input_ids"])
        assert batcher.statistics().batches == 3
        assert batcher.statistics().padding > 0
