"""AdapterHub's plug-in interface: models adapted by a description of their modules, against the library itself.

`interfaces/<model_type>.npz` (see README.md): a base model, and per case the checkpoint with its
`adapter_interface.json` and what the library computes. Half of these models have no placement table here, or stand
otherwise in ours.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapter_export.bundle.add import add_adapter
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import Injection
from tests.goldens.packed import unpacked

FILES = sorted((Path(__file__).parent / "interfaces").glob("*.npz"))
# Largest difference allowed, of outputs of order 1; the stored ones are rounded to float32.
TOLERANCE = 5e-6
# Least effect of an adapter.
EFFECT = 0.05
# What the library cannot run, and what we say of it.
FAILS = {
    "basic-parallel": "field 'is_parallel': the residual of '.*' is the input of no module",
    "basic-skipped": "field 'original_ln_after': false",
    "cross-skipped": "field 'original_ln_after': false",
    "extended-skipped": "field 'original_ln_after': false",
    "basic-post_add": "field 'residual_before_ln': 'post_add'",
    "cross-post_add": "field 'residual_before_ln': 'post_add'",
    "extended-post_add": "field 'residual_before_ln': 'post_add'",
    "basic-ia3": "field 'adapter_methods': 'lora'",
    "basic-ia3-all": "field 'adapter_methods': 'lora'",
}


@functools.cache
def golden(model_type: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return unpacked(FILES[0].with_name(f"{model_type}.npz"))


def named(model_type: str, prefix: str) -> dict[str, np.ndarray]:
    arrays = golden(model_type)[1]
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def checkpoint(model_type: str, case: str, folder: Path) -> Path:
    about, arrays = golden(model_type)
    names = list(arrays)
    chosen = [names[index] for index in about["cases"][case].get("tensors", ())]
    tensors = {name.removeprefix("tensor.").split("|")[0]: arrays[name] for name in chosen}
    (folder / "adapter_config.json").write_text(json.dumps(about["cases"][case]["config"]))
    (folder / "adapter_interface.json").write_text(json.dumps(about["cases"][case]["interface"]))
    save_file(tensors or {"x.adapters.t.y": np.ones(1, np.float32)}, folder / "adapter.safetensors")
    return folder


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Called as (model_type) -> its base model in float64."""
    import torch

    @functools.cache
    def make(model_type: str) -> BaseModel:
        folder = tmp_path_factory.mktemp(model_type)
        (folder / "config.json").write_text(json.dumps(golden(model_type)[0]["config"]))
        save_file(named(model_type, "base."), folder / "model.safetensors", metadata={"format": "pt"})
        base = load_base(folder, "features", dtype=torch.float64)
        base.module.set_attn_implementation("eager")
        return base

    return make


def run(base: BaseModel, model_type: str) -> np.ndarray:
    import torch

    inputs = {
        name: torch.from_numpy(array.astype(np.float64 if name == "pixel_values" else np.int64))
        for name, array in named(model_type, "input.").items()
    }
    with torch.no_grad():
        result: np.ndarray = base.module(**inputs).last_hidden_state.numpy()
    return result


def difference(found: np.ndarray, expected: np.ndarray, model_type: str) -> float:
    difference, mask = np.abs(found - expected), named(model_type, "input.").get("attention_mask")
    alike = mask is not None and mask.shape == difference.shape[:2]
    return float((difference[mask.astype(bool)] if alike else difference).max())


ALL = [(file.stem, case) for file in FILES for case in golden(file.stem)[0]["cases"]]


@pytest.mark.parametrize(("model_type", "case"), ALL, ids=lambda value: value)
def test_what_the_library_computes_we_compute(model_type: str, case: str, base_of: Any, tmp_path: Path) -> None:
    """The description beside a checkpoint was never opened."""
    about, arrays = golden(model_type)
    base = base_of(model_type)
    folder = checkpoint(model_type, case, tmp_path)
    if "error" in about["cases"][case]:
        if (model_type, case) in (("opt", "basic-ia3"), ("opt", "basic-ia3-all")):
            pytest.skip("transformers 4 gave OPT's feed-forward another shape, which the library could not scale")
        with pytest.raises(InputError, match=FAILS[case]):
            load_adapter(folder, base.info)
        return
    on, off = arrays[f"on.{case}"], arrays["off"]
    assert difference(on, off, model_type) > EFFECT
    assert difference(run(base, model_type), off, model_type) < TOLERANCE
    injection = Injection(base.module, load_adapter(folder, base.info).sites)
    try:
        assert difference(run(base, model_type), on, model_type) < TOLERANCE
    finally:
        injection.remove()


# Adapters of one model that differ in all that an interface can make different, together in one graph.
TOGETHER = ("extended-both", "extended-residual", "extended-norms", "extended-parallel", "basic-houlsby", "basic-ia3")


@pytest.fixture(scope="module", params=("bert", "stablelm"))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_of: Any) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    adapters = {}
    for case in TOGETHER:
        (folder / case).mkdir()
        adapters[case] = checkpoint(request.param, case, folder / case)
    export_onnx(base_of(request.param).folder, adapters, folder / "bundle", mode="swappable", task="features")
    return request.param, folder / "bundle"


@pytest.mark.parametrize("case", TOGETHER)
def test_in_onnx_runtime(case: str, bundle: tuple[str, Path]) -> None:
    import onnxruntime as ort

    model_type, folder = bundle
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    feeds = {name: array.astype(np.int64) for name, array in named(model_type, "input.").items()}
    feeds = {value.name: feeds.get(value.name, np.zeros_like(feeds["input_ids"])) for value in session.get_inputs()}
    run_options, adapter = ort.RunOptions(), ort.LoraAdapter()
    adapter.Load(str(folder / f"adapters/{case}.onnx_adapter"))
    run_options.add_active_adapter(adapter)
    (found,) = session.run(["last_hidden_state"], feeds, run_options)
    # In float32.
    assert difference(found, golden(model_type)[1][f"on.{case}"], model_type) < 2e-5


def test_one_graph_has_one_residual_for_the_same_tensors(
    bundle: tuple[str, Path], base_of: Any, tmp_path: Path
) -> None:
    model_type, folder = bundle
    (tmp_path / "adapter").mkdir()
    other = checkpoint(model_type, "extended-both", tmp_path / "adapter")
    path = other / "adapter_interface.json"
    whole = json.loads(path.read_text())
    whole["interface"]["layer_pre_ffn"] = whole["interface"]["layer_intermediate_proj"]
    path.write_text(json.dumps(whole))
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    with pytest.raises(InputError, match=r"adapter other: site .*: reads .*, the bundle's graph .*; export the bundle"):
        add_adapter(copy, {"other": other})
    adapters = {"one": folder.parent / "extended-both", "two": other}
    with pytest.raises(InputError, match=r"site .*: one adapter reads .*, another .*; export them as bundles of their"):
        export_onnx(base_of(model_type).folder, adapters, tmp_path / "both", mode="swappable", task="features")
    add_adapter(copy, {"same": folder.parent / "extended-both"})


def test_a_residual_that_comes_too_late(base_of: Any, tmp_path: Path) -> None:
    folder = checkpoint("llama", "extended-both", tmp_path)
    path = folder / "adapter_interface.json"
    whole = json.loads(path.read_text())
    whole["interface"]["layer_pre_self_attn"] = "post_attention_layernorm"
    path.write_text(json.dumps(whole))
    base = base_of("llama")
    injection = Injection(base.module, load_adapter(folder, base.info).sites)
    try:
        with pytest.raises(
            InputError, match=r"'layers.0.post_attention_layernorm', whose input it reads, does not run"
        ):
            run(base, "llama")
    finally:
        injection.remove()


@pytest.mark.parametrize(("case", "written"), [("basic-houlsby", True), ("extended-both", False)])
def test_what_has_no_settings_without_the_interface_is_not_written(
    case: str, written: bool, base_of: Any, tmp_path: Path
) -> None:
    info = base_of("stablelm").info
    (tmp_path / "read").mkdir()
    adapter = load_adapter(checkpoint("stablelm", case, tmp_path / "read"), info)
    if not written:
        with pytest.raises(InputError, match="AdapterHub's format has no settings for"):
            save_adapter(tmp_path, adapter, info, "")
        return
    save_adapter(tmp_path, adapter, info, "")
    again = load_adapter(tmp_path, info)
    assert {site: site_adapter.operator for site, site_adapter in again.sites.items()} == {
        site: site_adapter.operator for site, site_adapter in adapter.sites.items()
    }
