"""AdapterHub's LoRA against the library itself, on tiny models of every kind that it treats apart.

`lora/<model>.npz` (see README.md): the files of a base model and of each checkpoint, and what the library computes.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.inspection.folders import describe_adapter
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import Injection

FILES = sorted((Path(__file__).parent / "lora").glob("*.npz"))
# Largest difference allowed in float64, of outputs of order 1. Measured: at most 3e-14.
TOLERANCE = 1e-9
# The same for models that compute norms or attention in float32 whatever the dtype of their weights.
IN_PART_FLOAT32 = {"deberta", "gemma2", "llama", "modernbert", "qwen2", "t5", "t5-plain"}
TOLERANCE_IN_PART_FLOAT32 = 5e-6
# The largest difference allowed in a graph, which is in float32.
TOLERANCE_IN_ONNX = 2e-5
# Least effect of an adapter.
EFFECT = 0.05
# What the library saves and we refuse, with the message.
REFUSED = {
    "gating": "field 'use_gating': True is not supported: the library averages the gate over all positions",
    "dora": "field 'use_dora': True is not supported: DoRA divides by norms",
    "vera": "field 'vera_d': 0.1 is not supported: VeRA multiplies random matrices",
    "dvora": "field 'use_dora': True is not supported: DoRA divides by norms",
    "mtl": "field 'architecture': 'mtl_lora' is not supported, expected null",
}


@functools.cache
def arrays(model: str) -> dict[str, np.ndarray]:
    with np.load(FILES[0].with_name(f"{model}.npz")) as golden:
        return {name: golden[name] for name in golden.files}


def files(model: str, folder: str, to: Path) -> Path:
    """Writes a folder of the golden as it was."""
    to = to / folder
    to.mkdir()
    for name, array in arrays(model).items():
        if name.startswith(f"file.{folder}/"):
            (to / name.rpartition("/")[2]).write_bytes(array.tobytes())
    return to


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Called as (model) -> its base model in float64."""
    import torch

    @functools.cache
    def make(model: str) -> BaseModel:
        return load_base(files(model, "base", tmp_path_factory.mktemp(model)), "features", dtype=torch.float64)

    return make


def run(base: BaseModel, model: str) -> np.ndarray:
    import torch

    inputs = {
        name.removeprefix("input."): torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array)
        for name, array in arrays(model).items()
        if name.startswith("input.")
    }
    with torch.no_grad():
        result: np.ndarray = base.module(**inputs).last_hidden_state.numpy()
    return result


def difference(found: np.ndarray, expected: np.ndarray, model: str) -> float:
    """The largest at positions that are no padding; what follows a decoder's inputs has none."""
    mask = arrays(model).get("input.attention_mask")
    padded = mask is not None and "input.decoder_input_ids" not in arrays(model)
    difference = np.abs(found - expected)
    return float((difference[mask.astype(bool)] if padded else difference).max())  # type: ignore[union-attr]


ALL = [(file.stem, name.removeprefix("on.")) for file in FILES for name in arrays(file.stem) if name.startswith("on.")]


@pytest.mark.parametrize(("model", "case"), ALL, ids=lambda value: value)
def test_what_the_library_computes_we_compute(model: str, case: str, base_of: Any, tmp_path: Path) -> None:
    base, golden = base_of(model), arrays(model)
    tolerance = TOLERANCE_IN_PART_FLOAT32 if model in IN_PART_FLOAT32 else TOLERANCE
    adapter = load_adapter(files(model, case, tmp_path), base.info)
    assert (adapter.method, adapter.notes) == ("lora", ())
    assert difference(golden[f"on.{case}"], golden["off"], model) > EFFECT
    assert difference(run(base, model), golden["off"], model) < tolerance
    injection = Injection(base.module, adapter.sites)
    try:
        assert difference(run(base, model), golden[f"on.{case}"], model) < tolerance
    finally:
        injection.remove()

    # It is written in PEFT's format, which has the same values and scales.
    written = tmp_path / "written"
    written.mkdir()
    save_adapter(written, adapter, base.info, "")
    again = load_adapter(written, base.info)
    assert again.sites.keys() == adapter.sites.keys()
    for site, site_adapter in adapter.sites.items():
        assert again.sites[site].strength == pytest.approx(site_adapter.strength, rel=1e-9)
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(again.sites[site].tensors[name], tensor)


def test_every_kind_of_checkpoint_is_there() -> None:
    suffixes = {name.rpartition(".")[2] for name in arrays("gpt2") if name.startswith("file.")}
    assert suffixes == {"json", "safetensors", "bin"}
    assert len(ALL) > len(FILES)
    interfaces = {file.stem for file in FILES if any("adapter_interface" in name for name in arrays(file.stem))}
    assert "deberta" in interfaces


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_merged_in_float64(model: str, tmp_path: Path) -> None:
    import torch

    base = load_base(files(model, "base", tmp_path), "features", dtype=torch.float64)
    merge_into(base.module, load_adapter(files(model, "double", tmp_path), base.info))
    assert difference(run(base, model), arrays(model)["on.double"], model) < TOLERANCE


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_in_onnx_runtime(model: str, tmp_path: Path) -> None:
    """Every case in one graph, of ranks and sites that differ."""
    cases = [case for name, case in ALL if name == model]
    base, bundle = files(model, "base", tmp_path), tmp_path / "bundle"
    adapters = {case: files(model, case, tmp_path) for case in cases}
    export_onnx(base, adapters, bundle, mode="swappable", task="features", cache=False)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
    golden = arrays(model)
    feeds = {
        value.name: golden.get(f"input.{value.name}", np.zeros_like(golden["input.input_ids"]))
        for value in session.get_inputs()
    }
    for case in cases:
        swapped, how = ort.LoraAdapter(), ort.RunOptions()
        swapped.Load(str(bundle / f"adapters/{case}.onnx_adapter"))
        how.add_active_adapter(swapped)
        (found,) = session.run(["last_hidden_state"], feeds, how)
        assert difference(found, golden[f"on.{case}"], model) < TOLERANCE_IN_ONNX, case


@pytest.mark.parametrize(("model", "case"), [("bert", case) for case in REFUSED] + [("gpt2", "vera")])
def test_what_the_library_saves_and_we_refuse(model: str, case: str, base_of: Any, tmp_path: Path) -> None:
    folder = files(model, case, tmp_path)
    with pytest.raises(InputError) as error:
        load_adapter(folder, base_of(model).info)
    assert f"{folder / 'adapter_config.json'}: {REFUSED[case]}" in str(error.value)


def test_a_name_for_the_settings(base_of: Any, tmp_path: Path) -> None:
    folder = files("bert", "default", tmp_path)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "config": "lora[r=3, alpha=5]"}))
    base = base_of("bert")
    injection = Injection(base.module, load_adapter(folder, base.info).sites)
    try:
        assert difference(run(base, "bert"), arrays("bert")["on.default"], "bert") < TOLERANCE
    finally:
        injection.remove()
    assert describe_adapter(folder).method == "lora"
