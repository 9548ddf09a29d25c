"""Names of LoRA's matrices in files of other tools, on tiny models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapter_export.checkpoints.onnx_adapter import Place
from adapter_export.checkpoints.onnx_adapter.lora import TOOLS, foreign_name, place
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma", "gpt2", "bert", "t5"])
def test_names_of_all_linear_layers_come_back(model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info(model_type)
    like_llama = model_type in ("llama", "qwen2", "gemma")
    for module in info.inputs:
        one = Place(Site(module, Port.BRANCH).name, "lora", "b")
        names = {tool: foreign_name(one, tool, info) for tool in TOOLS}
        for name in filter(None, names.values()):
            assert place(name, info) == one
        assert (names["genai"] is not None) == like_llama, module
        assert names["olive"] is not None


def test_the_names_that_the_tools_write(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("llama", "causal-lm")
    query = Place("layers.1.self_attn.q_proj", "lora", "a")
    assert place("model.layers.1.self_attn.q_proj.lora_A.weight", info) == query
    assert place("model.layers.1.attn.q_proj.lora_A.MatMul.weight", info) == query
    assert place("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", info) == query
    assert foreign_name(query, "olive", info) == "model.layers.1.self_attn.q_proj.lora_A.weight"
    assert foreign_name(query, "genai", info) == "model.layers.1.attn.q_proj.lora_A.MatMul.weight"


def test_names_of_no_tool(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("llama", "causal-lm")
    for name in ("layers.0.self_attn.q_proj.lora.a", "model.layers.0.self_attn.q_proj.weight", "lora_A.weight", ""):
        assert place(name, info) is None
    assert foreign_name(Place("layers.0.self_attn.q_proj", "ia3", "l"), "olive", info) is None
    with pytest.raises(InputError, match=r"lora_B\.quant\.scale': the matrices are quantized"):
        place("model.layers.0.self_attn.q_proj.lora_B.quant.scale", info)
