"""ONNX Runtime's fused operators around adapters: as many as the bare base model's own fused graph has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.lower import Lowered, lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.saving import save_graph
from adapter_export.export.stages import stages_for
from adapter_export.export.storage import Overridable
from adapter_export.export.target import Target
from adapter_export.export.trace import trace
from adapter_export.export.validate import check_saved, contrib_operators
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.naming import DOMAIN

# Outputs are of order 1 to 10.
TOLERANCE = 3e-5
# Of models whose table is most of their weights.
VOCABULARY = 800
ADAPTERS: dict[str, dict[str, Any]] = {
    "ia3": {"method": "ia3"},
    "houlsby": {"method": "bottleneck", "reduction_factor": 4},
    "parallel": {"method": "bottleneck", "placement": "parallel", "reduction_factor": 8},
    "lora": {"method": "lora", "rank": 4, "alpha": 6},
}
PFEIFFER: dict[str, dict[str, Any]] = {"pfeiffer": {"method": "bottleneck", "placement": "pfeiffer"}}


class Fused:
    """A model's graph fused for a provider: bare, and swappable with adapters at all the places of `made`.

    bare: the one there is already.
    """

    def __init__(
        self,
        base: BaseModel,
        random_adapter: Callable[..., Adapter],
        fuse: str,
        made: Mapping[str, Any],
        task: str,
        bare: Lowered | None = None,
    ) -> None:
        self.base, target = base, Target.parse(fuse=fuse)
        (stage,) = stages_for(task, cache=True).values()
        self.adapters = {
            name: random_adapter(base.info, seed=seed, **settings) for seed, (name, settings) in enumerate(made.items())
        }
        sites = union_of_sites(self.adapters.values())
        self.bare = bare or lower(trace(base, {}, stage=stage, target=target), {})
        self.graph = lower(trace(base, sites, stage=stage, target=target), sites, Overridable())

    def counts(self) -> dict[str, tuple[int, int]]:
        """By operator: in the bare graph, and in the one with adapters."""
        bare, graph = (Counter(map(_name, lowered.model.graph)) for lowered in (self.bare, self.graph))
        return {name: (bare[name], graph[name]) for name in sorted({*bare, *graph})}

    def different(self) -> dict[str, tuple[int, int]]:
        return {name: (a, b) for name, (a, b) in self.counts().items() if a != b and not name.startswith(DOMAIN)}

    def placed(self) -> int:
        return sum(b for name, (_, b) in self.counts().items() if name.startswith(DOMAIN))


def _name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def show(fused: Fused) -> None:
    print(f"\n{'operator':45} bare  with adapters")
    for name, (bare, graph) in fused.counts().items():
        print(f"{name:45} {bare:4}  {graph:4}")


@pytest.fixture(scope="module")
def llama(tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]) -> Fused:
    base = tiny_base("llama", "causal-lm", tie_word_embeddings=True, vocab_size=VOCABULARY)
    return Fused(base, random_adapter, "cpu", ADAPTERS, "causal-lm")


@pytest.fixture(scope="module")
def bert(tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]) -> Fused:
    return Fused(tiny_base("bert"), random_adapter, "cpu", {**ADAPTERS, **PFEIFFER}, "features")


def test_a_decoders_rotary_positions_and_norms_are_fused_with_adapters_between(llama: Fused) -> None:
    show(llama)
    counts = llama.counts()
    # 2 layers: keys and values of each are scaled between their projection and the attention.
    assert counts["com.microsoft.RotaryEmbedding"][0] == 4
    assert counts["com.microsoft.SkipSimplifiedLayerNormalization"][0] == 4
    assert llama.placed() == 2 * (3 + 2 + 1 + 2)
    assert llama.different() == {}


def test_an_encoders_gelu_and_norms_are_fused_with_adapters_between(bert: Fused) -> None:
    show(bert)
    counts = bert.counts()
    assert counts["com.microsoft.BiasGelu"][0] == 2
    assert counts["com.microsoft.SkipLayerNormalization"][0] == 4
    assert bert.placed() == 2 * (3 + 2 + 1 + 2 + 1)
    # What cannot be otherwise: Houlsby's adapters read the projection with its bias, which the norm would have added;
    # Pfeiffer's use each layer's norm once more.
    assert bert.different() == {"Add": (10, 14), "LayerNormalization": (1, 3)}


def test_packed_projections_and_attention_for_cuda(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    base = tiny_base("llama", "causal-lm", num_hidden_layers=1)
    fused = Fused(base, random_adapter, "cuda", ADAPTERS, "causal-lm")
    show(fused)
    assert fused.counts()["com.microsoft.MultiHeadAttention"] == (1, 1)
    assert fused.different() == {}
    # ONNX Runtime's CPU provider has these operators in float32.
    assert_swaps(fused, tmp_path)


def test_an_adapter_that_reads_the_residual_stream_takes_its_sum_out_of_the_norm(
    llama: Fused, random_adapter: Callable[..., Adapter]
) -> None:
    fused = Fused(llama.base, random_adapter, "cpu", PFEIFFER, "causal-lm", llama.bare)
    show(fused)
    # Pfeiffer before norms: B(h + x) + h + x stands between the sum and the next norm, in each of 2 layers.
    assert fused.different() == {
        "Add": (2, 4),
        "SimplifiedLayerNormalization": (1, 3),
        "com.microsoft.SkipSimplifiedLayerNormalization": (4, 2),
    }


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_fused_graphs_swap_adapters(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert_swaps(request.getfixturevalue(model), tmp_path)


def assert_swaps(fused: Fused, folder: Path) -> None:
    save_graph(fused.graph, folder / "model.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    mask = (np.arange(9) >= np.array([0, 2, 5])[:, None]).astype(np.int64)
    inputs = {
        "input_ids": np.where(mask, np.random.default_rng(0).integers(4, 90, mask.shape), 0),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
        "token_type_ids": np.zeros_like(mask),
    }
    fed = {name: inputs[name] for name in fused.graph.inputs if name in inputs}
    empty = {
        name: np.zeros([dim if isinstance(dim, int) else 3 * (dim == "batch") for dim in info.shape], np.float32)
        for name, info in fused.graph.inputs.items()
        if name not in inputs
    }
    kept, seen = mask.astype(bool), {}
    for name in (None, *fused.adapters, None):
        injection = inject(fused.base.module, fused.adapters[name]) if name else None
        with torch.no_grad():
            expected = fused.base.module(**{key: torch.from_numpy(value) for key, value in fed.items()})[0].numpy()
        if injection:
            injection.remove()
        tensors = adapter_tensors(fused.adapters[name]) if name else {}
        seen[name] = session.run(None, {**fed, **empty, **tensors})[0][kept]
        assert np.abs(seen[name] - expected[kept]).max() < TOLERANCE, name
        assert name is None or np.abs(seen[name] - seen[None]).max() > 0.05, name


def test_operators_beyond_the_standard_are_named(llama: Fused, bert: Fused) -> None:
    assert contrib_operators(llama.graph.model) == (
        "SimplifiedLayerNormalization",
        # Of the tied table, for the logits.
        "com.microsoft.FusedMatMul",
        "com.microsoft.GroupQueryAttention",
        "com.microsoft.RotaryEmbedding",
        "com.microsoft.SkipSimplifiedLayerNormalization",
    )
    assert contrib_operators(bert.graph.model) == ("com.microsoft.BiasGelu", "com.microsoft.SkipLayerNormalization")


def test_the_checker_sees_what_is_wrong_beside_a_foreign_operator(tmp_path: Path) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        graph (float[2, 4] x, float[4] scale, float[{n}, 3] weight) => (float[2, 3] y) {{
            normed = SimplifiedLayerNormalization <epsilon: float = 0.1> (x, scale)
            turned = Transpose <perm: ints = [1, 0]> (x)
            y = MatMul (x, weight)
        }}
    """
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text.format(n=4)), path)
    check_saved(path)
    onnx.save(onnx.parser.parse_model(text.format(n=5)), path)
    with pytest.raises(InputError, match="Incompatible dimensions"):
        check_saved(path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_tied_weights_are_stored_once_in_a_fused_graph(llama: Fused) -> None:
    assert_stored_once(llama.bare, llama.base)


@pytest.mark.parametrize(
    ("model_type", "task", "fuse", "layers"),
    [
        ("llama", "causal-lm", "none", {"num_hidden_layers": 1}),
        ("gpt2", "causal-lm", "cpu", {"n_layer": 1}),
        ("t5", "features", "none", {"num_layers": 1}),
    ],
)
def test_tied_weights_are_stored_once(
    model_type: str, task: str, fuse: str, layers: dict[str, int], tiny_base: Callable[..., BaseModel]
) -> None:
    base = tiny_base(model_type, task, tie_word_embeddings=True, vocab_size=VOCABULARY, **layers)
    (stage,) = stages_for(task, cache=True).values()
    assert_stored_once(lower(trace(base, {}, stage=stage, target=Target.parse(fuse=fuse)), {}), base)


def assert_stored_once(lowered: Lowered, base: BaseModel) -> None:
    stored = sum(value.const_value.nbytes for value in lowered.model.graph.initializers.values())
    assert stored <= 1.01 * sum(parameter.numel() * 4 for parameter in base.module.parameters())
