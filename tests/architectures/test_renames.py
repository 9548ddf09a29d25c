"""Old module paths, against lists taken under both versions and against transformers' own conversion of weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.architectures.registry import model_types, recorded
from adapter_export.architectures.renames import canonical, former
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel

# Every linear layer and norm that transformers 4.57.6 had in layer 1 of these models and 5.23.0 calls otherwise.
CHANGED = {
    "clip_text_model": [
        ("text_model.encoder.layers.1.self_attn.k_proj", "encoder.layers.1.self_attn.k_proj"),
        ("text_model.encoder.layers.1.mlp.fc2", "encoder.layers.1.mlp.fc2"),
        ("text_model.final_layer_norm", "final_layer_norm"),
        ("text_model.embeddings.token_embedding", "embeddings.token_embedding"),
    ],
    "clip_vision_model": [
        ("vision_model.encoder.layers.1.self_attn.v_proj", "encoder.layers.1.self_attn.v_proj"),
        ("vision_model.embeddings.patch_embedding", "embeddings.patch_embedding"),
        ("vision_model.pre_layrnorm", "pre_layrnorm"),
        ("vision_model.post_layernorm", "post_layernorm"),
    ],
    "dinov2": [
        ("encoder.layer.1.attention.attention.query", "encoder.layer.1.attention.q_proj"),
        ("encoder.layer.1.attention.attention.key", "encoder.layer.1.attention.k_proj"),
        ("encoder.layer.1.attention.attention.value", "encoder.layer.1.attention.v_proj"),
        ("encoder.layer.1.attention.output.dense", "encoder.layer.1.attention.o_proj"),
    ],
    "mixtral": [("layers.1.block_sparse_moe.gate", "layers.1.mlp.gate"), ("layers.1.block_sparse_moe", "layers.1.mlp")],
    "vit": [
        ("encoder.layer.1.attention.attention.query", "layers.1.attention.q_proj"),
        ("encoder.layer.1.attention.attention.key", "layers.1.attention.k_proj"),
        ("encoder.layer.1.attention.attention.value", "layers.1.attention.v_proj"),
        ("encoder.layer.1.attention.output.dense", "layers.1.attention.o_proj"),
        ("encoder.layer.1.intermediate.dense", "layers.1.mlp.fc1"),
        ("encoder.layer.1.output.dense", "layers.1.mlp.fc2"),
        ("encoder.layer.1.layernorm_before", "layers.1.layernorm_before"),
        ("encoder.layer.1.layernorm_after", "layers.1.layernorm_after"),
        ("encoder.layer.1", "layers.1"),
    ],
}
# Renamed models without a placement table; of each a tiny configuration.
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32}
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
UNTABLED: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {**_VIT, "max_length": 64, "num_mel_bins": 16},
    "beit": _VIT,
    "deit": _VIT,
    "dinov2_with_registers": _VIT,
    "ijepa": _VIT,
    "segformer": {**_STAGES, "num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]},
    "swin": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
    "vit_mae": _VIT,
    "vit_msn": _VIT,
    "vivit": {**_VIT, "num_frames": 4},
}
_LANGUAGE_MODELS = (
    "aria", "aya_vision", "gemma3", "got_ocr2", "internvl", "llava", "llava_next", "llava_next_video",
    "llava_onevision", "mistral3", "paligemma", "vipllava",
)  # fmt: skip
CASES = [(model_type, then, now) for model_type, pairs in CHANGED.items() for then, now in pairs]


@pytest.mark.parametrize(("model_type", "then", "now"), CASES)
def test_an_old_path_becomes_todays(model_type: str, then: str, now: str, tiny_info: Callable[..., ModelInfo]) -> None:
    assert now in tiny_info(model_type).modules
    assert canonical(model_type, then) == now
    assert canonical(model_type, now) == now, "today's path stays"
    assert former(model_type, now) == then


def test_every_renamed_base_module_is_expected_here() -> None:
    # GPT-NeoX renamed a head only; SwiGLU is a variant of DINOv2. The others have no table, and no tiny model here.
    renamed = {name for name, record in recorded().items() if record.renames}
    assert renamed == {*CHANGED, "gpt_neox", *_LANGUAGE_MODELS, *UNTABLED}
    assert canonical("gpt_neox", "embed_out.weight") == "lm_head.weight"
    assert canonical("dinov2", "encoder.layer.0.mlp.weights_out") == "encoder.layer.0.mlp.down_proj"


@pytest.mark.parametrize("model_type", model_types())
def test_names_on_disk_become_those_of_the_model(
    model_type: str, tiny_model: Callable[..., Path], tiny_base: Callable[..., BaseModel]
) -> None:
    # transformers saves with the names of old and converts when it loads.
    from safetensors.torch import load_file

    stored = load_file(tiny_model(model_type) / "model.safetensors")
    loaded = tiny_base(model_type).module.state_dict()
    experts = re.compile(r".*\.experts\.\d+\.w\d\.weight")
    assert (model_type == "mixtral") == any(experts.fullmatch(name) for name in stored)
    for name, tensor in stored.items():
        if not experts.fullmatch(name):
            assert loaded[canonical(model_type, name)].equal(tensor), name


@pytest.mark.parametrize("model_type", UNTABLED)
def test_names_on_disk_of_models_without_a_table(model_type: str, tmp_path: Path) -> None:
    """Transformers 5 saves BEiT, Swin and others with the names of transformers 4."""
    import transformers
    from safetensors.torch import load_file

    config = transformers.AutoConfig.for_model(model_type, **UNTABLED[model_type])
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    stored, modules = load_file(tmp_path / "model.safetensors"), dict(model.named_modules())
    renamed = 0
    for name in stored:
        path = canonical(model_type, name.rpartition(".")[0])
        # Swin keeps its table of biases in a module that only names it.
        assert path in modules or "relative_position_bias" in name, name
        assert former(model_type, path) in (name.rpartition(".")[0], path)
        renamed += path != name.rpartition(".")[0]
    assert renamed > 5


def test_a_language_model_within_another() -> None:
    """Gemma 3, as the names changed in transformers 4.52."""
    now = "model.language_model.layers.3.self_attn.k_proj"
    assert canonical("gemma3", "language_model.model.layers.3.self_attn.k_proj") == now.removeprefix("model.")
    assert canonical("gemma3", now) == now
    assert former("gemma3", "language_model.layers.3.mlp") == "language_model.model.layers.3.mlp"
    assert canonical("gemma3", "language_model.lm_head.weight") == "lm_head.weight"


def test_what_stands_before_and_behind_stays() -> None:
    old = "base_model.model.vit.encoder.layer.11.attention.attention.key.ia3_l"
    assert canonical("vit", old) == "base_model.model.vit.layers.11.attention.k_proj.ia3_l"
    adapter = "vit.encoder.layer.3.output.output_adapters.adapters.t.adapter_up.bias"
    assert canonical("vit", adapter) == "vit.layers.3.output.output_adapters.adapters.t.adapter_up.bias"


@pytest.mark.parametrize("path", ["encoder.layer.1.attention.self.key", "", "sub_encoder.layer.1.output.dense_2"])
def test_other_paths_stay(path: str) -> None:
    assert canonical("bert", path) == path
    assert former("bert", path) == path
    assert canonical("no such model", path) == path


def test_only_whole_names_match() -> None:
    assert canonical("vit", "my_encoder.layer.1.output.dense") == "my_encoder.layer.1.output.dense"
    assert canonical("vit", "encoder.layers.1.output.dense") == "encoder.layers.1.output.dense"
    assert canonical("gpt_neox", "embed_output.weight") == "embed_output.weight"


def test_experts_without_a_counterpart_are_no_module(tiny_info: Callable[..., ModelInfo]) -> None:
    path = canonical("mixtral", "layers.0.block_sparse_moe.experts.3.w2")
    assert path == "layers.0.mlp.experts.3.w2"
    assert path not in tiny_info("mixtral").modules
