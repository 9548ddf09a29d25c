"""The sites of every architecture in the tables, written down by hand for one layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.placement.architecture import Architecture
from adapter_export.placement.tables import known, model_types, placement_for
from adapter_export.sites import Port

# Layers of every tiny model.
LAYERS = 2


@dataclass(frozen=True)
class Expected:
    """Site names of layer {i}. ia3: keys, values, and inputs (`.input`). pfeiffer: with its port."""

    ia3: tuple[str, ...]
    houlsby: tuple[str, ...]
    pfeiffer: tuple[str, Port]


BERT = Expected(
    ia3=(
        "encoder.layer.{i}.attention.self.key",
        "encoder.layer.{i}.attention.self.value",
        "encoder.layer.{i}.output.dense.input",
    ),
    houlsby=("encoder.layer.{i}.attention.output.dense", "encoder.layer.{i}.output.dense"),
    pfeiffer=("encoder.layer.{i}.output.LayerNorm", Port.NORM),
)
LLAMA = Expected(
    ia3=("layers.{i}.self_attn.k_proj", "layers.{i}.self_attn.v_proj", "layers.{i}.mlp.down_proj.input"),
    houlsby=("layers.{i}.self_attn.o_proj", "layers.{i}.mlp.down_proj"),
    pfeiffer=("layers.{i}", Port.OUTPUT),
)
# A norm stands between a sublayer and its residual.
GEMMA2 = Expected(
    ia3=LLAMA.ia3,
    houlsby=("layers.{i}.post_attention_layernorm", "layers.{i}.post_feedforward_layernorm"),
    pfeiffer=("layers.{i}", Port.OUTPUT),
)
EXPECTED = {
    "albert": Expected(
        ia3=(
            "encoder.albert_layer_groups.{i}.albert_layers.0.attention.key",
            "encoder.albert_layer_groups.{i}.albert_layers.0.attention.value",
            "encoder.albert_layer_groups.{i}.albert_layers.0.ffn_output.input",
        ),
        houlsby=(
            "encoder.albert_layer_groups.{i}.albert_layers.0.attention.dense",
            "encoder.albert_layer_groups.{i}.albert_layers.0.ffn_output",
        ),
        pfeiffer=("encoder.albert_layer_groups.{i}.albert_layers.0.full_layer_layer_norm", Port.NORM),
    ),
    "bert": BERT,
    "distilbert": Expected(
        ia3=(
            "transformer.layer.{i}.attention.k_lin",
            "transformer.layer.{i}.attention.v_lin",
            "transformer.layer.{i}.ffn.lin2.input",
        ),
        houlsby=("transformer.layer.{i}.attention.out_lin", "transformer.layer.{i}.ffn.lin2"),
        pfeiffer=("transformer.layer.{i}.output_layer_norm", Port.NORM),
    ),
    "electra": BERT,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gpt2": Expected(
        ia3=("h.{i}.attn.c_attn", "h.{i}.mlp.c_proj.input"),
        houlsby=("h.{i}.attn.c_proj", "h.{i}.mlp.c_proj"),
        pfeiffer=("h.{i}", Port.OUTPUT),
    ),
    "llama": LLAMA,
    "mistral": LLAMA,
    "mpnet": Expected(
        ia3=(
            "encoder.layer.{i}.attention.attn.k",
            "encoder.layer.{i}.attention.attn.v",
            "encoder.layer.{i}.output.dense.input",
        ),
        houlsby=("encoder.layer.{i}.attention.attn.o", "encoder.layer.{i}.output.dense"),
        pfeiffer=("encoder.layer.{i}.output.LayerNorm", Port.NORM),
    ),
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": BERT,
    "vit": Expected(
        ia3=("layers.{i}.attention.k_proj", "layers.{i}.attention.v_proj", "layers.{i}.mlp.fc2.input"),
        houlsby=("layers.{i}.attention.o_proj", "layers.{i}.mlp.fc2"),
        pfeiffer=("layers.{i}", Port.OUTPUT),
    ),
    "xlm-roberta": BERT,
}
# The encoder's layers come first; only the decoder has cross-attention, which IA3 scales and bottlenecks do not follow.
T5_ENCODER = Expected(
    ia3=(
        "encoder.block.{i}.layer.0.SelfAttention.k",
        "encoder.block.{i}.layer.0.SelfAttention.v",
        "encoder.block.{i}.layer.1.DenseReluDense.wo.input",
    ),
    houlsby=("encoder.block.{i}.layer.0.SelfAttention.o", "encoder.block.{i}.layer.1.DenseReluDense.wo"),
    pfeiffer=("encoder.block.{i}", Port.OUTPUT),
)
T5_DECODER = Expected(
    ia3=(
        "decoder.block.{i}.layer.0.SelfAttention.k",
        "decoder.block.{i}.layer.0.SelfAttention.v",
        "decoder.block.{i}.layer.1.EncDecAttention.k",
        "decoder.block.{i}.layer.1.EncDecAttention.v",
        "decoder.block.{i}.layer.2.DenseReluDense.wo.input",
    ),
    houlsby=("decoder.block.{i}.layer.0.SelfAttention.o", "decoder.block.{i}.layer.2.DenseReluDense.wo"),
    pfeiffer=("decoder.block.{i}", Port.OUTPUT),
)


def stacks(model_type: str) -> list[Expected]:
    return [T5_ENCODER, T5_DECODER] if model_type == "t5" else [EXPECTED[model_type]]


def layers(model_type: str) -> range:
    return range(1 if model_type == "albert" else LAYERS)


def test_every_table_is_expected_here() -> None:
    assert model_types() == sorted([*EXPECTED, "t5"])


@pytest.mark.parametrize("model_type", model_types())
class TestSites:
    def test_ia3(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        found = [site.name for site in placement_for(model_type, info.modules).ia3_sites(info.modules)]
        assert found == [
            name.format(i=i) for stack in stacks(model_type) for i in layers(model_type) for name in stack.ia3
        ]

    def test_houlsby(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        sites = placement_for(model_type, info.modules).bottleneck_sites(info.modules, "houlsby")
        assert [site.module for site in sites] == [
            name.format(i=i) for stack in stacks(model_type) for i in layers(model_type) for name in stack.houlsby
        ]
        assert {site.port for site in sites} == {Port.OUTPUT}

    def test_pfeiffer(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        sites = placement_for(model_type, info.modules).bottleneck_sites(info.modules, "pfeiffer")
        assert [(site.module, site.port) for site in sites] == [
            (stack.pfeiffer[0].format(i=i), stack.pfeiffer[1])
            for stack in stacks(model_type)
            for i in layers(model_type)
        ]

    def test_bottlenecks_stand_in_the_residual_stream(
        self, model_type: str, tiny_info: Callable[..., ModelInfo]
    ) -> None:
        info = tiny_info(model_type)
        placement = placement_for(model_type, info.modules)
        for kind in ("houlsby", "pfeiffer"):
            for site in placement.bottleneck_sites(info.modules, kind):
                assert info.features(site) == info.hidden_size, site


def test_gated_feed_forward_of_t5_has_its_second_layer_in_the_same_place(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("t5", feed_forward_proj="gated-gelu")
    assert "encoder.block.0.layer.1.DenseReluDense.wi_1" in info.modules
    sites = placement_for("t5", info.modules).ia3_sites(info.modules)
    assert "encoder.block.0.layer.1.DenseReluDense.wo.input" in [site.name for site in sites]


def test_every_layer_of_an_albert_group_is_adapted(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("albert", num_hidden_groups=2, inner_group_num=2)
    sites = placement_for("albert", info.modules).bottleneck_sites(info.modules, "pfeiffer")
    assert [site.module for site in sites] == [
        f"encoder.albert_layer_groups.{group}.albert_layers.{layer}.full_layer_layer_norm"
        for group in range(2)
        for layer in range(2)
    ]


def test_layers_keep_the_order_of_the_model_beyond_nine() -> None:
    modules = [f"h.{i}{part}" for i in range(12) for part in ("", ".attn.c_attn", ".mlp.c_proj")]
    sites = placement_for("gpt2", modules).ia3_sites(modules)
    assert [site.module for site in sites] == [module for module in modules if module.count(".") > 1]


def test_a_table_that_does_not_fit_the_model_is_an_error_that_names_the_module() -> None:
    modules = ["encoder.layer.0", "encoder.layer.0.attention.self.key", "encoder.layer.0.output.dense"]
    with pytest.raises(InputError, match=r"the model has no module 'encoder\.layer\.0\.attention\.self\.value'"):
        placement_for("bert", modules).ia3_sites(modules)
    with pytest.raises(InputError, match="no layer of a bert model found") as error:
        placement_for("bert", ["layers.0.query"]).ia3_sites(["layers.0.query"])
    assert "candidates: layers.N.query" in str(error.value)


def test_known_gives_the_entry_or_none() -> None:
    assert isinstance(known("bert"), Architecture)
    assert known("gpt_neox") is None
