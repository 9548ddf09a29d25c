"""Decoders with a cache: one that grows from run to run, and one that the graph writes in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export import AdapterSession, graft
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.generation.cache import CachedDecoder, SharedCacheDecoder
from adapter_export.runtime.generation.decoder_inputs import RightPaddedFeeds
from tests.bundles import Exported
from tests.finished import Finished

STEPS = 5


@pytest.mark.parametrize("prompts", [[[5]], [[5, 9, 7, 11], [8], [6, 30]]], ids=["one token", "rows"])
def test_in_place_and_grown_are_the_same(
    prompts: list[list[int]], finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """On GroupQueryAttention, whose values in the cache do not depend on where the cache is."""
    made = finished("fp32", "llama")
    manifest = graft(made.graph, {"lora": made.adapters["lora"]}, tmp_path / "bundle")
    info, rows = manifest.graphs[manifest.model], len(prompts)
    capacity = max(map(len, prompts)) + STEPS
    with AdapterSession(tmp_path / "bundle") as session:
        decoders = [
            CachedDecoder(session.bound(["lora"] * rows)[manifest.model], info, rows),
            SharedCacheDecoder(session.bound(["lora"] * rows)[manifest.model], info, rows, capacity),
        ]
        every = [RightPaddedFeeds(prompts, 0) for _ in decoders]
        inputs = [feeds.first() for feeds in every]
        for step in range(STEPS):
            grown, shared = (
                decoder.run(given, feeds.last) for decoder, given, feeds in zip(decoders, inputs, every, strict=True)
            )
            np.testing.assert_allclose(shared, grown, rtol=0, atol=1e-6 * np.abs(grown).max(), err_msg=f"step {step}")
            tokens = grown.argmax(axis=-1)
            inputs = [feeds.following(tokens) for feeds in every]


@pytest.mark.parametrize(("last", "kept"), [(None, 1), ([3, 1, 2], 3)])
def test_only_the_logits_that_are_read_are_computed(
    last: list[int] | None, kept: int, llama_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    run = BoundGraph.run

    def spy(self: BoundGraph, outputs: list[str], host: tuple[str, ...] = ()) -> Any:
        found = run(self, outputs, host)
        computed.append(found["logits"].numpy().shape[1])
        return found

    monkeypatch.setattr(BoundGraph, "run", spy)
    ids = np.array([[5, 9, 7, 11], [8, 3, 4, 4], [6, 30, 2, 9]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(4) + 0 * ids}
    columns = None if last is None else np.array(last)
    with AdapterSession(llama_bundle.bundle) as session:
        info = session.manifest.graphs[session.manifest.model]
        decoder = CachedDecoder(session.bound(["ia3"] * 3)[session.manifest.model], info, 3)
        every = decoder.logits(feeds).copy()
        decoder.forget()
        chosen = decoder.run(feeds, columns)
        decoder.forget()
        np.testing.assert_array_equal(decoder.logits(feeds), every)
    expected = every[np.arange(3), last or [3, 3, 3]]
    np.testing.assert_allclose(chosen, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert computed == [4, kept, 4]
