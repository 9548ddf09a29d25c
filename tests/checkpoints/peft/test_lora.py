"""What a LoRA checkpoint of PEFT may say, and what is refused by its field or tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.peft.defaults import LORA_DEFAULTS
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

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


def test_a_convolution_is_refused(tmp_path: Path, tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("vit")
    (module,) = info.convolutions
    tensors = {
        f"base_model.model.{module}.lora_A.weight": np.ones((2, 3, 4, 4), np.float32),
        f"base_model.model.{module}.lora_B.weight": np.ones((info.modules[module], 2, 1, 1), np.float32),
    }
    save_file(tensors, tmp_path / WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "target_modules": [module.rpartition(".")[2]]}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(
        InputError, match="expected a linear layer; LoRA of convolutions and embeddings is not supported"
    ):
        load_adapter(tmp_path, info)
