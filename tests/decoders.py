"""Bundles of tiny models with a key-value cache, for tests that generate: each exported once a run, on first use.

llama_bundle: rotary positions and grouped-query attention; gpt2_bundle: learned positions. Both swappable, room for
POSITIONS tokens, with adapters random in every tensor: `ia3`, and `houlsby` (bottlenecks of width 8). `export_cached`
makes others, also of encoder-decoders. `logits_of` runs a generation and tells what its tokens were chosen from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.runtime.generation.stream import Generation
from tests.bundles import Exported

POSITIONS = 96


@pytest.fixture(scope="session")
def llama_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("llama", max_position_embeddings=POSITIONS)


@pytest.fixture(scope="session")
def gpt2_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("gpt2", max_position_embeddings=POSITIONS)


@pytest.fixture(scope="session")
def export_cached(
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Callable[..., Exported]:
    """Called as (model_type, task="causal-lm", **config) -> Exported, each once. Takes some 10 seconds a graph."""

    @cache
    def make(model_type: str, task: str = "causal-lm", **config: int) -> Exported:
        info = tiny_info(model_type, task, **config)
        adapters = {
            "ia3": save_checkpoint(random_adapter(info, "ia3", 31), info),
            "houlsby": save_checkpoint(random_adapter(info, "bottleneck", 32, reduction_factor=4), info),
        }
        return export(tiny_model(model_type, task, **config), adapters, task=task)

    return make


@pytest.fixture
def logits_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Generation], np.ndarray]:
    """Called with a generation, runs it to the end -> the logits its tokens were chosen from, [rows, steps, n]."""

    def run(generation: Generation) -> np.ndarray:
        decoder = generation._decoder
        assert decoder is not None
        inner, steps = decoder.run, []

        def recorded(feeds: Mapping[str, np.ndarray]) -> np.ndarray:
            steps.append(inner(feeds))
            return steps[-1]

        monkeypatch.setattr(decoder, "run", recorded)
        generation.completions()
        return np.stack(steps, axis=1)

    return run
