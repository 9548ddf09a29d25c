"""What we write, PEFT reads as its own: the same bytes for what came from PEFT, the same modules for any adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from adapter_export.models.description import describe
from adapter_export.sites import Port, Site
from tests.checkpoints.oracle import (
    BIN,
    CONFIG,
    WEIGHTS,
    assert_same_tensors,
    by_ours,
    by_peft,
    edit_tensors,
    train,
)

TEXT = "text-classification"
TinyBase = Callable[..., BaseModel]


@pytest.fixture(scope="module")
def base(tiny_base: TinyBase) -> BaseModel:
    return tiny_base("bert", TEXT)


def again(folder: Path, info: ModelInfo, output: Path) -> Path:
    """The checkpoint of `folder`, read and written."""
    output.mkdir()
    save_adapter(output, load_adapter(folder, info), info, "base")
    return output


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("part", ["all", "head"])
def test_every_dtype_round_trips(
    dtype: Any, part: str, base: BaseModel, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    train(base, theirs, task_type="SEQ_CLS")
    # PEFT keeps vectors in float32 beside a head in the base model's dtype, unless told otherwise.
    edit_tensors(
        theirs, lambda t: {n: v.astype(dtype) if part == "all" or "classifier" in n else v for n, v in t.items()}
    )
    ours = again(theirs, base.info, tmp_path / "ours")
    assert_same_tensors(ours, theirs)
    inputs = inputs_for("bert")
    np.testing.assert_array_equal(by_peft(base, ours, inputs), by_peft(base, theirs, inputs))
    # By way of the class without a head, whose modules have no prefix.
    features = replace(base.info, nested=False, head=(), architecture="BertModel")
    for name, tensor in load_file(again(theirs, features, tmp_path / "features") / WEIGHTS).items():
        original = load_file(theirs / WEIGHTS)
        key = name if name in original else name.replace("base_model.model.", "base_model.model.bert.")
        assert (original[key].dtype, original[key].tobytes()) == (tensor.dtype, tensor.tobytes())


def test_a_checkpoint_that_peft_made_of_a_half_precision_model(base: BaseModel, tmp_path: Path) -> None:
    import copy

    import peft
    import torch

    for autocast, vectors in ((True, "float32"), (False, "bfloat16")):
        theirs = tmp_path / f"theirs-{vectors}"
        module = copy.deepcopy(base.module).to(torch.bfloat16)
        config = peft.IA3Config(task_type="SEQ_CLS")
        model = peft.get_peft_model(module, config, autocast_adapter_dtype=autocast)
        model.save_pretrained(theirs)
        stored = load_file(theirs / WEIGHTS)
        assert {tensor.dtype.name for name, tensor in stored.items() if name.endswith("ia3_l")} == {vectors}
        assert {tensor.dtype.name for name, tensor in stored.items() if "classifier" in name} == {"bfloat16"}
        assert_same_tensors(again(theirs, base.info, tmp_path / f"ours-{vectors}"), theirs)


def test_bin_in_half_precision_becomes_the_same_safetensors(base: BaseModel, tmp_path: Path) -> None:
    import torch

    theirs = tmp_path / "theirs"
    train(base, theirs, task_type="SEQ_CLS")
    edit_tensors(theirs, lambda t: {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in t.items()})
    before = again(theirs, base.info, tmp_path / "before")
    state = {n: torch.from_numpy(t.astype(np.float32)).bfloat16() for n, t in load_file(theirs / WEIGHTS).items()}
    (theirs / WEIGHTS).unlink()
    torch.save(state, theirs / BIN)
    assert_same_tensors(again(theirs, base.info, tmp_path / "ours"), before)


def test_values_that_changed_are_not_narrowed(base: BaseModel, tmp_path: Path) -> None:
    train(base, tmp_path / "theirs", task_type="SEQ_CLS")
    edit_tensors(tmp_path / "theirs", lambda t: {name: tensor.astype(np.float16) for name, tensor in t.items()})
    adapter = load_adapter(tmp_path / "theirs", base.info)
    site, site_adapter = next(iter(adapter.sites.items()))
    sites = {
        **adapter.sites,
        site: SiteAdapter(site_adapter.operator, {"l": site_adapter.tensors["l"] * np.float32(1.0001)}),
    }
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", replace(adapter, sites=sites), base.info, "base")
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "ours" / WEIGHTS).items()}
    assert [name for name, dtype in dtypes.items() if dtype == np.float32] == [
        f"base_model.model.bert.{site.module}.ia3_l"
    ]
    found = load_adapter(tmp_path / "ours", base.info).sites[site].tensors["l"]
    np.testing.assert_array_equal(found, sites[site].tensors["l"])


@pytest.mark.parametrize("form", [r".*(key|value)", "all-linear", ["output.dense", "key"]])
def test_the_config_says_what_matters(form: Any, base: BaseModel, tmp_path: Path) -> None:
    feedforward = ["output.dense"] if isinstance(form, list) else []
    train(base, tmp_path / "theirs", task_type="SEQ_CLS", target_modules=form, feedforward_modules=feedforward)
    theirs, ours = (
        load_adapter(tmp_path / "theirs", base.info),
        again(tmp_path / "theirs", base.info, tmp_path / "ours"),
    )
    config = json.loads((ours / CONFIG).read_text())
    assert sorted(config["target_modules"]) == sorted(site.module for site in theirs.sites)
    assert sorted(config["feedforward_modules"]) == sorted(s.module for s in theirs.sites if s.port is Port.INPUT)
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    assert config["base_model_name_or_path"] == "base"
    assert load_adapter(ours, base.info).sites.keys() == theirs.sites.keys()


@pytest.fixture(scope="module")
def nested() -> BaseModel:
    """A model where some names are the end of others: a list of names would mean too much."""
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    class Nested(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.dense = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"dense": nn.Linear(4, 4), "xdense": nn.Linear(4, 4)})
            self.post_init()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.inner["xdense"](self.inner["dense"](torch.tanh(self.dense(x)))),)

    torch.manual_seed(0)
    module = Nested(PretrainedConfig(hidden_size=4, tie_word_embeddings=False)).eval().requires_grad_(False)
    return BaseModel(module, describe(module), "features", Path(), untrained_head=False)


@pytest.mark.parametrize(
    "ports",
    [
        {"dense": Port.OUTPUT},
        {"dense": Port.INPUT},
        {"dense": Port.INPUT, "inner.dense": Port.OUTPUT},
        # Feed-forward names match in mid-word.
        {"dense": Port.INPUT, "inner.dense": Port.INPUT, "inner.xdense": Port.OUTPUT},
        {"inner.dense": Port.INPUT, "dense": Port.OUTPUT},
    ],
)
def test_names_that_end_like_others(ports: dict[str, Port], nested: BaseModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sites = {
        Site(module, port): SiteAdapter(IA3Operator(), {"l": rng.normal(1, 0.3, 4).astype(np.float32)})
        for module, port in ports.items()
    }
    save_adapter(tmp_path, Adapter("ia3", sites), nested.info, "base")
    inputs = {"x": rng.standard_normal((2, 3, 4)).astype(np.float32)}
    np.testing.assert_allclose(by_peft(nested, tmp_path, inputs), by_ours(nested, tmp_path, inputs), rtol=1e-12)
    assert load_adapter(tmp_path, nested.info).sites.keys() == sites.keys()


def test_another_method_is_refused(base: BaseModel, random_adapter: Callable[..., Adapter], tmp_path: Path) -> None:
    from adapter_export.checkpoints.peft.writing import write

    with pytest.raises(InputError, match="method 'bottleneck': not written in PEFT's format, only: ia3"):
        write(tmp_path, random_adapter(base.info, "bottleneck"), base.info, "base")
    assert list(tmp_path.iterdir()) == []
