"""What AdapterHub's LoRA may say, and what is refused by its field or tensor. What it computes is held by goldens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
RANK, HIDDEN, FEEDFORWARD = 3, 32, 64
Q = "bert.encoder.layer.0.attention.self.query.loras.t"
Refused = Callable[..., str]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """R = 3 and alpha = 6 on the queries and values of both layers, without settings that are the library's default."""
    tensors = {}
    for layer in range(2):
        for name in ("query", "value"):
            path = f"bert.encoder.layer.{layer}.attention.self.{name}.loras.t"
            tensors |= {f"{path}.lora_A": values(RANK, HIDDEN), f"{path}.lora_B": values(HIDDEN, RANK)}
    save_file(tensors, tmp_path / WEIGHTS)
    config = {"config": {"architecture": "lora", "r": RANK, "alpha": 6}, "model_type": "bert", "name": "t"}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "config": {**config["config"], **fields}}))


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def strengths(folder: Path, info: ModelInfo) -> set[float]:
    return {site_adapter.strength for site_adapter in load_adapter(folder, info).sites.values()}


def test_settings_that_are_absent_have_their_defaults(folder: Path, info: ModelInfo) -> None:
    adapter = load_adapter(folder, info)
    assert adapter.method == "lora"
    assert list(adapter.sites) == [
        Site(f"encoder.layer.{layer}.attention.self.{name}", Port.BRANCH)
        for layer in range(2)
        for name in ("query", "value")
    ]
    for site_adapter in adapter.sites.values():
        np.testing.assert_array_equal(site_adapter.tensors["a"], values(RANK, HIDDEN).T)
        np.testing.assert_array_equal(site_adapter.tensors["b"], values(HIDDEN, RANK).T)
        assert site_adapter.strength == 6 / RANK


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("adapters.1.3.0", 2.0),
        ("adapters.1.1.0", 2.0),
        # Older versions of the library got the factor wrong, and its newer ones read their checkpoints so.
        ("adapters.1.0.1", 1.0),
        # The library before that one never had the mistake.
        ("3.2.1", 2.0),
    ],
)
def test_the_scale(version: str, expected: float, folder: Path, info: ModelInfo) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "version": version}))
    assert strengths(folder, info) == {expected}


def test_settings_without_effect(folder: Path, info: ModelInfo) -> None:
    expected = load_adapter(folder, info)
    edit(folder, dropout=0.5, init_weights="bert", init_weights_seed=1, use_gating=False, vera_d=None, dtype="float16")
    found = load_adapter(folder, info)
    assert found.sites.keys() == expected.sites.keys()
    assert found.notes == ()
    edit(folder, new_idea=2)
    assert load_adapter(folder, info).notes == (
        "adapter_config.json: field 'new_idea' is unknown for LoRA and has no effect (found 2)",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_gating": True}, "field 'use_gating': True is not supported: the library averages the gate over all"),
        ({"use_dora": True}, "field 'use_dora': True is not supported: DoRA divides by norms of the merged weight"),
        ({"vera_d": 0.1}, "field 'vera_d': 0.1 is not supported: VeRA multiplies random matrices"),
        ({"vera_b": 0.0}, "field 'vera_b': 0.0 is not supported: VeRA multiplies random matrices"),
        ({"composition_mode": "mul"}, "field 'composition_mode': expected 'add' (LoRA) or 'scale' (IA3), found 'mul'"),
        ({"composition_mode": None}, "field 'composition_mode': expected 'add' (LoRA) or 'scale' (IA3), found None"),
        ({"architecture": "mtl_lora"}, "field 'architecture': 'mtl_lora' is not supported, expected null (bottleneck)"),
        ({"dtype": "int8"}, "field 'dtype': expected one of bfloat16, double, float, float16"),
        ({"dtype": 16}, "field 'dtype': expected str, found 16"),
        ({"r": 0}, "field 'r': expected 1 to 2,147,483,648, found 0"),
        ({"r": True}, "field 'r': expected 1 to 2,147,483,648, found True"),
        ({"r": 1 << 40}, "field 'r': expected 1 to 2,147,483,648, found 1099511627776"),
        ({"r": 2.0}, "field 'r': expected int, found 2.0"),
        ({"alpha": "one"}, "field 'alpha': expected int or float, found 'one'"),
        ({"alpha": float("nan")}, "field 'alpha': expected a number, found nan"),
        ({"alpha": True}, "field 'alpha': expected a number, found True"),
        ({"attn_matrices": ["q", "o"]}, "field 'attn_matrices': expected of q, k and v, found 'o'"),
        ({"attn_matrices": "qv"}, "field 'attn_matrices': expected list, found 'qv'"),
        ({"leave_out": ["1"]}, "field 'leave_out': expected a list of layer numbers, found '1'"),
        ({"selfattn_lora": 1}, "field 'selfattn_lora': expected bool, found 1"),
    ],
)
def test_fields_that_are_refused(folder: Path, fields: dict[str, Any], message: str, refused: Refused) -> None:
    edit(folder, **fields)
    assert f"{folder / CONFIG}: {message}" in refused(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attn_matrices": ["q"]}, "tensors at 'encoder.layer.0.attention.self.value': no such place for this config"),
        ({"selfattn_lora": False}, "no such place for this config in a bert model (4 in all)"),
        ({"leave_out": [0]}, "tensors at 'encoder.layer.0.attention.self.query': no such place"),
        ({"intermediate_lora": True}, "tensors at 'encoder.layer.0.intermediate.dense' are missing (2 places in all)"),
        ({"output_lora": True}, "tensors at 'encoder.layer.0.output.dense' are missing (2 places in all)"),
        ({"r": 4}, "query.loras.*.lora_A': expected shape (4, 32) for this base model and config, found (3, 32)"),
    ],
)
def test_fields_that_do_not_fit_the_tensors(
    folder: Path, fields: dict[str, Any], message: str, refused: Refused
) -> None:
    edit(folder, **fields)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.lora_B"), "tensor 'encoder.layer.0.attention.self.query.loras.*.lora_B' is missing"),
        (lambda t: t.update({f"{Q}.lora_B": values(RANK, HIDDEN)}), "expected shape (32, 3) for this base model"),
        (lambda t: t.update({f"{Q}.lora_A": values(HIDDEN)}), "expected shape (3, 32) for this base model"),
        (lambda t: t.update({f"{Q}.m.weight": values(HIDDEN, 1)}), f"tensor '{Q}.m.weight': not a tensor of LoRA"),
        (lambda t: t.update({f"{Q}.gate.weight": values(1, HIDDEN)}), "gate.weight': not a tensor of LoRA"),
        (
            lambda t: t.update({"bert.shared_parameters.t.lora_A": values(RANK, HIDDEN)}),
            "tensor 'bert.shared_parameters.t.lora_A': not a tensor of LoRA",
        ),
        (
            lambda t: t.update({f"{Q[:-1]}u.lora_A": values(RANK, HIDDEN)}),
            "expected one adapter in the file, found ['t', 'u']",
        ),
        (lambda t: t.update({f"{Q}.lora_A": np.full((RANK, HIDDEN), np.nan, np.float32)}), "expected finite values"),
    ],
)
def test_tensors_that_are_refused(
    folder: Path, change: Callable[[dict[str, np.ndarray]], Any], message: str, refused: Refused
) -> None:
    edit_tensors(folder, change)
    assert message in refused(folder)


def test_a_union_with_lora_is_refused(folder: Path, refused: Refused) -> None:
    """The library itself cannot add a union of two LoRA."""
    settings = json.loads((folder / CONFIG).read_text())["config"]
    edit(folder, architecture="union", configs=[settings, {**settings, "leave_out": [0]}])
    message = refused(folder)
    assert (
        f"{folder / CONFIG}: field 'configs': a union with 'lora' is not supported, only one of bottlenecks" in message
    )


def test_a_model_without_a_table_is_refused(
    folder: Path, tiny_info: Callable[..., ModelInfo], refused: Refused
) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "model_type": "mpnet"}))
    message = refused(folder, tiny_info("mpnet"))
    assert f"{folder / CONFIG}: field 'architecture': 'lora': no table of the modules of 'mpnet'" in message
