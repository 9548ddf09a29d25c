"""Bundles of tiny models with a key-value cache, for tests that generate: each exported once a run, on first use, also
where several processes run the tests.

llama_bundle: rotary positions and grouped-query attention; fused_bundle: the same with fused operators; gpt2_bundle:
learned positions; t5_bundle, whisper_bundle: two graphs, Whisper's with LARGE many tokens. All swappable, room for
POSITIONS tokens, with adapters random in every tensor: `ia3`, and `houlsby` (bottlenecks of width 8); GPT-2 and Gemma 2
have `parallel` besides, of width 4 at places that `houlsby` has too; bundles in half precision have `lora` besides.
`export_cached` makes others. `logits_of` runs a generation and tells what its tokens were chosen from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.runtime.generation.stream import Generation
from tests.bundles import Exported

POSITIONS = 96
# A vocabulary that the exporter leaves as the model has it: it transposes smaller tables beforehand, for the logits.
LARGE = 9000


@pytest.fixture(scope="session")
def llama_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("llama")


@pytest.fixture(scope="session")
def fused_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("llama", fuse="cpu")


@pytest.fixture(scope="session")
def gpt2_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("gpt2")


@pytest.fixture(scope="session")
def t5_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("t5", "seq2seq-lm")


@pytest.fixture(scope="session")
def whisper_bundle(export_cached: Callable[..., Exported]) -> Exported:
    return export_cached("whisper", "seq2seq-lm")


@pytest.fixture(scope="session")
def export_cached(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    exported_once: Callable[..., Exported],
) -> Callable[..., Exported]:
    """Called as (model_type, task="causal-lm", mode="swappable", dtype="fp32", fuse="none", **config) -> Exported, each
    once. Takes some 10 seconds a graph.

    Modes merged and embedded have the one adapter that the mode is for: `ia3`, `houlsby`. config: as of `tiny_model`.
    """

    def make(model_type: str, task: str, mode: str, dtype: str, fuse: str, config: dict[str, Any]) -> Exported:
        info = tiny_info(model_type, task, **config)
        adapters = {
            "ia3": random_adapter(info, "ia3", 31),
            "houlsby": random_adapter(info, "bottleneck", 32, reduction_factor=4),
        }
        if model_type in ("gpt2", "gemma2"):
            adapters["parallel"] = random_adapter(info, "bottleneck", 33, placement="parallel", reduction_factor=8)
        if dtype != "fp32":
            adapters["lora"] = random_adapter(info, "lora", 34, rank=4, alpha=6)
        names = {"merged": ["ia3"], "embedded": ["houlsby"]}.get(mode, list(adapters))
        folders = {name: save_checkpoint(adapters[name], info) for name in names}
        base, bundle = tiny_model(model_type, task, **config), tmp_path_factory.mktemp(model_type) / "bundle"
        export_onnx(base, folders, bundle, mode=mode, task=task, dtype=dtype, fuse=fuse)
        return Exported(bundle, base, folders)

    @cache
    def once(
        model_type: str,
        task: str = "causal-lm",
        mode: str = "swappable",
        dtype: str = "fp32",
        fuse: str = "none",
        **config: Any,
    ) -> Exported:
        name = "-".join(map(str, (model_type, task, mode, dtype, fuse, *config.values())))
        room = "max_target_positions" if model_type == "whisper" else "max_position_embeddings"
        config = {room: POSITIONS, **_CONFIGS.get(model_type, {}), **config}
        return exported_once(name, lambda: make(model_type, task, mode, dtype, fuse, config))

    return once


_CONFIGS: dict[str, dict[str, Any]] = {
    # A sliding window shorter than most texts.
    "mistral": {"sliding_window": 6, "num_hidden_layers": 1},
    "qwen3": {"num_hidden_layers": 1},
    "opt": {"num_hidden_layers": 1},
    "bart": {"vocab_size": LARGE},
    "whisper": {"vocab_size": LARGE},
}


@pytest.fixture
def logits_of() -> Callable[[Generation], np.ndarray]:
    """Called with a generation, runs it to the end -> the logits its tokens were chosen from, [rows, steps, n]."""
    return lambda generation: np.stack([step.logits for step in generation], axis=1)
