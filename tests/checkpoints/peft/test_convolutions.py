"""IA3 on convolutions: channels are scaled, at the output or at the input, with groups and without a bias."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.merging.model import merge_into
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.models.base_model import BaseModel
from adapter_export.sites import Port, Site
from tests.checkpoints.convolutional import convolutional, pixels
from tests.checkpoints.oracle import TOLERANCE, assert_same, assert_same_tensors, by_peft, edit_tensors, run, train

TinyBase = Callable[..., BaseModel]
PROJECTION = "embeddings.patch_embeddings.projection"


OPTIONS: list[tuple[int, dict[str, Any]]] = [
    (2, {}),
    (2, {"bias": False}),
    (2, {"groups": 2}),
    (2, {"groups": 2, "bias": False, "stride": 2, "dilation": 2, "padding": 2}),
    (2, {"padding": 1, "padding_mode": "reflect"}),
    (3, {}),
    (3, {"bias": False}),
    (3, {"groups": 2, "padding": 1}),
]


@pytest.mark.parametrize("feedforward", [[], ["first"]], ids=["output", "input"])
@pytest.mark.parametrize(("rank", "options"), OPTIONS, ids=str)
def test_convolutions(rank: int, options: dict[str, Any], feedforward: list[str], tmp_path: Path) -> None:
    import peft

    base, inputs = convolutional(rank, **options), pixels(rank)
    train(base, tmp_path, target_modules=["first", "second"], feedforward_modules=feedforward)
    assert_same(base, tmp_path, inputs)
    adapter = load_adapter(tmp_path, base.info)
    port, features = (Port.INPUT, 4) if feedforward else (Port.OUTPUT, 6)
    assert adapter.sites[Site("first", port)].operator == IA3Operator(rank)
    assert adapter.sites[Site("first", port)].tensors["l"].shape == (features, *(1,) * rank)

    merged = copy.deepcopy(base.module).double()
    merge_into(merged, adapter)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.module).double(), tmp_path).double().merge_and_unload()
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(merged.get_parameter(name).numpy(), parameter.detach().numpy())
    expected = by_peft(base, tmp_path, inputs)
    assert np.abs(run(merged, inputs) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("feedforward", [[], ["projection"]], ids=["output", "input"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_patches_of_vit_round_trip(
    feedforward: list[str], dtype: str, tiny_base: TinyBase, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    import ml_dtypes

    base, theirs, ours = tiny_base("vit", "image-classification"), tmp_path / "theirs", tmp_path / "ours"
    settings = {"target_modules": ["projection", "k_proj"], "feedforward_modules": feedforward}
    train(base, theirs, modules_to_save=["classifier"], **settings)
    if dtype == "bfloat16":
        edit_tensors(theirs, lambda t: {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in t.items()})
    assert_same(base, theirs, inputs_for("vit"))
    ours.mkdir()
    save_adapter(ours, load_adapter(theirs, base.info), base.info, "base")
    assert_same_tensors(ours, theirs)
    np.testing.assert_array_equal(by_peft(base, ours, inputs_for("vit")), by_peft(base, theirs, inputs_for("vit")))


def test_the_formula_by_hand() -> None:
    # Two outputs in two groups of one output and two inputs each; kernels of one point.
    weight, bias = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1), np.array([10.0, 20.0])
    scale = np.array([2.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1)
    new_weight, new_bias = IA3Operator(2).merge(Port.INPUT, weight, bias, {"l": scale})
    assert new_weight.tolist() == [[[[2.0]], [[6.0]]], [[[15.0]], [[28.0]]]]
    assert new_bias is bias
    new_weight, new_bias = IA3Operator(2).merge(Port.OUTPUT, weight, bias, {"l": scale[:2]})
    assert new_weight.tolist() == [[[[2.0]], [[4.0]]], [[[9.0]], [[12.0]]]]
    assert new_bias is not None
    assert new_bias.tolist() == [20.0, 60.0]


def test_a_vector_of_another_rank_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    base = convolutional(2)
    train(base, tmp_path, target_modules=["first"], feedforward_modules=[])
    edit_tensors(tmp_path, lambda t: {name: tensor.reshape(1, 6) for name, tensor in t.items()})
    assert "expected shape (1, 6, 1, 1) for this base model, found (1, 6)" in refused(tmp_path, base.info)


def test_a_convolution_swaps_in_onnx_runtime(
    tiny_model: Callable[..., Path], tiny_base: TinyBase, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    import onnxruntime as ort

    from adapter_export.export.export import export_onnx

    base, inputs = tiny_base("vit"), inputs_for("vit")
    everywhere = {"target_modules": ["projection", "k_proj", "fc2"]}
    train(base, tmp_path / "inner", feedforward_modules=["projection", "fc2"], **everywhere)
    train(base, tmp_path / "outer", seed=1, feedforward_modules=["fc2"], **everywhere)
    adapters = {name: tmp_path / name for name in ("inner", "outer")}
    manifest = export_onnx(tiny_model("vit"), adapters, tmp_path / "bundle", mode="swappable")
    assert manifest.tensors[f"{PROJECTION}.ia3_conv2d.l"].shape == (32, 1, 1)
    assert manifest.tensors[f"{PROJECTION}.input.ia3_conv2d.l"].shape == (3, 1, 1)

    session = ort.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    off = run(copy.deepcopy(base.module).double(), inputs)
    for name, expected in [("", off), *((name, by_peft(base, path, inputs)) for name, path in adapters.items())]:
        options, adapter = ort.RunOptions(), ort.LoraAdapter()
        if name:
            adapter.Load(str(tmp_path / "bundle" / "adapters" / f"{name}.onnx_adapter"))
            options.add_active_adapter(adapter)
        found = session.run(["last_hidden_state"], inputs, options)[0]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        assert not name or np.abs(expected - off).max() > 0.01 * np.abs(off).max()


def test_training_places_nothing_around_an_embedding(tiny_base: TinyBase) -> None:
    from adapter_export.methods import registry
    from adapter_export.training.train import _initial_tensors

    method = registry.get("lora")
    with pytest.raises(InputError, match=r"word_embeddings is an embedding, around which no adapter is trained"):
        _initial_tensors(tiny_base("bert"), method, method.Options(), r".*word_embeddings", 0)


def test_training_places_nothing_on_a_convolution(tiny_base: TinyBase) -> None:
    from adapter_export.methods import registry
    from adapter_export.training.train import _initial_tensors

    method = registry.get("ia3")
    with pytest.raises(InputError, match=r"projection is a convolution, where no adapter is trained yet"):
        _initial_tensors(tiny_base("vit"), method, method.Options(), r".*projection", 0)


def test_the_description_knows_convolutions(tiny_base: TinyBase) -> None:
    info = tiny_base("vit").info
    assert info.convolutions == {PROJECTION: 2}
    assert info.features(Site(PROJECTION, Port.OUTPUT)).outputs == 32
    assert info.features(Site(PROJECTION, Port.INPUT)).outputs == 3
    grouped = convolutional(3, groups=2).info
    assert grouped.convolutions == {"first": 3, "second": 3}
    assert replace(grouped, convolutions={}).features(Site("first", Port.INPUT)).outputs == 4
