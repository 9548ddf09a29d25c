"""Decoders whose attention is fused with the cache, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import MODEL, is_cache, is_past, past_of
from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export.stages import stages_for
from adapter_export.export.target import Target
from adapter_export.export.trace import trace
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.runtime.generation.cache import SharedCacheDecoder
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.decoders import POSITIONS

# Of float32, relative to the largest output.
TOLERANCE = 1e-5
ADAPTERS = (None, "ia3", "houlsby")
ATTENTION = "GroupQueryAttention"
PROMPTS = [[5, 9, 7, 11, 20], [8], [6, 30, 12]]
# Rotary positions; a window; windows in some layers; norms of queries and keys; learned positions; experts.
MODELS = [
    "llama",
    "mistral",
    pytest.param("gemma3_text", marks=pytest.mark.thorough),
    pytest.param("qwen3", marks=pytest.mark.thorough),
    pytest.param("gpt2", marks=pytest.mark.thorough),
    pytest.param("phi", marks=pytest.mark.thorough),
    pytest.param("phi3", marks=pytest.mark.thorough),
    pytest.param("opt", marks=pytest.mark.thorough),
    pytest.param("mixtral", marks=pytest.mark.thorough),
]


def check(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(actual - wanted).max() < TOLERANCE * np.abs(wanted).max()


def model_with(exported: Exported, adapter: str | None) -> Callable[[list[int]], np.ndarray]:
    """Called with a text -> its logits in float64, [tokens, vocabulary]."""
    base = load_base(exported.base, "causal-lm", dtype=torch.float64)
    if adapter is not None:
        inject(base.module, load_adapter(exported.adapters[adapter], base.info))

    def run(text: list[int]) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = base.module(input_ids=torch.tensor([text])).logits[0].numpy()
        return found

    return run


@pytest.mark.parametrize("model_type", MODELS)
def test_generation_of_prompts_of_different_lengths(model_type: str, export_cached: Callable[..., Exported]) -> None:
    """Prompts are padded on the left, and the cache is written in place."""
    exported = export_cached(model_type, fuse="cpu")
    nodes = onnx.load(exported.bundle / MODEL).graph.node
    # Keys and values of each layer.
    cached = sum(map(is_past, read_manifest(exported.bundle).inputs))
    assert 2 * sum(node.op_type == ATTENTION for node in nodes) == cached
    with AdapterSession(exported.bundle) as session:
        for adapter in ADAPTERS:
            generation = session.generate(PROMPTS, adapter, max_new_tokens=8, ignore_eos=True)
            assert isinstance(generation._decoder, SharedCacheDecoder)
            logits = np.stack([step.logits for step in generation], axis=1)
            expected = model_with(exported, adapter)
            for row, (prompt, done) in enumerate(zip(PROMPTS, generation.completions(), strict=True)):
                check(logits[row], expected([*prompt, *done.tokens[:-1]])[len(prompt) - 1 :])


class Steps:
    """A graph in plain ONNX Runtime, with a cache that grows."""

    def __init__(self, exported: Exported, adapter: str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(exported.bundle / MODEL, options, providers=["CPUExecutionProvider"])
        self.tensors = read_adapter_file(exported.bundle / "adapters" / f"{adapter}.onnx_adapter")
        self.names = [output.name for output in self.session.get_outputs()]
        self.cache: dict[str, np.ndarray] = {}

    def empty(self, rows: int) -> None:
        for place in self.session.get_inputs():
            if is_cache(place.name):
                self.cache[place.name] = np.zeros((rows, place.shape[1], 0, place.shape[3]), np.float32)

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **self.cache, **self.tensors}
        outputs = dict(zip(self.names, self.session.run(None, feeds), strict=True))
        logits: np.ndarray = outputs.pop("logits")
        self.cache = {past_of(name): value for name, value in outputs.items()}
        return logits


def test_steps_in_onnx_runtime(fused_bundle: Exported) -> None:
    """Rows that are padded on the left, and continue by a token; and one row that continues by several."""
    expected = model_with(fused_bundle, "houlsby")
    texts = [[5, 9, 7, 11, 20, 3], [8, 4], [6, 30, 12]]
    width = max(map(len, texts))
    ids = np.array([[0] * (width - len(text)) + text for text in texts])
    mask = np.array([[0] * (width - len(text)) + [1] * len(text) for text in texts])
    steps = Steps(fused_bundle, "houlsby")
    steps.empty(len(texts))
    first, second = steps.run(ids[:, :-1], mask[:, :-1]), steps.run(ids[:, -1:], mask)
    for row, text in enumerate(texts):
        wanted = expected(text)
        check(np.concatenate([first, second], axis=1)[row, width - len(text) :], wanted)
    steps.empty(1)
    parts = [steps.run(ids[:1, :2], mask[:1, :2]), steps.run(ids[:1, 2:], mask[:1])]
    check(np.concatenate(parts, axis=1)[0], expected(texts[0]))


def test_several_rows_of_several_tokens_with_an_empty_cache_only(fused_bundle: Exported) -> None:
    steps = Steps(fused_bundle, "ia3")
    ids = np.array([[5, 9, 7, 11], [8, 4, 3, 2]])
    steps.empty(2)
    steps.run(ids[:, :2], np.ones_like(ids[:, :2]))
    with pytest.raises(Exception, match="batch_size must be 1 when sequence_length > 1"):
        steps.run(ids[:, 2:], np.ones_like(ids))


def test_nothing_reads_the_size_of_the_cache(fused_bundle: Exported) -> None:
    """It may have room for more tokens than there are."""
    graph = onnx.load(fused_bundle.bundle / MODEL).graph
    of_cache = {value.name for value in (*graph.input, *graph.output) if is_cache(value.name)}
    readers = {node.op_type for node in graph.node if of_cache & set(node.input)}
    assert readers == {ATTENTION}


@pytest.mark.parametrize("settings", [{}, {"quantize": "int4"}, {"dtype": "fp16"}], ids=str)
def test_parity_passes(fused_bundle: Exported, settings: dict[str, str], tmp_path: Path) -> None:
    from adapter_export import export_onnx

    base, adapters = fused_bundle.base, fused_bundle.adapters
    export_onnx(base, adapters, tmp_path / "bundle", mode="bank", fuse="cpu", **settings)
    report = check_parity(tmp_path / "bundle", base, adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]


def test_heads_that_the_operator_does_not_take(
    tiny_base: Callable[..., BaseModel], caplog: pytest.LogCaptureFixture
) -> None:
    """Of 4 features: the graph has the other fused operators, and a note says why."""
    base = tiny_base("llama", "causal-lm", head_dim=4, max_position_embeddings=POSITIONS)
    (stage,) = stages_for("causal-lm", cache=True).values()
    made = trace(base, {}, stage=stage, target=Target.parse(fuse="cpu"))
    found = {node.op_type for node in made.model.graph}
    assert ATTENTION not in found
    assert "SkipSimplifiedLayerNormalization" in found
    assert "attention is not fused with the cache: graph: heads of 4 features" in caplog.text


@pytest.mark.parametrize("model_type", ["gemma2", "bloom"])
def test_attention_that_computes_something_else_stays(model_type: str, tiny_base: Callable[..., BaseModel]) -> None:
    """Gemma 2 caps its scores, and BLOOM adds a bias to them."""
    base = tiny_base(model_type, "causal-lm")
    (stage,) = stages_for("causal-lm", cache=True).values()
    made = trace(base, {}, stage=stage, target=Target.parse(fuse="cpu"))
    assert ATTENTION not in {node.op_type for node in made.model.graph}


def test_attention_to_later_tokens_stays(tiny_base: Callable[..., BaseModel]) -> None:
    """The fused operator reads none, whatever the mask says."""
    base = tiny_base("llama", "causal-lm", num_hidden_layers=1)
    base.module.base_model.layers[0].self_attn.is_causal = False
    (stage,) = stages_for("causal-lm", cache=True).values()
    made = trace(base, {}, stage=stage, target=Target.parse(fuse="cpu"))
    assert ATTENTION not in {node.op_type for node in made.model.graph}
