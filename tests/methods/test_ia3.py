"""IA3 against PEFT itself, whose checkpoints we read and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.sites import Port, Site

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Case:
    """A PEFT configuration on an architecture. Empty settings are PEFT's own defaults for it."""

    model_type: str
    task: str = "features"
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = "defaults"

    def __str__(self) -> str:
        return f"{self.model_type}-{self.task}-{self.note}"


def chosen(targets: Any, feedforward: Any = (), **more: Any) -> dict[str, Any]:
    """Settings that name the modules themselves."""
    feedforward = list(feedforward) if isinstance(feedforward, tuple) else feedforward
    return {"target_modules": targets, "feedforward_modules": feedforward, **more}


CASES = [
    # Linear with a bias, without one, with one on some; Conv1D; queries and keys normalised after their projection.
    Case("bert"),
    Case("llama", "causal-lm"),
    Case("qwen2", "causal-lm"),
    Case("qwen3", "causal-lm"),
    Case("gpt2", "causal-lm", {"fan_in_fan_out": True}),
    Case("t5", "seq2seq-lm"),
    # One projection for queries, keys and values.
    Case("gpt_neox", "causal-lm"),
    Case("bloom", "causal-lm"),
    Case("phi3", "causal-lm", chosen(r".*\.(qkv_proj|down_proj)", r".*\.down_proj"), "regex"),
    # Task heads: one layer, two layers, two modules, without bias.
    Case("bert", "text-classification"),
    Case("roberta", "text-classification"),
    Case(
        "distilbert",
        "text-classification",
        chosen(["k_lin", "v_lin", "ffn.lin2"], ("ffn.lin2",), modules_to_save=["pre_classifier", "classifier"]),
        "paper",
    ),
    Case("llama", "text-classification"),
    Case("gpt2", "text-classification", {"fan_in_fan_out": True}),
    # Ways to name modules.
    Case("bert", "features", chosen(r"encoder\.layer\.[01]\.attention\.self\.(key|value)"), "regex"),
    Case(
        "bert",
        "text-classification",
        chosen(r".*(key|value|intermediate\.dense|output\.dense)", r".*\d\.output\.dense"),
        "regex",
    ),
    Case("bert", "features", chosen(["output.dense", "1.output.dense"], ("1.output.dense",)), "suffix"),
    # "y" is the whole last part of no name, but "key" and "query" end with it: enough for feed-forward modules.
    Case("bert", "features", chosen(["key", "value", "y"], ("y",)), "raw-ending"),
    Case("bert", "features", chosen(["key", "value"], exclude_modules=r".*\.0\..*"), "exclude-regex"),
    Case("bert", "features", chosen(["key", "value"], exclude_modules=["layer.1.attention.self.key"]), "exclude-list"),
    Case("bert", "features", chosen("all-linear"), "all-linear"),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
# Differences allowed, by dtype: rounding only.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

TinyBase = Callable[..., BaseModel]
InputsFor = Callable[..., dict[str, np.ndarray]]


def trained_by_peft(case: Case, module: Any, seed: int = 0) -> Any:
    """A PEFT model over `module` with every trained tensor random: vectors around 1, heads around 0."""
    import peft
    import torch

    settings = {"target_modules": None, "feedforward_modules": None, **case.settings}
    config = peft.IA3Config(task_type=tasks.get(case.task).peft, **settings)
    model = peft.get_peft_model(module, config).to(next(module.parameters()).dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.copy_(noise + 1.0 if "ia3_l" in name else noise)
    return model


def run(model: Any, case: Case, inputs_for: InputsFor) -> np.ndarray:
    import torch

    inputs = {name: torch.from_numpy(array) for name, array in inputs_for(case.model_type).items()}
    with torch.no_grad():
        result: np.ndarray = model(**inputs)[tasks.get(case.task).output].numpy()
    return result


@every_case
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_peft_saves_computes_the_same_here(
    case: Case, dtype: str, tiny_base: TinyBase, inputs_for: InputsFor, tmp_path: Path
) -> None:
    import torch

    peft_model = trained_by_peft(case, tiny_base(case.model_type, case.task, dtype=getattr(torch, dtype)).module)
    expected = run(peft_model, case, inputs_for)
    peft_model.save_pretrained(tmp_path)

    base = tiny_base(case.model_type, case.task, dtype=getattr(torch, dtype))
    off = run(base.module, case, inputs_for)
    adapter = load_adapter(tmp_path, base.info)
    inject(base.module, adapter)
    found = run(base.module, case, inputs_for)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])
    assert np.abs(expected - off).max() > 0.1
    assert adapter.source_format == "peft"
    assert adapter.task == (case.task if tasks.get(case.task).peft else None)


@every_case
def test_peft_loads_what_we_write_and_the_tensors_are_its_own(
    case: Case,
    tiny_base: TinyBase,
    inputs_for: InputsFor,
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    import peft

    peft_model = trained_by_peft(case, tiny_base(case.model_type, case.task).module)
    expected = run(peft_model, case, inputs_for)
    peft_model.save_pretrained(tmp_path)
    base = tiny_base(case.model_type, case.task)
    ours = save_checkpoint(load_adapter(tmp_path, base.info), base.info, str(base.folder))

    theirs, written = load_file(tmp_path / WEIGHTS), load_file(ours / WEIGHTS)
    assert theirs.keys() == written.keys()
    for name, tensor in theirs.items():
        assert written[name].shape == tensor.shape
        assert written[name].tobytes() == tensor.tobytes(), name

    # A missing tensor would be a warning, hence an error; PEFT is silent about surplus ones.
    again = peft.PeftModel.from_pretrained(base.module, ours)
    assert peft.get_peft_model_state_dict(again).keys() == written.keys()
    np.testing.assert_allclose(run(again, case, inputs_for), expected, rtol=0, atol=TOLERANCE["float32"])


def test_one_checkpoint_fits_the_base_class_and_every_task_class(
    tiny_model: Callable[..., Path], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_model("bert", "text-classification")
    features, classifier = load_base(folder, "features").info, load_base(folder, "text-classification").info
    for trained_on, loaded_for in ((features, classifier), (classifier, features)):
        adapter = random_adapter(trained_on, "ia3")
        again = load_adapter(save_checkpoint(adapter, trained_on), loaded_for)
        assert set(again.sites) == set(adapter.sites)
        for site, site_adapter in adapter.sites.items():
            np.testing.assert_array_equal(again.sites[site].tensors["l"], site_adapter.tensors["l"])


def test_our_config_says_what_peft_would(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    info = tiny_info("distilbert", "text-classification")
    folder = save_checkpoint(random_adapter(info, "ia3"), info, "some/base")
    config = json.loads((folder / "adapter_config.json").read_text())
    layers = [f"transformer.layer.{i}" for i in range(2)]
    assert config == {
        "base_model_name_or_path": "some/base",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "feedforward_modules": [f"{layer}.ffn.lin2" for layer in layers],
        "inference_mode": True,
        "init_ia3_weights": True,
        "modules_to_save": ["classifier", "pre_classifier"],
        "peft_type": "IA3",
        "revision": None,
        "target_modules": [
            f"{layer}.{name}" for layer in layers for name in ("attention.k_lin", "attention.v_lin", "ffn.lin2")
        ],
        "task_type": "SEQ_CLS",
    }


def test_the_formula_by_hand() -> None:
    # Two outputs, three inputs. Output side: y = l * (W x + b); input side: y = W (l * x) + b.
    weight, bias = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([10.0, 20.0])
    new_weight, new_bias = IA3Operator().merge(Port.OUTPUT, weight, bias, {"l": np.array([2.0, 3.0])})
    assert new_weight.tolist() == [[2.0, 4.0, 6.0], [12.0, 15.0, 18.0]]
    assert new_bias is not None
    assert new_bias.tolist() == [20.0, 60.0]
    new_weight, new_bias = IA3Operator().merge(Port.INPUT, weight, bias, {"l": np.array([2.0, 3.0, 4.0])})
    assert new_weight.tolist() == [[2.0, 6.0, 12.0], [8.0, 15.0, 24.0]]
    assert new_bias is not None
    assert new_bias.tolist() == [10.0, 20.0]


def test_a_fused_projection_takes_a_vector_of_the_fused_size(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter]
) -> None:
    adapter = random_adapter(tiny_info("gpt2"), "ia3")
    assert adapter.sites[Site("h.0.attn.c_attn", Port.OUTPUT)].tensors["l"].shape == (3 * 32,)
    assert adapter.sites[Site("h.0.mlp.c_proj", Port.INPUT)].tensors["l"].shape == (4 * 32,)
