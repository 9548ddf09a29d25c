"""R is float64 throughout and unmerged, heads can be replaced, and no run affects a later one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import Injection
from adapter_export.parity.recording.precision import everything_in_float64
from adapter_export.parity.references.pytorch import Reference

# Models whose own code casts to float32: RMSNorm, rotary positions, softmax, ALiBi, buckets.
CASTING = ["llama", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "phi3", "bloom", "mpnet"]


class Narrow(TorchDispatchMode):
    """Collects the operators whose results are floating point but not float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if any(leaf.is_floating_point() and leaf.dtype != torch.float64 for leaf in leaves):
            self.seen.add(str(func))
        return result


@pytest.fixture
def batch(inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return inputs_for("bert", 3, 7, "left")


@pytest.mark.parametrize("model_type", ["bert", *CASTING])
def test_everything_is_computed_in_float64(
    model_type: str, tiny_base: Callable[..., BaseModel], batch: dict[str, np.ndarray]
) -> None:
    base = tiny_base(model_type, "features", dtype=torch.float64)
    with Narrow() as narrow:
        outputs = Reference(base).case(batch).off()
    assert narrow.seen == set()
    # Left-padded rows are fully masked: the smallest number of float64 becomes minus infinity in float32.
    assert all(np.isfinite(array).all() and array.dtype == np.float64 for array in outputs.values())


def test_loading_in_float64_is_not_enough(tiny_base: Callable[..., BaseModel], batch: dict[str, np.ndarray]) -> None:
    module = tiny_base("llama", "features", dtype=torch.float64).module
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    results = {}
    for context in (nullcontext, everything_in_float64):
        with Narrow() as narrow, torch.inference_mode(), context():
            results[context] = module(**inputs, use_cache=False).last_hidden_state
        assert bool(narrow.seen) == (context is nullcontext)
    difference = (results[nullcontext] - results[everything_in_float64])[inputs["attention_mask"].bool()].abs().max()
    assert 1e-8 < difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_target_is_left_at_its_dtype(
    dtype: torch.dtype, tiny_base: Callable[..., BaseModel], batch: dict[str, np.ndarray]
) -> None:
    exact = Reference(tiny_base("bert", dtype=torch.float64)).case(batch).off()
    found = Reference(tiny_base("bert", dtype=dtype)).case(batch).off()
    # numpy has no bfloat16.
    assert {array.dtype for array in found.values()} == {np.dtype("float16" if dtype is torch.float16 else "float32")}
    error = np.abs(found["last_hidden_state"] - exact["last_hidden_state"]).max()
    assert torch.finfo(dtype).eps / 10 < error < torch.finfo(dtype).eps * 100


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "vit"])
def test_other_ways_to_round(
    model_type: str, tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, np.ndarray]]
) -> None:
    inputs = inputs_for(model_type, 2, 7)
    reference = Reference(tiny_base(model_type, "features"))
    exact = states(Reference(tiny_base(model_type, "features", dtype=torch.float64)).case(inputs).off())
    ways = [states(reference.case(inputs, rounding).off()) for rounding in (0, 1, 2, 1, 0)]
    # Each number is a different rounding, is reproducible, and does not affect later runs.
    assert np.array_equal(ways[1], ways[3])
    assert np.array_equal(ways[0], ways[4])
    assert not np.array_equal(ways[1], ways[2])
    errors = [np.abs(way - exact).max() for way in ways[:3]]
    assert all(0.3 * errors[0] < error < 10 * errors[0] for error in errors)


def states(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return outputs["last_hidden_state"]


def logits(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    assert list(outputs) == ["logits"]
    return outputs["logits"]


def test_heads_are_replaced_and_put_back(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter], batch: dict[str, np.ndarray]
) -> None:
    base = tiny_base("bert", "text-classification", dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    adapters = [
        random_adapter(base.info, "ia3", 1, labels=("a", "b")),
        random_adapter(base.info, "bottleneck", 2, labels=("a", "b", "c", "d")),
    ]
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    pooled = base.module.bert(**inputs).pooler_output.detach().numpy()
    case = Reference(base).case(batch)
    own = logits(case.off())
    ons = []
    for adapter in adapters:
        head = adapter.head["classifier"]
        assert head.bias is not None
        ons.append(logits(case.on(adapter)))
        np.testing.assert_allclose(logits(case.off(adapter)), pooled @ head.weight.T + head.bias, rtol=1e-13)
        assert np.abs(ons[-1] - logits(case.off(adapter))).max() > 0.01
    # An adapter without a head uses the base model's head, even after another head was in place.
    bare = replace(adapters[0], head={}, labels=None)
    np.testing.assert_array_equal(logits(case.off(bare)), own)
    logits(case.on(adapters[1]))
    assert logits(case.on(bare)).shape == own.shape
    np.testing.assert_array_equal(logits(case.off()), own)
    np.testing.assert_array_equal(logits(case.on(adapters[0])), ons[0])
    case.off()
    after = base.module.state_dict()
    assert {name: tensor.shape for name, tensor in after.items()} == {n: tensor.shape for n, tensor in before.items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not hasattr(base.module, Injection.NAME)


def test_the_body_without_adapters_runs_once_a_case(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter], batch: dict[str, np.ndarray]
) -> None:
    base = tiny_base("bert", "text-classification", dtype=torch.float64)
    adapter = random_adapter(base.info, "ia3", 1)
    runs = []
    base.module.bert.encoder.register_forward_hook(lambda *_: runs.append(1))
    reference = Reference(base)
    case = reference.case(batch)
    case.off()
    case.off(adapter)
    case.off()
    assert len(runs) == 1
    case.on(adapter)
    case.on(adapter)
    assert len(runs) == 3
    other = reference.case({name: array[:, ::-1] for name, array in batch.items()})
    assert np.abs(logits(other.off()) - logits(case.off())).max() > 0.01
    assert len(runs) == 4


def test_a_short_forward_runs_in_one_thread(tiny_base: Callable[..., BaseModel], batch: dict[str, np.ndarray]) -> None:
    base = tiny_base("bert")
    before, seen = torch.get_num_threads(), []
    base.module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        reference = Reference(base)
        reference.case(batch).off()
        reference.parameters = 10**9
        reference.case(batch).off()
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_nested_outputs_have_both_names(
    tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, np.ndarray]]
) -> None:
    found = Reference(tiny_base("clip")).case(inputs_for("clip")).off()
    assert {name.partition(".")[0] for name in found} >= {"logits_per_text", "text_model_output", "vision_model_output"}
    assert found["text_model_output.last_hidden_state"].shape == (3, 7, 32)


def test_a_kv_cache_is_not_an_output(tiny_base: Callable[..., BaseModel], batch: dict[str, np.ndarray]) -> None:
    for task in ("text-classification", "causal-lm"):
        assert list(Reference(tiny_base("gpt2", task)).case(batch).off()) == ["logits"]


def test_inputs_that_pytorch_cannot_run_are_named_by_shape(
    tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, np.ndarray]]
) -> None:
    case = Reference(tiny_base("bert")).case(inputs_for("bert", 1, 65))
    with pytest.raises(
        InputError, match=r"PyTorch itself cannot run input_ids \[1, 65\], .*: (RuntimeError|IndexError)"
    ):
        case.off()


def test_tensors_made_without_a_dtype_are_float64() -> None:
    """An example are the masks of CLIP in transformers 4, whose smallest value is outside the range of float32."""
    with everything_in_float64():
        assert torch.full((2,), torch.finfo(torch.float64).min).dtype is torch.float64
    assert torch.zeros(1).dtype is torch.float32
