"""A trace of some layers gives the graph that a trace of all layers gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adapter_export.bundle.graphs import DECODER, ENCODER, MODEL
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export import trace as module
from adapter_export.export.modes import union_of_sites
from adapter_export.export.stages import stages_for
from adapter_export.export.target import Target
from adapter_export.export.trace import Trace, trace
from adapter_export.models.base_model import BaseModel
from tests.export.same_graph import computed

LAYERS = 4
KINDS = ["sliding_attention", "full_attention"] * 3
# Gemma has two kinds of layers, and constants that are 1 more than a weight; T5 two stacks of layers, two graphs, and a
# table of positions in the first layer only.
MODELS = {
    "bert": ("text-classification", {"num_hidden_layers": LAYERS}, [MODEL]),
    "llama": ("causal-lm", {"num_hidden_layers": LAYERS}, [MODEL]),
    "gemma3_text": ("causal-lm", {"num_hidden_layers": len(KINDS), "layer_types": KINDS}, [MODEL]),
    "t5": ("seq2seq-lm", {"num_layers": LAYERS, "num_decoder_layers": LAYERS}, [ENCODER, DECODER]),
}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trace]:
    """A trace of all layers."""

    def traced(*args: Any, **settings: Any) -> Trace:
        with monkeypatch.context() as patch:
            patch.setattr(module, "find_stacks", lambda *_: ())
            return trace(*args, **settings)

    return traced


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why all layers were traced."""
    found: list[str] = []
    monkeypatch.setattr(module._log, "debug", lambda text, *args: found.append(text % args))
    return found


def deep(tiny_base: Callable[..., BaseModel], model_type: str) -> BaseModel:
    task, sizes, _ = MODELS[model_type]
    return tiny_base(model_type, task, **sizes)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", pytest.param("t5", marks=pytest.mark.thorough)])
def test_it_is_the_graph_of_all_layers(
    model_type: str,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    whole: Callable[..., Trace],
    reasons: list[str],
) -> None:
    base = deep(tiny_base, model_type)
    sites = union_of_sites([random_adapter(base.info, "ia3")])
    before = settings_of(base)
    for file in MODELS[model_type][2]:
        stage = stages_for(base.task, cache=True)[file]
        made = trace(base, sites, base.info.head, stage=stage)
        expected = whole(base, sites, base.info.head, stage=stage)
        assert computed(made) == computed(expected)
        assert [value.name for value in made.model.graph.inputs] == [
            value.name for value in expected.model.graph.inputs
        ]
        assert len(made.model.graph) == len(expected.model.graph)
        assert made.axes == expected.axes
    assert not reasons
    assert settings_of(base) == before


def settings_of(base: BaseModel) -> Any:
    """What a shortened model has otherwise."""
    return (
        base.module.config.to_dict(),
        [name for name, _ in base.module.named_modules()],
        [(name, module.layer_idx) for name, module in base.module.named_modules() if hasattr(module, "layer_idx")],
    )


def test_fusions_see_all_layers(tiny_base: Callable[..., BaseModel], whole: Callable[..., Trace]) -> None:
    base = deep(tiny_base, "bert")
    made, expected = (traced(base, {}, target=Target.parse(fuse="cpu")) for traced in (trace, whole))
    assert computed(made) == computed(expected)


def test_weights_are_those_of_their_own_layer_even_if_some_are_equal(
    tiny_base: Callable[..., BaseModel], whole: Callable[..., Trace]
) -> None:
    # The optimizer may store equal constants once. Layers that are not traced have other values.
    base = deep(tiny_base, "bert")
    layers = base.module.bert.encoder.layer
    with torch.no_grad():
        for number in (0, 1, LAYERS - 1):
            for name, parameter in layers[number].named_parameters():
                parameter.copy_(layers[0].get_parameter(name))
    assert computed(trace(base, {})) == computed(whole(base, {}))


def test_a_rule_that_a_layer_applies_by_its_number_is_kept(
    tiny_base: Callable[..., BaseModel],
    whole: Callable[..., Trace],
    monkeypatch: pytest.MonkeyPatch,
    reasons: list[str],
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    base = deep(tiny_base, "llama")
    for number, layer in enumerate(base.module.model.layers):
        layer.mlp.number = number
    original = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: original(self, x) / (self.number + 1))
    made = trace(base, {})
    assert len(reasons) == 1
    assert "all layers are traced: " in reasons[0]
    assert computed(made) == computed(whole(base, {}))
