"""Placement by regular expressions, for architectures without a table and for choices of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.architectures.layers import layers_of, matching_modules
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import Bottleneck, BottleneckOptions
from adapter_export.methods.contract import Method
from adapter_export.methods.ia3 import IA3, IA3Options
from adapter_export.methods.placement import placed
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.sites import Port, Site

MODULES = ("h", "h.0", "h.0.attn", "h.0.attn.qkv", "h.0.mlp", "h.0.mlp.up", "h.0.mlp.down", "h.11.mlp.down", "norm")


def placed_at(method: Method, target: str, modules: Iterable[str] = MODULES, **options: Any) -> list[Site]:
    return list(method.place_at(matching_modules(modules, target), method.Options(**options)))


def test_an_unknown_architecture_is_refused_with_the_candidates() -> None:
    with pytest.raises(InputError) as error:
        layers_of("mamba", MODULES)
    message = str(error.value)
    assert message.startswith("model_type 'mamba' has no placement table (known: albert, bart,")
    assert message.endswith("candidates: h.N.attn.qkv, h.N.mlp.down, h.N.mlp.up, norm")
    assert "--target REGEX" in message


def test_expressions_match_whole_paths_in_the_models_order() -> None:
    assert placed_at(IA3(), r"h\.\d+\.(attn\.qkv|mlp\.down)", feedforward=r".*\.down") == [
        Site("h.0.attn.qkv", Port.OUTPUT),
        Site("h.0.mlp.down", Port.INPUT),
        Site("h.11.mlp.down", Port.INPUT),
    ]
    assert placed_at(IA3(), "h.0.mlp") == [Site("h.0.mlp", Port.OUTPUT)]


def test_a_target_of_ones_own_replaces_the_methods_choice(tiny_info: Callable[..., ModelInfo]) -> None:
    found = placed(Bottleneck(), tiny_info("bert"), BottleneckOptions(), r".*\.0\..*\.query")
    assert list(found) == [Site("encoder.layer.0.attention.self.query", Port.OUTPUT)]
    assert len(placed(Bottleneck(), tiny_info("bert"), BottleneckOptions())) == 4


def test_a_target_that_matches_nothing_is_refused_with_the_candidates() -> None:
    with pytest.raises(InputError, match=r"--target 'mlp\.down' matches no module; .*candidates: h\.N\.attn\.qkv"):
        matching_modules(MODULES, "mlp.down")


def test_broken_expressions_are_refused() -> None:
    with pytest.raises(InputError, match=r"--target '\(': not a regular expression: missing \)"):
        matching_modules(MODULES, "(")
    with pytest.raises(InputError, match=r"--feedforward '\[': not a regular expression: unterminated"):
        placed_at(IA3(), ".*", feedforward="[")


def test_inputs_are_those_of_a_target(tiny_info: Callable[..., ModelInfo]) -> None:
    with pytest.raises(InputError, match="--feedforward: needs --target as well"):
        placed(IA3(), tiny_info("bert"), IA3Options(feedforward=".*down"))


@pytest.mark.parametrize(
    ("model_type", "target", "feedforward"),
    [
        ("gpt_neox", r".*\.(query_key_value|dense_4h_to_h)", r".*\.dense_4h_to_h"),
        ("bloom", r".*\.(query_key_value|dense_4h_to_h)", r".*\.dense_4h_to_h"),
        ("phi3", r".*\.(qkv_proj|down_proj)", r".*\.down_proj"),
    ],
)
def test_peft_computes_the_same_on_architectures_without_a_table(
    model_type: str,
    target: str,
    feedforward: str,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> None:
    import peft
    import torch

    base = tiny_base(model_type, "causal-lm", dtype=torch.float64)
    adapter = random_adapter(base.info, "ia3", target=target, feedforward=feedforward)
    folder = save_checkpoint(adapter, base.info, str(base.folder))
    other = peft.PeftModel.from_pretrained(tiny_base(model_type, "causal-lm", dtype=torch.float64).module, folder)
    inject(base.module, load_adapter(folder, base.info))
    inputs = {name: torch.from_numpy(array) for name, array in inputs_for(model_type).items()}
    with torch.no_grad():
        found, expected = base.module(**inputs).logits, other.double().eval()(**inputs).logits
    assert (found - expected).abs().max() < 1e-12


def test_a_bottleneck_after_any_module_adds_to_its_output(
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> None:
    import torch

    base = tiny_base("gpt_neox", dtype=torch.float64)
    # The last thing the model does, so that the model's own output shows what the adapter adds.
    adapter = random_adapter(base.info, "bottleneck", target="final_layer_norm", activation="relu")
    ((site, site_adapter),) = adapter.sites.items()
    assert site == Site("final_layer_norm", Port.OUTPUT)
    inputs = {name: torch.from_numpy(array) for name, array in inputs_for("gpt_neox").items()}
    with torch.no_grad():
        y = base.module(**inputs).last_hidden_state.numpy()
        inject(base.module, adapter)
        found = base.module(**inputs).last_hidden_state.numpy()
    tensors = {name: tensor.astype(np.float64) for name, tensor in site_adapter.tensors.items()}
    hidden = np.maximum(y @ tensors["down"] + tensors["down_bias"], 0)
    np.testing.assert_allclose(found, y + hidden @ tensors["up"] + tensors["up_bias"], rtol=0, atol=1e-12)


def test_a_module_whose_input_has_no_known_size_is_refused(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("bert")
    with pytest.raises(InputError, match=r"module 'encoder\.layer\.0': expected a linear layer"):
        info.features(Site("encoder.layer.0", Port.INPUT))
    with pytest.raises(InputError, match=r"close ones: encoder\.layer\.0\.output\.dense"):
        info.features(Site("encoder.layer.0.output.dens", Port.OUTPUT))
