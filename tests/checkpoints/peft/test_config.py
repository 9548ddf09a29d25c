"""Every form of PEFT's config and of its tensor files, against PEFT itself; and forms that are none."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.peft.reading import notes
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel
from tests.checkpoints.oracle import BIN, CONFIG, WEIGHTS, assert_same, edit_config, edit_tensors, train

PREFIX = "base_model.model."
TinyBase = Callable[..., BaseModel]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def base(tiny_base: TinyBase) -> BaseModel:
    return tiny_base("bert", "text-classification")


@pytest.fixture(scope="module")
def default(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's own default for a BERT classifier, as PEFT saves it."""
    folder = tmp_path_factory.mktemp("default")
    train(base, folder, task_type="SEQ_CLS")
    return folder


@pytest.fixture
def saved(default: Path, tmp_path: Path) -> Path:
    """A copy of that, to be changed."""
    return shutil.copytree(default, tmp_path, dirs_exist_ok=True)


def keep_only(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        edit_config(folder, **{name: ... for name in config if name not in names})

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, lambda t: {name.replace(old, new): tensor for name, tensor in t.items()})


def cast(dtype: Any) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, lambda t: {name: tensor.astype(dtype) for name, tensor in t.items()})


def to_bin(dtype: str = "float32") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        import torch

        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        state = {name: torch.from_numpy(tensor).to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        torch.save(state, folder / BIN)

    return change


def edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


FORMS: dict[str, Callable[[Path], None]] = {
    "as saved": lambda folder: None,
    "nothing but the type": keep_only("peft_type"),
    "type and task": keep_only("peft_type", "task_type"),
    "no targets": edit(target_modules=...),
    "targets null": edit(target_modules=None),
    "no feedforward": edit(feedforward_modules=...),
    "targets in another order": edit(target_modules=["output.dense", "value", "key"]),
    "targets twice": edit(target_modules=["key", "key", "value", "output.dense", "key"]),
    "targets by regex": edit(target_modules=r"bert\.encoder\.layer\.\d\..*(key|value|output\.dense)"),
    "feedforward by regex": edit(feedforward_modules=r".*output\.dense"),
    "both by regex": edit(target_modules=r".*(key|value|output\.dense)", feedforward_modules=r".*put\.dense"),
    "regex with a flag": edit(target_modules=r"(?i).*(KEY|VALUE|OUTPUT\.DENSE)"),
    # Part of a name: no target, but enough for a feed-forward module.
    "feedforward by an ending": edit(
        target_modules=["key", "value", "output.dense", "t.dense"], feedforward_modules=["t.dense"]
    ),
    "exclude nothing": edit(exclude_modules=[]),
    "exclude an empty text": edit(exclude_modules=""),
    "exclude what is no target": edit(exclude_modules=["query"], target_modules=["key", "value", "output.dense"]),
    "exclude by regex": edit(target_modules=r".*(query|key|value|output\.dense)", exclude_modules=r".*query"),
    "no task": edit(task_type=None),
    "no task, nothing to save": edit(task_type=None, modules_to_save=None),
    "nothing to save": edit(modules_to_save=None),
    "save by the whole name": edit(modules_to_save=["classifier"], task_type=None),
    "task of tokens": edit(task_type="FEATURE_EXTRACTION"),
    "fan_in_fan_out": edit(fan_in_fan_out=True),
    "fan_in_fan_out null": edit(fan_in_fan_out=None),
    "flags the other way": edit(inference_mode=False, init_ia3_weights=False),
    "origin": edit(base_model_name_or_path="x/y", revision="main", peft_version="99.0", auto_mapping={"a": 1}),
    "fields of the future": edit(new_switch=False, new_list=[], new_text="", new_map={}, new_none=None),
    "a field of the future that is set": edit(layers_to_transform=[0]),
    "half precision": cast(np.float16),
    "bfloat16": cast(ml_dtypes.bfloat16),
    "double precision": cast(np.float64),
    "bin": to_bin(),
    "bin in half precision": to_bin("float16"),
    "bin in bfloat16": to_bin("bfloat16"),
    "the adapter's name in the names": rename(".ia3_l", ".ia3_l.default"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_means_what_it_means_to_peft(
    form: str, saved: Path, base: BaseModel, inputs_for: Callable[..., Any]
) -> None:
    FORMS[form](saved)
    assert_same(base, saved, inputs_for("bert"))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "feedforward_modules": []},
        {"target_modules": "all-linear", "feedforward_modules": r".*(intermediate|output)\.dense"},
        {"target_modules": "all-linear", "feedforward_modules": [], "exclude_modules": ["query", "pooler.dense"]},
        {"target_modules": ["key", "value"], "feedforward_modules": [], "exclude_modules": r".*layer\.1.*"},
        {"target_modules": ["key"], "feedforward_modules": ["key"]},
        {"target_modules": ["0.output.dense", "layer.1.output.dense"], "feedforward_modules": ["0.output.dense"]},
        {"target_modules": ["dense", "pooler.dense"], "feedforward_modules": ["pooler.dense"]},
        {"target_modules": ["bert.encoder.layer.1.attention.self.value"], "feedforward_modules": []},
        # Every name ends with nothing.
        {"target_modules": r".*\.1\..*(query|dense)", "feedforward_modules": [""]},
        {"target_modules": ["key", "dense"], "feedforward_modules": r"(?!x).*output.*", "exclude_modules": ["0.dense"]},
        # What is saved whole is no target: by a rule of its own, an expression for whole parts of the name.
        {"target_modules": r".*(key|dense|classifier)", "feedforward_modules": []},
        {"target_modules": ["key", "dense"], "feedforward_modules": [], "modules_to_save": ["outpu."]},
    ],
    ids=str,
)
@pytest.mark.parametrize("literal", [False, True], ids=["as-saved", "as-given"])
def test_settings_mean_what_they_mean_to_peft(
    settings: dict[str, Any], literal: bool, base: BaseModel, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    train(base, tmp_path, task_type="SEQ_CLS", **settings)
    if literal:
        # PEFT writes the names it found in the place of its shorthand; a person may not.
        edit_config(tmp_path, **settings)
    assert_same(base, tmp_path, inputs_for("bert"))


def test_a_checkpoint_of_the_base_class_has_no_prefix(
    tiny_base: TinyBase, info: ModelInfo, inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    # An expression that matches without the prefix alone.
    features = tiny_base("bert")
    train(features, tmp_path, target_modules=r"encoder\..*(key|value)", feedforward_modules=[])
    assert_same(features, tmp_path, inputs_for("bert"))
    assert {site.module for site in load_adapter(tmp_path, info).sites} == {
        f"encoder.layer.{i}.attention.self.{name}" for i in range(2) for name in ("key", "value")
    }


@pytest.mark.parametrize("how", ["bare", "named head", "another name"])
def test_names_that_peft_leaves_aside_and_mean_one_thing(how: str, saved: Path, info: ModelInfo) -> None:
    expected = load_adapter(saved, info)
    change = {
        "bare": rename(PREFIX, ""),
        "named head": rename("classifier.", "classifier.modules_to_save.default."),
        "another name": rename(".ia3_l", ".ia3_l.other"),
    }[how]
    change(saved)
    found = load_adapter(saved, info)
    assert found.sites.keys() == expected.sites.keys()
    for site, site_adapter in expected.sites.items():
        np.testing.assert_array_equal(found.sites[site].tensors["l"], site_adapter.tensors["l"])
    np.testing.assert_array_equal(found.head["classifier"].weight, expected.head["classifier"].weight)


def test_two_adapters_in_one_file_are_refused(saved: Path, info: ModelInfo, refused: Refused) -> None:
    edit_tensors(saved, lambda t: {**t, **{f"{n}.other": v + 1 for n, v in t.items() if n.endswith("ia3_l")}})
    assert "expected one adapter in the file, found " in refused(saved, info)


class TestNotes:
    def test_what_peft_ignores_is_told(self, saved: Path, info: ModelInfo) -> None:
        assert load_adapter(saved, info).notes == ()
        edit_config(saved, layers_to_transform=[0, 1], zeta=0.5, off=False, empty=[], nothing=None)
        adapter = load_adapter(saved, info)
        assert adapter.notes == (
            "adapter_config.json: field 'layers_to_transform' is unknown for IA3 and has no effect (found [0, 1])",
            "adapter_config.json: field 'zeta' is unknown for IA3 and has no effect (found 0.5)",
        )

    def test_a_long_value_is_shortened(self) -> None:
        (note,) = notes({"peft_type": "IA3", "long": ["x" * 1000] * 1000}, Path(CONFIG))
        assert len(note) < 400

    def test_notes_reach_stderr(self, saved: Path, info: ModelInfo) -> None:
        edit_config(saved, zeta=1)
        seen: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("adapter_export.checkpoints.folder")
        logger.addHandler(handler)
        try:
            load_adapter(saved, info)
        finally:
            logger.removeHandler(handler)
        assert seen == [f"{saved}: {CONFIG}: field 'zeta' is unknown for IA3 and has no effect (found 1)"]


WRONG: dict[str, tuple[Any, str]] = {
    "peft_type": ("ia3", "expected 'IA3' or 'LORA', found 'ia3'"),
    "task_type": ("FOO", "expected one of CAUSAL_LM, FEATURE_EXTRACTION, "),
    "target_modules": (["key", 3], "expected a list of strings, found 3 in it"),
    "feedforward_modules": ({"output.dense": 1}, "expected list or str, found {'output.dense': 1}"),
    "exclude_modules": ("(", "not a regular expression: missing ), unterminated subpattern"),
    "modules_to_save": ("classifier", "expected list, found 'classifier'"),
    "fan_in_fan_out": ("yes", "expected bool, found 'yes'"),
    "inference_mode": (1, "expected bool, found 1"),
    "init_ia3_weights": ([], "expected bool, found []"),
    "base_model_name_or_path": (["x"], "expected str, found ['x']"),
    "revision": (5, "expected str, found 5"),
    "peft_version": (0.2, "expected str, found 0.2"),
    "auto_mapping": ("x", "expected dict, found 'x'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_kind_is_refused(name: str, saved: Path, info: ModelInfo, refused: Refused) -> None:
    value, message = WRONG[name]
    edit_config(saved, **{name: value})
    assert f"{saved / CONFIG}: field {name!r}: {message}" in refused(saved, info)


@pytest.mark.parametrize("name", ["target_modules", "feedforward_modules"])
def test_without_a_default_of_peft_the_field_is_asked_for(
    name: str, tiny_base: TinyBase, tmp_path: Path, refused: Refused
) -> None:
    base = tiny_base("distilbert")
    train(base, tmp_path, target_modules=["k_lin", "ffn.lin2"], feedforward_modules=["ffn.lin2"])
    edit_config(tmp_path, **{name: None})
    assert f"field {name!r} is missing, and PEFT has no default for 'distilbert'" in refused(tmp_path, base.info)


def test_a_folder_of_adapters_with_names(base: BaseModel, tmp_path: Path, info: ModelInfo, refused: Refused) -> None:
    for name in ("second", "first"):
        train(base, tmp_path, name=name, task_type="SEQ_CLS")
    assert refused(tmp_path, info).endswith(": expected one, found a folder of 2: first, second")
    assert load_adapter(tmp_path / "first", info).source_format == "peft"


def test_a_config_can_be_read_without_a_model(saved: Path) -> None:
    assert read_checkpoint(saved).config["peft_type"] == "IA3"
    edit_config(saved, peft_type="VERA")
    with pytest.raises(InputError, match="expected 'IA3' or 'LORA', found 'VERA'"):
        read_checkpoint(saved)
