"""What a LoRA checkpoint of PEFT may say, and what is refused by its field or tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.peft.defaults import LORA_DEFAULTS
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from adapter_export.models.heads import with_heads

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def info(tiny_info: Callable[..., ModelInfo]) -> ModelInfo:
    return tiny_info("llama", "causal-lm")


@pytest.fixture
def folder(tmp_path: Path, info: ModelInfo) -> Path:
    """R = 4 on the queries of both layers."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        path = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        features, outputs = info.inputs["layers.0.self_attn.q_proj"], info.modules["layers.0.self_attn.q_proj"]
        tensors[f"{path}.lora_A.weight"] = rng.standard_normal((4, features)).astype(np.float32)
        tensors[f"{path}.lora_B.weight"] = rng.standard_normal((outputs, 4)).astype(np.float32)
    save_file(tensors, tmp_path / WEIGHTS)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_the_scale(folder: Path, info: ModelInfo) -> None:
    adapter = load_adapter(folder, info)
    assert [site.name for site in adapter.sites] == [f"layers.{layer}.self_attn.q_proj" for layer in range(2)]
    assert {site_adapter.strength for site_adapter in adapter.sites.values()} == {2.0}
    edit(folder, use_rslora=True, alpha_pattern={r"layers\.1\..*": 6})
    assert [site_adapter.strength for site_adapter in load_adapter(folder, info).sites.values()] == [4.0, 3.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "field 'use_dora': DoRA divides by norms"),
        ({"bias": "lora_only"}, "field 'bias': expected 'none', found 'lora_only'"),
        ({"init_lora_weights": "pissa_niter_4"}, "field 'init_lora_weights': 'pissa_niter_4' changes the base model's"),
        ({"init_lora_weights": "olora"}, "field 'init_lora_weights': 'olora' changes the base model's weights"),
        ({"init_lora_weights": "loftq"}, "field 'init_lora_weights': 'loftq' changes the base model's weights"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "field 'target_parameters': changes of parameters that"),
        ({"trainable_token_indices": [1]}, "field 'trainable_token_indices': embeddings of single tokens"),
        ({"layer_replication": [[0, 1]]}, "field 'layer_replication': the adapter belongs to a model with other"),
        ({"lora_bias": True}, "field 'lora_bias': a bias of lora_B is not supported"),
        ({"alora_invocation_tokens": [1]}, "field 'alora_invocation_tokens': an adapter that acts on a part"),
        ({"r": 0}, "field 'r': expected at least 1, found 0"),
        ({"r": 3}, "expected rank 3, as the config says, found 4"),
        ({"rank_pattern": {"q_proj": 2}}, "expected rank 2, as the config says, found 4"),
        ({"rank_pattern": {"q_proj": "x"}}, "field 'rank_pattern': expected numbers above 0"),
        ({"rank_pattern": {"(": 4}}, "field 'rank_pattern': a regular expression that"),
        ({"alpha_pattern": {"(a+)+$" * 3: 4}}, None),
        ({"lora_alpha": "x"}, "field 'lora_alpha': expected"),
        ({"layers_pattern": ["(.*)"]}, "field 'layers_pattern': expected plain names"),
        ({"layers_to_transform": ["1"]}, "field 'layers_to_transform': expected numbers"),
        ({"layers_to_transform": [1]}, "'target_modules' does not name its module"),
        ({"target_modules": ["q_proj", "v_proj"]}, "is missing .* but 'target_modules' names its module"),
    ],
)
def test_fields_that_are_refused(folder: Path, info: ModelInfo, fields: dict[str, Any], message: str | None) -> None:
    edit(folder, **fields)
    if message is None:
        load_adapter(folder, info)
        return
    with pytest.raises(InputError, match=message):
        load_adapter(folder, info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.lora_B.weight"), r"tensor '.*q_proj\.lora_B\.weight' is missing"),
        (lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:, :-1].copy()}), "expected shape"),
        (lambda t: t.update({f"{Q}.lora_B.weight": t[f"{Q}.lora_B.weight"][:, :3].copy()}), "expected shape"),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": np.ones(4, np.float32)}),
            "expected lora_A.weight and lora_B",
        ),
        (lambda t: t.update({f"{Q}.lora_B.bias": np.ones(4, np.float32)}), "expected lora_A.weight and lora_B"),
        (lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"] * np.float32(np.nan)}), "finite"),
    ],
)
def test_tensors_that_are_refused(
    folder: Path, info: ModelInfo, change: Callable[[dict[str, np.ndarray]], Any], message: str
) -> None:
    edit_tensors(folder, change)
    with pytest.raises(InputError, match=message):
        load_adapter(folder, info)


def test_the_defaults_are_pefts_of_today() -> None:
    from peft.utils import constants

    theirs = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    assert {
        name: targets if isinstance(targets, str) else list(targets) for name, targets in LORA_DEFAULTS.items()
    } == theirs


@pytest.fixture
def opt(tmp_path: Path, tiny_info: Callable[..., ModelInfo]) -> tuple[Path, ModelInfo]:
    """An adapter of the words, without its config, and the model's description."""
    info = tiny_info("opt")
    tensors = {
        "base_model.model.decoder.embed_tokens.lora_embedding_A": np.ones((2, 101), np.float32),
        "base_model.model.decoder.embed_tokens.lora_embedding_B": np.ones((32, 2), np.float32),
    }
    save_file(tensors, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["embed_tokens"]}))
    return tmp_path, info


def test_an_embedding_that_is_called_by_rows(opt: tuple[Path, ModelInfo]) -> None:
    (site,) = load_adapter(*opt).sites
    assert site.module == "decoder.embed_tokens"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("tokens", "positions"),
            "positions.lora_embedding_A': expected a linear layer, or a convolution or an",
        ),
        (("_embedding_A", "_A.weight"), "lora_embedding_A' is missing; found lora_A.weight"),
        (("_embedding_B", "_embedding_C"), "expected lora_A.weight and lora_B.weight only, or lora_embedding_A and"),
        (("tokens", "words"), r"embed_words\.lora_\*': 'target_modules' does not name its module"),
    ],
    ids=str,
)
def test_embeddings_that_are_refused(opt: tuple[Path, ModelInfo], change: tuple[str, str], message: str) -> None:
    folder, info = opt
    edit_tensors(folder, lambda t: t.update({name.replace(*change): t.pop(name) for name in list(t)}))
    edit(folder, target_modules=["embed_positions" if "positions" in change else "embed_tokens"])
    with pytest.raises(InputError, match=message):
        load_adapter(folder, info)


def test_a_table_that_is_read_as_a_whole_is_none_of_them(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("deberta-v2")
    assert "encoder.rel_embeddings" in info.modules
    assert set(info.embeddings) == {"embeddings.word_embeddings", "embeddings.position_embeddings"}


def test_a_finished_graph_shows_no_embeddings(opt: tuple[Path, ModelInfo]) -> None:
    folder, info = opt
    with pytest.raises(
        InputError, match=r"lora_embedding_A': .*; of a finished graph .* linear layers alone are known"
    ):
        load_adapter(folder, replace(info, embeddings={}, kernels={}))


def test_a_name_of_the_adapter_in_the_names_of_tensors(opt: tuple[Path, ModelInfo]) -> None:
    folder, info = opt
    plain = load_adapter(folder, info)
    edit_tensors(folder, lambda tensors: tensors.update({f"{name}.mine": tensors.pop(name) for name in list(tensors)}))
    assert list(load_adapter(folder, info).sites) == list(plain.sites)


def test_a_saved_table_must_be_the_models(opt: tuple[Path, ModelInfo], tiny_base: Callable[..., BaseModel]) -> None:
    folder, info = opt
    base, table = tiny_base("opt"), "base_model.model.decoder.embed_tokens.base_layer.weight"
    own = base.module.get_input_embeddings().weight.detach().numpy()
    for values in (own, own + 1):
        edit_tensors(folder, lambda tensors, values=values: tensors.update({table: values}))  # type: ignore[misc]
        adapter = load_adapter(folder, info)
        if values is own:
            with_heads(base, {"a": adapter})
        else:
            with pytest.raises(InputError, match=r"embed_tokens"):
                with_heads(base, {"a": adapter})
