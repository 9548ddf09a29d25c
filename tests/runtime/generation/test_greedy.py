"""Greedy tokens of decoders, against PyTorch in float64, one row at a time and without a cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import ProviderError
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported

NEW = 64
LENGTHS = (5, 1, 17, 9)
# Of logits of some 10: rounding alone makes less (measured: 4.8e-6), and closer ones may change places.
CLOSE = 2e-5
# The same in float16, whose steps are 8,192 times as large (measured: 1.4e-2).
CLOSE_HALF = 3e-2

Logits = Callable[..., np.ndarray]


def check(exported: Exported, adapter: str | None, logits_of: Logits, close: float = CLOSE) -> int:
    """Every logit, and so every token, is that of one forward over all tokens before; of two tokens that are too close,
    any. Returns how many steps are decided, of len(LENGTHS) * NEW."""
    import torch

    rng = np.random.default_rng(0)
    prompts = [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in LENGTHS]
    base = load_base(exported.base, "causal-lm", dtype=torch.float64)
    if adapter is not None:
        inject(base.module, load_adapter(exported.adapters[adapter], base.info))
    clear = 0
    with AdapterSession(exported.bundle) as session:
        generation = session.generate(prompts, adapter, max_new_tokens=NEW, ignore_eos=True)
        found = logits_of(generation)
    for prompt, logits, row in zip(prompts, found, generation.completions(), strict=True):
        assert len(row.tokens) == NEW
        with torch.no_grad():
            wanted = base.module(torch.tensor([[*prompt, *row.tokens[:-1]]])).logits[0, len(prompt) - 1 :].numpy()
        assert np.abs(logits - wanted).max() < close
        best = np.sort(wanted, axis=1)
        assert (best[:, -1] - wanted[np.arange(NEW), list(row.tokens)]).max() < close
        clear += int((best[:, -1] - best[:, -2] >= close).sum())
    return clear


# Rotary and learned positions, grouped queries, queries and keys with norms, sliding windows shorter than the texts,
# capped logits, positions counted from the mask.
@pytest.mark.parametrize("adapter", [None, "ia3", "houlsby"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3", "gemma2", "gpt2", "opt"])
def test_tokens_and_logits_are_those_of_a_full_forward(
    model_type: str, adapter: str | None, export_cached: Callable[..., Exported], logits_of: Logits
) -> None:
    assert check(export_cached(model_type), adapter, logits_of) >= len(LENGTHS) * NEW - 2


@pytest.mark.parametrize(("mode", "adapter"), [("merged", "ia3"), ("embedded", "houlsby")])
def test_an_adapter_in_the_graph(
    mode: str, adapter: str, export_cached: Callable[..., Exported], logits_of: Logits
) -> None:
    assert check(export_cached("llama", mode=mode), adapter, logits_of) >= len(LENGTHS) * NEW - 2


@pytest.mark.parametrize("adapter", [None, "ia3", "houlsby"])
def test_float16_on_the_cpu(adapter: str | None, export_cached: Callable[..., Exported], logits_of: Logits) -> None:
    assert check(export_cached("llama", dtype="fp16"), adapter, logits_of, CLOSE_HALF) >= len(LENGTHS) * NEW * 0.9


def test_bfloat16_on_the_cpu_is_refused(llama_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(llama_bundle.bundle, tmp_path / "bundle"))
    write_manifest(bundle, replace(read_manifest(bundle), dtype="bfloat16"))
    with pytest.raises(ProviderError, match="computes in bfloat16, for which ONNX Runtime's CPU provider has no oper"):
        AdapterSession(bundle)
