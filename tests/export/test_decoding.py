"""Decoders with a key-value cache, in plain ONNX Runtime, against one full forward in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.graphs import MODEL, is_past
from adapter_export.bundle.manifest import read_manifest
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.export.decoding import decoding
from adapter_export.export.modes import lower_mode
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from tests.bundles import Exported

# Outputs are of order 10; float32 differs from the float32 reference by rounding only. Measured: at most 4.8e-6.
TOLERANCE = 3e-5
BATCH, LENGTH = 3, 11


class Decoder:
    """A tiny decoder's swappable graph with a cache, its adapters, and a left-padded batch."""

    def __init__(self, exported: Exported) -> None:
        self.base = load_base(exported.base, "causal-lm")
        self.adapters = {name: load_adapter(path, self.base.info) for name, path in exported.adapters.items()}
        self.graph = read_manifest(exported.bundle).graphs[MODEL]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(exported.bundle / MODEL, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        self.mask = (np.arange(LENGTH) >= np.arange(0, 3 * BATCH, 3)[:, None]).astype(np.int64)
        self.ids = np.where(self.mask, rng.integers(4, 90, (BATCH, LENGTH)), 0)
        self.positions = np.maximum(self.mask.cumsum(1) - 1, 0)

    def run(self, adapter: str | None, chunks: list[int], keep: int | None = None) -> np.ndarray:
        """Logits of the batch, computed `chunks` tokens at a time: of all tokens, or of the last ones of each run."""
        tensors = {} if adapter is None else adapter_tensors(self.adapters[adapter])
        if keep is not None:
            tensors = {**tensors, "logits_to_keep": np.array([keep], np.int64)}
        names = [name for name in self.graph.inputs if is_past(name)]
        cache = []
        for name in names:
            batch, heads, past, size = self.graph.inputs[name].shape
            assert (batch, past) == ("batch", "past_sequence")
            cache.append(np.zeros((BATCH, int(heads), 0, int(size)), np.float32))
        logits, start = [], 0
        for chunk in chunks:
            end = start + chunk
            fed = {
                "input_ids": self.ids[:, start:end],
                "attention_mask": self.mask[:, :end],
                "position_ids": self.positions[:, start:end],
            }
            fed = {name: value for name, value in fed.items() if name in self.graph.inputs}
            outputs = self.session.run(None, {**fed, **dict(zip(names, cache, strict=True)), **tensors})
            named = dict(zip(self.graph.outputs, outputs, strict=True))
            cache = [named[name.replace("past_key_values", "present")] for name in names]
            logits.append(named["logits"])
            start = end
        return np.concatenate(logits, axis=1)

    def expected(self, adapter: str | None) -> np.ndarray:
        import torch

        injection = inject(self.base.module, self.adapters[adapter]) if adapter else None
        fed = {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions}
        fed = {name: value for name, value in fed.items() if name in self.graph.inputs}
        with torch.no_grad():
            logits = self.base.module(**{name: torch.from_numpy(value) for name, value in fed.items()}).logits.numpy()
        if injection:
            injection.remove()
        return np.asarray(logits)

    def difference(self, adapter: str | None, chunks: list[int], expected: np.ndarray) -> float:
        return float(np.abs(self.run(adapter, chunks) - expected)[self.mask.astype(bool)].max())


# Grouped-query attention; a sliding window shorter than the batch; fused projections and learned positions;
# a causal mask that is cut from a table (GPT-Neo).
@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "gpt_neo"])
def decoder(request: pytest.FixtureRequest, export_cached: Callable[..., Exported]) -> Decoder:
    return Decoder(export_cached(request.param))


def test_prefill_and_steps_equal_one_full_forward(decoder: Decoder) -> None:
    without = decoder.expected(None)
    for adapter in (None, *decoder.adapters):
        expected = decoder.expected(adapter)
        if adapter:
            assert np.abs(expected - without).max() > 0.05, "an adapter must matter"
        for chunks in ([LENGTH], [1] * LENGTH, [7, 1, 1, 2], [1, LENGTH - 1]):
            assert decoder.difference(adapter, chunks, expected) < TOLERANCE, (adapter, chunks)


@pytest.mark.parametrize("keep", [1, 4])
def test_a_run_computes_the_logits_of_the_last_tokens_only(decoder: Decoder, keep: int) -> None:
    adapter = next(iter(decoder.adapters))
    every = decoder.run(adapter, [7, LENGTH - 7])
    # Of both steps, whose shapes differ.
    expected = np.concatenate([every[:, 7 - keep : 7], every[:, -keep:]], axis=1)
    found = decoder.run(adapter, [7, LENGTH - 7], keep=keep)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_boundary_has_the_names_and_axes_of_the_ecosystem(decoder: Decoder) -> None:
    inputs, outputs = decoder.graph.inputs, decoder.graph.outputs
    plain = [name for name in inputs if not is_past(name)]
    assert plain == ["input_ids", "attention_mask", "position_ids"]
    assert list(inputs)[len(plain) :] == [f"past_key_values.{i}.{kind}" for i in range(2) for kind in ("key", "value")]
    assert list(outputs) == ["logits", *(name.replace("past_key_values", "present") for name in list(inputs)[3:])]
    assert inputs["input_ids"].shape == inputs["position_ids"].shape == ("batch", "sequence")
    assert inputs["attention_mask"].shape == ("batch", "past_sequence + sequence")
    assert outputs["present.0.key"].shape[2] == "past_sequence + sequence"


def test_a_model_without_a_cache_is_refused(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
):
    base = tiny_base("vit")
    with pytest.raises(InputError, match="has no key-value cache; --no-cache exports a scoring graph"):
        lower_mode(base, {"a": random_adapter(base.info, "ia3")}, Mode.EMBEDDED, stages={MODEL: decoding})
