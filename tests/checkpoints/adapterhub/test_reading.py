"""What AdapterHub's library has written over the years; what it computes is held by the golden cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.architectures.registry import model_types
from adapter_export.checkpoints.adapter import Adapter, Checkpoint
from adapter_export.checkpoints.adapterhub import reading as adapterhub
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import PLACEMENTS, BottleneckOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port

Good = Callable[[str], Path]
Refused = Callable[..., str]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    change(config)
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("versioned", "name", "expected"),
    [
        (True, "gelu", "gelu"),
        (True, "swish", "silu"),
        (True, "ReLU", "relu"),
        (True, "leakyrelu", "leaky_relu"),
        (False, "gelu", "gelu_new"),
        (False, "gelu_orig", "gelu"),
        (False, "relu", "relu"),
    ],
)
def test_names_of_activations(versioned: bool, name: str, expected: str, info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    edit_config(folder, lambda config: config["config"].update(non_linearity=name))
    if not versioned:
        edit_config(folder, lambda config: config.pop("version"))
    adapter = load_adapter(folder, info)
    assert {site_adapter.operator for site_adapter in adapter.sites.values()} == {BottleneckOperator(expected)}


def test_names_of_tensors_before_they_were_shortened(info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    expected = load_adapter(folder, info)
    tensors = load_file(folder / "adapter.safetensors")
    old = {
        name.replace("attention.output.adapters", "attention.output.attention_text_task_adapters").replace(
            ".output.adapters", ".output.layer_text_lang_adapters"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert not set(old) & set(tensors)
    save_file(old, folder / "adapter.safetensors")
    found = load_adapter(folder, info)
    for site, site_adapter in expected.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(found.sites[site].tensors[name], tensor)


def test_settings_that_are_absent_have_their_defaults(info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    needed = ("mh_adapter", "output_adapter", "non_linearity")
    edit_config(folder, lambda config: config.update(config={name: config["config"][name] for name in needed}))
    assert len(load_adapter(folder, info).sites) == 4


@pytest.mark.parametrize(("scaling", "factor"), [(1.0, 1.0), (4, 4.0), (0.5, 0.5)])
def test_a_scaling_factor_is_folded_into_the_second_layer(
    scaling: float, factor: float, info: ModelInfo, good: Good
) -> None:
    folder = good("adapterhub")
    before = load_adapter(folder, info)
    edit_config(folder, lambda config: config["config"].update(scaling=scaling))
    after = load_adapter(folder, info)
    for site, site_adapter in before.sites.items():
        found = after.sites[site].tensors
        np.testing.assert_array_equal(found["down"], site_adapter.tensors["down"])
        np.testing.assert_array_equal(found["down_bias"], site_adapter.tensors["down_bias"])
        np.testing.assert_array_equal(found["up"], site_adapter.tensors["up"] * np.float32(factor))
        np.testing.assert_array_equal(found["up_bias"], site_adapter.tensors["up_bias"] * np.float32(factor))


def test_the_prefix_of_the_class_it_was_saved_from_does_not_matter(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    # T5's generation class is its own base: no prefix, though its family has one.
    for model_type, task in (("bert", "text-classification"), ("llama", "causal-lm"), ("t5", "seq2seq-lm")):
        base, nested = tiny_info(model_type), tiny_info(model_type, task)
        adapter = random_adapter(base, "bottleneck")
        folder = save_checkpoint(adapter, nested)
        names = load_file(folder / "adapter.safetensors").keys()
        assert all(name.startswith(f"{nested.prefix}.") == nested.nested for name in names)
        (folder / "adapter_export.json").unlink()
        assert set(load_adapter(folder, base).sites) == set(adapter.sites)
        assert set(load_adapter(folder, nested).sites) == set(adapter.sites)


GOLDENS = Path(__file__).parents[2] / "goldens/adapterhub"


@pytest.fixture
def ia3(tmp_path: Path) -> Path:
    """The library's IA3 on a BERT like that of the other tests."""
    return Path(shutil.copytree(GOLDENS / "bert-ia3/adapter", tmp_path / "ia3"))


def vectors(folder: Path, info: ModelInfo) -> dict[str, np.ndarray]:
    return {site.module: site_adapter.tensors["l"] for site, site_adapter in load_adapter(folder, info).sites.items()}


@pytest.mark.parametrize(
    ("version", "alpha", "expected"),
    [
        ("adapters.1.3.0", 3, 3.0),
        ("adapters.1.1.0", 0.5, 0.5),
        # Older versions of the library got the scaling wrong, and its newer ones undo that on loading.
        ("adapters.1.0.1", 3, 1.0),
        ("adapters.0.2.2", 3, 1.0),
        # The library before that one never had the mistake.
        ("3.2.1", 3, 3.0),
        (None, 3, 3.0),
    ],
)
def test_the_factor_of_ia3(version: str | None, alpha: float, expected: float, info: ModelInfo, ia3: Path) -> None:
    plain = vectors(ia3, info)
    edit_config(ia3, lambda config: config.update(version=version) if version else config.pop("version"))
    edit_config(ia3, lambda config: config["config"].update(alpha=alpha))
    for module, vector in vectors(ia3, info).items():
        np.testing.assert_array_equal(vector, plain[module] * np.float32(expected))


def test_ia3_stands_where_its_config_says(info: ModelInfo, ia3: Path) -> None:
    below = ("attention.self.key", "attention.self.value", "intermediate.dense")
    assert set(vectors(ia3, info)) == {f"encoder.layer.{number}.{name}" for number in (0, 1) for name in below}
    assert {site.port for site in load_adapter(ia3, info).sites} == {Port.OUTPUT}
    tensors = load_file(ia3 / "adapter.safetensors")
    save_file({n: t for n, t in tensors.items() if ".layer.0." not in n}, ia3 / "adapter.safetensors")
    edit_config(ia3, lambda config: config["config"].update(leave_out=[0]))
    assert set(vectors(ia3, info)) == {f"encoder.layer.1.{name}" for name in below}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"composition_mode": "add"}, "tensor 'encoder.layer.0.attention.self.key.loras.*.lora_A' is missing"),
        ({"composition_mode": "mul"}, "field 'composition_mode': expected 'add' (LoRA) or 'scale' (IA3), found 'mul'"),
        ({"use_gating": True}, "field 'use_gating': True is not supported: the library averages the gate over all"),
        ({"use_dora": True}, "field 'use_dora': True is not supported: DoRA divides by norms"),
        ({"vera_d": 0.1}, "field 'vera_d': 0.1 is not supported: VeRA multiplies random"),
        ({"r": 2}, "field 'r': expected 1 with composition_mode 'scale', found 2"),
        ({"attn_matrices": ["k", "o"]}, "field 'attn_matrices': expected of q, k and v, found 'o'"),
        ({"alpha": "one"}, "field 'alpha': expected int or float, found 'one'"),
        ({"alpha": 1e39}, "field 'alpha': expected a number, found 1e+39"),
        ({"attn_matrices": ["k"]}, "tensors at 'encoder.layer.0.attention.self.value': no such place for this config"),
        ({"output_lora": True}, "tensors at 'encoder.layer.0.output.dense' are missing (2 places in all)"),
        ({"selfattn_lora": False}, "no such place for this config in a bert model (4 in all)"),
    ],
)
def test_what_is_no_ia3(changes: dict[str, Any], message: str, info: ModelInfo, ia3: Path, refused: Refused) -> None:
    edit_config(ia3, lambda config: config["config"].update(changes))
    assert message in refused(ia3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("key.loras.t.lora_A", (1, 32), "not a tensor of IA3"),
        ("key.loras.other.lora_B", (32, 1), "expected one adapter in the file, found ['other', 't']"),
        ("key.loras.t.lora_B", (1, 32), "expected shape (32, 1) for this base model and config, found (1, 32)"),
        ("query.loras.t.lora_B", (32, 1), "tensors at 'encoder.layer.0.attention.self.query': no such place"),
    ],
)
def test_tensors_of_no_ia3(
    name: str, shape: tuple[int, ...], message: str, info: ModelInfo, ia3: Path, refused: Refused
) -> None:
    tensors = load_file(ia3 / "adapter.safetensors")
    prefix = next(iter(tensors)).partition("encoder.")[0]
    tensors[f"{prefix}encoder.layer.0.attention.self.{name}"] = np.ones(shape, np.float32)
    save_file(tensors, ia3 / "adapter.safetensors")
    assert message in refused(ia3)


def test_unknown_settings_are_told(info: ModelInfo, good: Good, ia3: Path) -> None:
    for folder, kind in ((good("adapterhub"), "bottleneck adapters"), (ia3, "IA3")):
        edit_config(folder, lambda config: config["config"].update(new_idea=2, another=False, third=None))
        assert load_adapter(folder, info).notes == (
            f"adapter_config.json: field 'new_idea' is unknown for {kind} and has no effect (found 2)",
        )


@pytest.mark.parametrize("field", ["inv_adapter", "invertible_adapter"])
def test_task_adapters_once_named_an_invertible_adapter_that_they_did_not_have(
    field: str, info: ModelInfo, good: Good, refused: Refused
) -> None:
    folder = good("adapterhub")
    edit_config(folder, lambda config: config["config"].update({field: {"block_type": "nice"}}))
    assert f"field '{field}'" in refused(folder)
    edit_config(folder, lambda config: config.update(type="text_task"))
    assert len(load_adapter(folder, info).sites) == 4
    tensors = load_file(folder / "adapter.safetensors")
    save_file({**tensors, "bert.invertible_adapters.default.F.0.weight": np.ones(2)}, folder / "adapter.safetensors")
    assert "of an invertible adapter, which is not supported" in refused(folder)


def test_a_part_has_the_type_of_the_whole(tiny_info: Callable[..., ModelInfo]) -> None:
    info = tiny_info("clip_vision_model")
    config = {"mh_adapter": False, "output_adapter": True, "non_linearity": "relu"}
    for model_type in ("clip", "clip_vision_model"):
        checkpoint = Checkpoint(Path("x"), "adapterhub", {"config": config, "model_type": model_type}, {})
        with pytest.raises(InputError, match="are missing"):  # and the type is not complained of
            adapterhub.resolve(checkpoint, info)
    checkpoint = Checkpoint(Path("x"), "adapterhub", {"config": config, "model_type": "clip_text_model"}, {})
    with pytest.raises(InputError, match="field 'model_type': expected 'clip_vision_model', found 'clip_text_model'"):
        adapterhub.resolve(checkpoint, info)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("model_type", model_types())
def test_every_placement_of_ours_survives_saving(
    model_type: str,
    placement: str,
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> None:
    info = tiny_info(model_type)
    adapter = random_adapter(info, "bottleneck", placement=placement)
    folder = save_checkpoint(adapter, info)
    again = load_adapter(folder, info)
    assert {site: site_adapter.operator for site, site_adapter in again.sites.items()} == {
        site: site_adapter.operator for site, site_adapter in adapter.sites.items()
    }
    for site, site_adapter in adapter.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(again.sites[site].tensors[name], tensor)
    # The library places its own elsewhere in these, which is then recorded.
    sidecar = json.loads((folder / "adapter_export.json").read_text())
    assert sidecar.get("placement") == (placement if (model_type, placement) in OURS_ALONE else None)
    assert "modules" not in sidecar


# Where the library has no setting for what we place: it adapts Gemma's output before its second norm, Phi's and GPT-J's
# feed-forward without a residual, and ModernBERT from an x behind its norm.
OURS_ALONE = {
    *((model_type, placement) for model_type in ("gemma2", "gemma3_text") for placement in PLACEMENTS),
    *((model_type, placement) for model_type in ("modernbert", "phi") for placement in ("pfeiffer", "parallel")),
    ("gptj", "parallel"),
}


def test_an_adapter_of_mixed_kinds_is_a_union(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    info = tiny_info("bert")
    houlsby = random_adapter(info, "bottleneck", activation="tanh")
    parallel = random_adapter(info, "bottleneck", placement="parallel", reduction_factor=4)
    sites = {
        site: site_adapter for site, site_adapter in houlsby.sites.items() if ".attention." in site.module
    } | parallel.sites
    folder = save_checkpoint(Adapter("bottleneck", sites), info)
    config = json.loads((folder / "adapter_config.json").read_text())["config"]
    assert config["architecture"] == "union"
    first, second = config["configs"]
    assert (first["mh_adapter"], first["output_adapter"], first["non_linearity"]) == (True, False, "tanh")
    assert (second["mh_adapter"], second["output_adapter"], second["is_parallel"]) == (False, True, True)
    again = load_adapter(folder, info)
    assert again.sites.keys() == sites.keys()
    assert {site: site_adapter.operator for site, site_adapter in again.sites.items()} == {
        site: site_adapter.operator for site, site_adapter in sites.items()
    }


def test_an_adapter_of_mixed_kinds_has_no_such_format(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    info = tiny_info("bert")
    first, second = (random_adapter(info, "bottleneck", activation=name) for name in ("relu", "tanh"))
    half = dict(list(second.sites.items())[:1])
    with pytest.raises(InputError, match="one kind of bottleneck only"):
        save_checkpoint(Adapter("bottleneck", {**first.sites, **half}), info)
