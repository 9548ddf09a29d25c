"""Decoders with a cache: one that grows from run to run, and one that the graph writes in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapter_export import AdapterSession, graft
from adapter_export.runtime.generation.cache import CachedDecoder, SharedCacheDecoder
from adapter_export.runtime.generation.decoder_inputs import RightPaddedFeeds
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
