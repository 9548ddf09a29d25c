"""`adapter_interface.json` with one thing wrong: the message names the file and the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Site

GOLDENS = Path(__file__).parents[2] / "goldens/adapterhub-borders"
Refused = Callable[..., str]


@pytest.fixture
def qwen(tiny_info: Callable[..., ModelInfo]) -> ModelInfo:
    return tiny_info("qwen2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of a Qwen2 of two layers, with the interface's optional modules."""
    adapter = Path(shutil.copytree(GOLDENS / "qwen2-interface-extended/adapter", tmp_path / "adapter"))
    for name in ("head_config.json", "pytorch_model_head.bin"):
        (adapter / name).unlink()
    return adapter


def edit(folder: Path, top: dict[str, Any] | None = None, **changes: Any) -> None:
    """Set fields of the interface, or of the file; ... removes one."""
    path = folder / "adapter_interface.json"
    whole = json.loads(path.read_text())
    for owner, new in ((whole["interface"], changes), (whole, top or {})):
        owner.update(new)
        for name in [name for name, value in owner.items() if value is ...]:
            del owner[name]
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_methods": ["lora"]}, "field 'adapter_methods': 'bottleneck', of which the adapter is, is not among"),
        ({"adapter_methods": "bottleneck"}, "field 'adapter_methods': expected list, found 'bottleneck'"),
        ({"adapter_methods": ...}, "field 'adapter_methods' is missing"),
        ({"model_layers": ...}, "field 'model_layers' is missing"),
        ({"model_layers": None}, "field 'model_layers': expected str, found None"),
        ({"model_layers": "blocks"}, "field 'model_layers': 'blocks' is no list of layers of this qwen2"),
        ({"model_layers": "layers.0"}, "field 'model_layers': 'layers.0' is no list of layers of this qwen2"),
        ({"layer_output_proj": 3}, "field 'layer_output_proj': expected str, found 3"),
        ({"layer_output_proj": "mlp.wo"}, "field 'layer_output_proj': 'layers.0.mlp.wo' is not in this qwen2 model"),
        ({"layer_pre_ffn": "norm"}, "field 'layer_pre_ffn': 'layers.0.norm' is not in this qwen2 model"),
        ({"layer_ln_2": "norm2"}, "field 'layer_ln_2': 'layers.0.norm2' is not in this qwen2 model"),
        ({"layer_cross_attn": "cross"}, "field 'layer_cross_attn': 'layers.0.cross' is not in this qwen2 model"),
        ({"attn_o_proj": "out"}, "field 'attn_o_proj': 'layers.0.self_attn.out' is not in this qwen2 model"),
        ({"attn_v_proj": "value"}, "field 'attn_v_proj': 'layers.0.self_attn.value' is not in this qwen2 model"),
        ({"attn_v_proj": None}, "field 'attn_qkv_proj': expected either this or all of attn_q_proj, attn_k_proj"),
        ({"attn_qkv_proj": "q_proj"}, "field 'attn_qkv_proj': expected either this or all of attn_q_proj"),
        ({"layer_post_ffn": "norm"}, "field 'layer_post_ffn' is unknown, and may change where adapters stand"),
        ({"top": {"interface": ["layers"]}}, "field 'interface': expected dict, found ['layers']"),
        ({"top": {"interface": ...}}, "field 'interface' is missing"),
        ({"top": {"model_type": "qwen3"}}, "field 'model_type': expected 'qwen2', found 'qwen3'"),
        ({"layer_output_proj": None}, "tensors at 'layers.0.output_adapters': no such place for this config"),
    ],
)
def test_what_is_wrong_is_named(
    changes: dict[str, Any], message: str, folder: Path, qwen: ModelInfo, refused: Refused
) -> None:
    edit(folder, **changes)
    assert message in refused(folder, qwen)


def test_a_file_that_is_no_json(folder: Path, qwen: ModelInfo, refused: Refused) -> None:
    (folder / "adapter_interface.json").write_text("{")
    assert "adapter_interface.json: expected JSON" in refused(folder, qwen)


def test_other_modules_are_other_places(folder: Path, qwen: ModelInfo) -> None:
    def sites() -> set[Site]:
        return set(load_adapter(folder, qwen).sites)

    # As the library's own interface says: one sum, on the layer's output.
    assert {site.module for site in sites()} == {"layers.0", "layers.1"}
    edit(folder, layer_output_proj="mlp", layer_pre_ffn="mlp.gate_proj")
    assert {(site.module, site.residual) for site in sites()} == {
        (f"layers.{number}.mlp", f"layers.{number}.mlp.gate_proj") for number in (0, 1)
    }
    edit(folder, layer_pre_ffn=None)
    assert {(site.module, site.residual) for site in sites()} == {(f"layers.{number}.mlp", "") for number in (0, 1)}


def test_the_base_model_may_be_elsewhere_than_the_prefix_says(folder: Path, qwen: ModelInfo) -> None:
    expected = set(load_adapter(folder, qwen).sites)
    for base_model, layers in (("model", "layers"), ("self", "model.layers"), (None, "model.layers")):
        edit(folder, base_model=base_model, model_layers=layers)
        assert {site.module for site in load_adapter(folder, qwen).sites} <= {
            *(site.module for site in expected),
            "layers.0.mlp.down_proj",
            "layers.1.mlp.down_proj",
        }
