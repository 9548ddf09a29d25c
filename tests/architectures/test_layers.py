"""The sites of every architecture in the tables, written down by hand for one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.record import Role
from adapter_export.architectures.registry import facts, model_types, recorded
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import placement_sites
from adapter_export.methods.ia3 import IA3, IA3Options
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from adapter_export.sites import Port, Site

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


def like(
    expected: Expected, ia3: tuple[str, ...] = (), houlsby: tuple[str, str] | None = None, layer: str | None = None
) -> Expected:
    """`expected` with other sites, or in another place of the model."""
    old, port = expected.pfeiffer
    new = layer or old
    return Expected(
        tuple(name.replace(old, new) for name in (ia3 or expected.ia3)),
        tuple(name.replace(old, new) for name in (houlsby or expected.houlsby)),
        (new, port),
    )


# A norm stands between a sublayer and its residual.
GEMMA2 = like(LLAMA, houlsby=("layers.{i}.post_attention_layernorm", "layers.{i}.post_feedforward_layernorm"))
GPT2 = Expected(
    ia3=("h.{i}.attn.c_attn", "h.{i}.mlp.c_proj.input"),
    houlsby=("h.{i}.attn.c_proj", "h.{i}.mlp.c_proj"),
    pfeiffer=("h.{i}", Port.OUTPUT),
)
BLOOM = Expected(
    ia3=("h.{i}.self_attention.query_key_value", "h.{i}.mlp.dense_4h_to_h.input"),
    houlsby=("h.{i}.self_attention.dense", "h.{i}.mlp.dense_4h_to_h"),
    pfeiffer=("h.{i}", Port.OUTPUT),
)
T5 = Expected(
    ia3=(
        "encoder.block.{i}.layer.0.SelfAttention.k",
        "encoder.block.{i}.layer.0.SelfAttention.v",
        "encoder.block.{i}.layer.1.DenseReluDense.wo.input",
    ),
    houlsby=("encoder.block.{i}.layer.0.SelfAttention.o", "encoder.block.{i}.layer.1.DenseReluDense.wo"),
    pfeiffer=("encoder.block.{i}", Port.OUTPUT),
)
# Only the decoder has cross-attention, which IA3 scales and bottlenecks do not follow.
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
MBART = Expected(
    ia3=(
        "encoder.layers.{i}.self_attn.k_proj",
        "encoder.layers.{i}.self_attn.v_proj",
        "encoder.layers.{i}.fc2.input",
    ),
    houlsby=("encoder.layers.{i}.self_attn.out_proj", "encoder.layers.{i}.fc2"),
    pfeiffer=("encoder.layers.{i}", Port.OUTPUT),
)
MBART_DECODER = Expected(
    ia3=(
        "decoder.layers.{i}.self_attn.k_proj",
        "decoder.layers.{i}.self_attn.v_proj",
        "decoder.layers.{i}.encoder_attn.k_proj",
        "decoder.layers.{i}.encoder_attn.v_proj",
        "decoder.layers.{i}.fc2.input",
    ),
    houlsby=("decoder.layers.{i}.self_attn.out_proj", "decoder.layers.{i}.fc2"),
    pfeiffer=("decoder.layers.{i}", Port.OUTPUT),
)
OPT = like(MBART, layer="decoder.layers.{i}")
VIT = Expected(
    ia3=("layers.{i}.attention.k_proj", "layers.{i}.attention.v_proj", "layers.{i}.mlp.fc2.input"),
    houlsby=("layers.{i}.attention.o_proj", "layers.{i}.mlp.fc2"),
    pfeiffer=("layers.{i}", Port.OUTPUT),
)
DINOV2 = like(VIT, houlsby=("layers.{i}.layer_scale1", "layers.{i}.layer_scale2"), layer="encoder.layer.{i}")
CLIP = Expected(
    ia3=(
        "encoder.layers.{i}.self_attn.k_proj",
        "encoder.layers.{i}.self_attn.v_proj",
        "encoder.layers.{i}.mlp.fc2.input",
    ),
    houlsby=("encoder.layers.{i}.self_attn.out_proj", "encoder.layers.{i}.mlp.fc2"),
    pfeiffer=("encoder.layers.{i}", Port.OUTPUT),
)
ALBERT = Expected(
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
)
DISTILBERT = Expected(
    ia3=(
        "transformer.layer.{i}.attention.k_lin",
        "transformer.layer.{i}.attention.v_lin",
        "transformer.layer.{i}.ffn.lin2.input",
    ),
    houlsby=("transformer.layer.{i}.attention.out_lin", "transformer.layer.{i}.ffn.lin2"),
    pfeiffer=("transformer.layer.{i}.output_layer_norm", Port.NORM),
)
# The stacks of each architecture, an encoder's before its decoder's.
EXPECTED = {
    "albert": (ALBERT,),
    "bart": (
        replace(MBART, pfeiffer=("encoder.layers.{i}.final_layer_norm", Port.NORM)),
        replace(MBART_DECODER, pfeiffer=("decoder.layers.{i}.final_layer_norm", Port.NORM)),
    ),
    "bert": (BERT,),
    "bloom": (BLOOM,),
    "clip": (like(CLIP, layer="text_model.encoder.layers.{i}"), like(CLIP, layer="vision_model.encoder.layers.{i}")),
    "clip_text_model": (CLIP,),
    "clip_vision_model": (CLIP,),
    "deberta-v2": (
        replace(
            BERT,
            ia3=(
                "encoder.layer.{i}.attention.self.key_proj",
                "encoder.layer.{i}.attention.self.value_proj",
                "encoder.layer.{i}.output.dense.input",
            ),
        ),
    ),
    "dinov2": (DINOV2,),
    "distilbert": (DISTILBERT,),
    "electra": (BERT,),
    "falcon": (BLOOM,),
    "gemma": (LLAMA,),
    "gemma2": (GEMMA2,),
    "gemma3_text": (GEMMA2,),
    "gpt2": (GPT2,),
    "gpt_neo": (
        like(
            GPT2,
            ia3=("h.{i}.attn.attention.k_proj", "h.{i}.attn.attention.v_proj", "h.{i}.mlp.c_proj.input"),
            houlsby=("h.{i}.attn.attention.out_proj", "h.{i}.mlp.c_proj"),
        ),
    ),
    "gpt_neox": (
        Expected(
            ia3=("layers.{i}.attention.query_key_value", "layers.{i}.mlp.dense_4h_to_h.input"),
            houlsby=("layers.{i}.attention.dense", "layers.{i}.mlp.dense_4h_to_h"),
            pfeiffer=("layers.{i}", Port.OUTPUT),
        ),
    ),
    "gptj": (
        like(
            GPT2,
            ia3=("h.{i}.attn.k_proj", "h.{i}.attn.v_proj", "h.{i}.mlp.fc_out.input"),
            houlsby=("h.{i}.attn.out_proj", "h.{i}.mlp.fc_out"),
        ),
    ),
    "llama": (LLAMA,),
    "mbart": (MBART, MBART_DECODER),
    "mistral": (LLAMA,),
    # Its experts are no modules.
    "mixtral": (like(LLAMA, ia3=LLAMA.ia3[:2], houlsby=("layers.{i}.self_attn.o_proj", "layers.{i}.mlp")),),
    "modernbert": (
        like(
            LLAMA,
            ia3=("layers.{i}.attn.Wqkv", "layers.{i}.mlp.Wo.input"),
            houlsby=("layers.{i}.attn.Wo", "layers.{i}.mlp.Wo"),
        ),
    ),
    "mpnet": (
        Expected(
            ia3=(
                "encoder.layer.{i}.attention.attn.k",
                "encoder.layer.{i}.attention.attn.v",
                "encoder.layer.{i}.output.dense.input",
            ),
            houlsby=("encoder.layer.{i}.attention.attn.o", "encoder.layer.{i}.output.dense"),
            pfeiffer=("encoder.layer.{i}.output.LayerNorm", Port.NORM),
        ),
    ),
    "mt5": (T5, T5_DECODER),
    "opt": (OPT,),
    "phi": (
        like(
            LLAMA,
            ia3=("layers.{i}.self_attn.k_proj", "layers.{i}.self_attn.v_proj", "layers.{i}.mlp.fc2.input"),
            houlsby=("layers.{i}.self_attn.dense", "layers.{i}.mlp.fc2"),
        ),
    ),
    "phi3": (like(LLAMA, ia3=("layers.{i}.self_attn.qkv_proj", "layers.{i}.mlp.down_proj.input")),),
    "qwen2": (LLAMA,),
    "qwen3": (LLAMA,),
    "roberta": (BERT,),
    "t5": (T5, T5_DECODER),
    "vit": (VIT,),
    "whisper": (MBART, MBART_DECODER),
    "xlm-roberta": (BERT,),
}


def ia3_sites(model_type: str, modules: Iterable[str]) -> list[Site]:
    return list(IA3().place(layers_of(model_type, modules), IA3Options()))


def stacks(model_type: str) -> tuple[Expected, ...]:
    return EXPECTED[model_type]


def layers(model_type: str) -> range:
    return range(1 if model_type == "albert" else LAYERS)


def test_every_table_is_expected_here() -> None:
    assert model_types() == sorted(EXPECTED)


@pytest.mark.parametrize("model_type", model_types())
class TestSites:
    def test_ia3(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        found = [site.name for site in ia3_sites(model_type, info.modules)]
        assert found == [
            name.format(i=i) for stack in stacks(model_type) for i in layers(model_type) for name in stack.ia3
        ]

    def test_houlsby(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        sites = placement_sites(layers_of(model_type, info.modules), "houlsby")
        assert [site.module for site in sites] == [
            name.format(i=i) for stack in stacks(model_type) for i in layers(model_type) for name in stack.houlsby
        ]
        assert {site.port for site in sites} == {Port.OUTPUT}

    def test_pfeiffer(self, model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
        info = tiny_info(model_type)
        sites = placement_sites(layers_of(model_type, info.modules), "pfeiffer")
        assert [(site.module, site.port) for site in sites] == [
            (stack.pfeiffer[0].format(i=i), stack.pfeiffer[1])
            for stack in stacks(model_type)
            for i in layers(model_type)
        ]

    def test_bottlenecks_stand_in_the_residual_stream(
        self, model_type: str, tiny_info: Callable[..., ModelInfo]
    ) -> None:
        info = tiny_info(model_type)
        for kind in ("houlsby", "pfeiffer", "parallel"):
            for site in placement_sites(layers_of(model_type, info.modules), kind):
                # CLIP's images have a width of their own.
                assert info.features(site).outputs == (
                    24 if site.module.startswith("vision_model") else info.hidden_size
                ), site

    def test_parallel_stands_where_houlsby_follows_the_feed_forward(
        self, model_type: str, tiny_info: Callable[..., ModelInfo]
    ) -> None:
        info = tiny_info(model_type)
        sites = placement_sites(layers_of(model_type, info.modules), "parallel")
        assert [site.module for site in sites] == [
            stack.houlsby[1].format(i=i) for stack in stacks(model_type) for i in layers(model_type)
        ]
        # What x is, `test_formulas` shows.
        assert all(site.residual in info.modules for site in sites)


@pytest.mark.parametrize("model_type", model_types())
def test_every_linear_layer_of_a_layer_has_a_role(model_type: str, tiny_base: Callable[..., BaseModel]) -> None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    base = tiny_base(model_type)
    for layer in layers_of(model_type, base.info.modules):
        assert layer.stack.fits(layer.path, base.info.modules)
        module = base.module.base_model.get_submodule(layer.path)
        linear = {name for name, part in module.named_modules() if isinstance(part, nn.Linear | Conv1D)}
        with_role = {path.removeprefix(f"{layer.path}.") for path in layer.linear(*Role)}
        assert with_role == linear
        for role in (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUTPUT):
            assert len(layer.linear(role)) in (1, 2)
        # The feed-forward goes up and comes down.
        for up, down in zip(layer.linear(Role.UP), layer.linear(Role.DOWN), strict=True):
            assert base.info.inputs[up] == base.info.modules[down]
            assert base.info.modules[up] % base.info.inputs[down] == 0


def test_a_record_is_one_of_an_architecture_that_transformers_has() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert set(recorded()) - set(CONFIG_MAPPING_NAMES) == set()


def test_gated_feed_forward_of_t5_has_its_second_layer_in_the_same_place(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("t5", feed_forward_proj="gated-gelu")
    assert "encoder.block.0.layer.1.DenseReluDense.wi_1" in info.modules
    sites = ia3_sites("t5", info.modules)
    assert "encoder.block.0.layer.1.DenseReluDense.wo.input" in [site.name for site in sites]


def test_every_layer_of_an_albert_group_is_adapted(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("albert", num_hidden_groups=2, inner_group_num=2)
    sites = placement_sites(layers_of("albert", info.modules), "pfeiffer")
    assert [site.module for site in sites] == [
        f"encoder.albert_layer_groups.{group}.albert_layers.{layer}.full_layer_layer_norm"
        for group in range(2)
        for layer in range(2)
    ]


def test_layers_keep_the_order_of_the_model_beyond_nine() -> None:
    modules = [f"h.{i}{part}" for i in range(12) for part in ("", ".attn.c_attn", ".mlp.c_proj")]
    sites = ia3_sites("gpt2", modules)
    assert [site.module for site in sites] == [module for module in modules if module.count(".") > 1]


def test_a_table_that_does_not_fit_the_model_is_an_error_that_names_the_module() -> None:
    modules = ["encoder.layer.0", "encoder.layer.0.attention.self.key", "encoder.layer.0.output.dense"]
    with pytest.raises(InputError, match=r"the model has no module 'encoder\.layer\.0\.attention\.self\.value'"):
        ia3_sites("bert", modules)
    with pytest.raises(InputError, match="no layer of a bert model found") as error:
        ia3_sites("bert", ["layers.0.query"])
    assert "candidates: layers.N.query" in str(error.value)


def test_an_unknown_architecture_has_no_layers() -> None:
    assert facts("bert").stacks
    assert not facts("mamba").stacks


def test_variants_are_told_by_their_modules(tiny_info: Callable[..., ModelInfo]) -> None:
    # OPT-350M alone is post-norm; nothing within its layers shows it.
    info = tiny_info("opt", do_layer_norm_before=False)
    site, _ = placement_sites(layers_of("opt", info.modules), "pfeiffer")
    assert (site.module, site.port) == ("decoder.layers.0.final_layer_norm", Port.NORM)
    info = tiny_info("dinov2", use_swiglu_ffn=True)
    site = ia3_sites("dinov2", info.modules)[2]
    assert site.name == "encoder.layer.0.mlp.down_proj.input"
    residuals = []
    for settings in (
        {},
        {"new_decoder_architecture": False, "multi_query": True},
        {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 4, "parallel_attn": False},
    ):
        info = tiny_info("falcon", **settings)
        residuals.append(placement_sites(layers_of("falcon", info.modules), "parallel")[1].residual)
    assert residuals == ["h.1.ln_mlp", "h.1.input_layernorm", "h.1.post_attention_layernorm"]


def test_a_half_of_clip_has_the_sites_of_that_half(tiny_base: Callable[..., BaseModel]) -> None:
    info = tiny_base("clip", "image-classification").info
    sites = ia3_sites("clip", info.modules)
    assert [site.name for site in sites] == [
        name.format(i=i) for i in range(LAYERS) for name in EXPECTED["clip"][1].ia3
    ]
    assert info.head == ("classifier",)


def test_names_in_checkpoints_of_models_the_library_does_not_know_stay_as_they_were() -> None:
    # MPNet has BERT's layers; what was written of it has the names that any new architecture gets.
    for model_type in ("mpnet", "dinov2", "gpt_neox"):
        for stack in facts(model_type).stacks:
            assert (stack.hub.attention, stack.hub.output) == ("attention_adapters", "output_adapters")
