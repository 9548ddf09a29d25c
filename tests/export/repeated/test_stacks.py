"""Which layers of a model are traced, and which stand for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.modes import union_of_sites
from adapter_export.export.repeated.shorten import shortened
from adapter_export.export.repeated.stacks import Stack, find_stacks, left_out
from adapter_export.models.base_model import BaseModel

LAYERS = 7


@pytest.fixture
def deep(tiny_base: Callable[..., BaseModel]) -> BaseModel:
    return tiny_base("llama", "causal-lm", num_hidden_layers=LAYERS)


def stack_of(base: BaseModel, sites: Any = None) -> Stack:
    (stack,) = find_stacks(base.module, sites or {})
    return stack


def test_the_first_layer_and_two_of_a_kind_are_kept(deep: BaseModel) -> None:
    stack = stack_of(deep)
    assert (stack.path, stack.inner) == ("model.layers", "layers")
    assert stack.kept == (0, 1, 6)
    assert stack.alike == dict.fromkeys(range(2, 6), (1, 6))
    assert left_out("layers.2.mlp", stack)
    assert not left_out("layers.6.mlp", stack)
    assert not left_out("norm", stack)


def test_a_few_layers_are_all_traced(tiny_base: Callable[..., BaseModel]) -> None:
    assert not find_stacks(tiny_base("llama", "causal-lm", num_hidden_layers=3).module, {})
    # ALBERT runs one layer many times.
    assert not find_stacks(tiny_base("albert", num_hidden_layers=LAYERS).module, {})


def test_two_kinds_of_layers_are_kept_apart(tiny_base: Callable[..., BaseModel]) -> None:
    stack = stack_of(tiny_base("gemma3_text", "causal-lm", num_hidden_layers=14))
    assert stack.kept == (0, 1, 5, 11, 13)
    assert stack.alike[7] == (1, 13)
    assert 11 not in stack.alike


def test_experts_are_no_layers(tiny_base: Callable[..., BaseModel]) -> None:
    base = tiny_base("mixtral", "causal-lm", num_hidden_layers=4, num_local_experts=4)
    assert [stack.path for stack in find_stacks(base.module, {})] == ["model.layers"]


def other_setting(layer: nn.Module) -> None:
    layer.self_attn.scaling *= 2


def other_module(layer: nn.Module) -> None:
    layer.mlp.act_fn = nn.Tanh()


def other_size(layer: nn.Module) -> None:
    layer.mlp.up_proj.bias = nn.Parameter(torch.zeros(64))


def unknown_setting(layer: nn.Module) -> None:
    layer.mlp.rule = object()


def hooked(layer: nn.Module) -> None:
    layer.mlp.register_forward_hook(lambda module, args, output: output * 2)


@pytest.mark.parametrize("change", [other_setting, other_module, other_size, unknown_setting, hooked])
def test_a_layer_that_does_something_else_is_traced(change: Callable[[nn.Module], None], deep: BaseModel) -> None:
    change(deep.module.model.layers[3])
    assert stack_of(deep).kept == (0, 1, 3, 6)


def test_a_layer_with_other_adapters_is_traced(deep: BaseModel, random_adapter: Callable[..., Adapter]) -> None:
    sites = union_of_sites([random_adapter(deep.info, "ia3")])
    assert stack_of(deep, sites).kept == (0, 1, 6)
    fewer = {site: stack for site, stack in sites.items() if "layers.4.mlp" not in site.module}
    assert len(fewer) < len(sites)
    assert stack_of(deep, fewer).kept == (0, 1, 4, 6)


def test_layers_that_share_a_weight_are_all_traced(deep: BaseModel) -> None:
    layers = deep.module.model.layers
    layers[4].mlp.up_proj.weight = layers[2].mlp.up_proj.weight
    assert not find_stacks(deep.module, {})


def test_two_stacks_of_one_length_become_as_short_or_stay(tiny_base: Callable[..., BaseModel]) -> None:
    base = tiny_base("bart", "seq2seq-lm", num_hidden_layers=LAYERS, encoder_layers=LAYERS, decoder_layers=LAYERS)
    assert [stack.kept for stack in find_stacks(base.module, {})] == [(0, 1, 6), (0, 1, 6)]
    base.module.model.decoder.layers[3].self_attn.scaling *= 2
    assert not find_stacks(base.module, {})


def test_a_shortened_model_runs_its_kept_layers_and_is_whole_again_after_an_error(deep: BaseModel) -> None:
    ids = torch.arange(5)[None]
    layers = deep.module.model.layers
    expected = deep.module(ids).logits

    def interrupted() -> None:
        with torch.no_grad(), shortened(deep.module, [stack_of(deep)]):
            assert [name for name, _ in layers.named_children()] == ["0", "1", "6"]
            assert deep.module.config.num_hidden_layers == 3
            assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2]
            assert len(deep.module(ids, use_cache=True).past_key_values.layers) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert deep.module.config.num_hidden_layers == LAYERS
    assert [layer.self_attn.layer_idx for layer in layers] == [*range(LAYERS)]
    assert torch.equal(deep.module(ids).logits, expected)
