"""Which modules a config means: PEFT's own functions and tables decide."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapter_export.checkpoints.peft.defaults import DEFAULTS
from adapter_export.checkpoints.peft.matching import is_saved, scaled_at_input, targeted, withheld
from adapter_export.models.base_model import BaseModel
from tests.checkpoints.oracle import assert_same, edit_config, train

NAMES = [
    "bert",
    "bert.encoder.layer.0",
    "bert.encoder.layer.0.output.dense",
    "bert.encoder.layer.0.attention.output.dense",
    "bert.encoder.layer.1.intermediate.dense",
    "encoder.layer.0.output.dense",
    "output.dense",
    "dense",
    "monkey",
    "key",
    "a.key",
    "a.key.b",
    "pre_classifier",
    "classifier",
    "classifier.dense",
    "x.classifier.out_proj",
    "x.scored",
    "line\nbreak.key",
]
LISTS = [(), ("key",), ("output.dense",), ("dense", "0.output.dense"), ("y",), ("",), (".key",), ("classifier",)]
REGEXES = ["", ".*", r".*key", r"(.*\.)?key", r".*\.0\.(?!att).*dense", "bert", "classifier", r"\w+", r"(?i)KEY"]


@pytest.mark.parametrize("targets", [*LISTS, *REGEXES], ids=repr)
def test_targets_exclusions_and_saved_modules(targets: Any) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    settings = list(itertools.product([*LISTS, *REGEXES], [(), ("classifier", "score"), ("dense",), ("pre_.*",)]))
    for excluded, saved in settings:
        config = SimpleNamespace(
            target_modules=targets, exclude_modules=excluded, modules_to_save=saved, target_parameters=None
        )
        ours = targeted(NAMES, targets) - targeted(NAMES, excluded) - withheld(NAMES, saved)
        theirs = {name for name in NAMES if check_target_module_exists(config, name)}
        assert ours == theirs, (excluded, saved)


@pytest.mark.parametrize("feedforward", [*LISTS, *REGEXES], ids=repr)
def test_feedforward_modules(feedforward: Any) -> None:
    from peft.tuners.ia3.model import IA3Model

    config = SimpleNamespace(feedforward_modules=feedforward)
    theirs = {name for name in NAMES if IA3Model._check_target_module_feedforward(config, name)}
    assert scaled_at_input(NAMES, feedforward) == theirs


@pytest.mark.parametrize("saved", [("classifier", "score"), ("dense",), ("out_proj",), ("encoder.inner",), ("er",)])
def test_what_is_saved_whole(saved: tuple[str, ...]) -> None:
    import torch
    from peft.utils.other import ModulesToSaveWrapper, _set_trainable

    class Node(torch.nn.Module):
        def __init__(self, **children: torch.nn.Module) -> None:
            super().__init__()
            for name, child in children.items():
                self.add_module(name, child)

    def leaf() -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    model = Node(
        encoder=Node(inner=Node(dense=leaf()), subscore=leaf()),
        pre_classifier=leaf(),
        classifier=Node(dense=leaf(), out_proj=leaf()),
    )
    leaves = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    _set_trainable(model, "default", module_names=list(saved), inference_mode=False)
    wrapped = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    for name in leaves:
        assert is_saved(name, saved) == any(f"{name}.".startswith(f"{path}.") for path in wrapped), name


def test_the_defaults_are_pefts_of_today() -> None:
    from peft.utils import constants

    targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    feedforward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    assert {name: set(default.targets) for name, default in DEFAULTS.items()} == {
        name: set(modules) for name, modules in targets.items()
    }
    assert {name: set(default.inputs) for name, default in DEFAULTS.items()} == {
        name: set(modules) for name, modules in feedforward.items()
    }


@pytest.mark.parametrize(
    ("model_type", "task", "settings"),
    [
        ("gpt2", "causal-lm", {"task_type": "CAUSAL_LM"}),
        ("llama", "text-classification", {"task_type": "SEQ_CLS"}),
        ("qwen2", "causal-lm", {"task_type": "CAUSAL_LM"}),
        # The output layer, in the base model here, is left out.
        ("t5", "seq2seq-lm", {"task_type": "SEQ_2_SEQ_LM"}),
        ("roberta", "text-classification", {"task_type": "SEQ_CLS"}),
        ("vit", "image-classification", {"modules_to_save": ["classifier"]}),
        ("vit", "features", {}),
        ("bart", "features", {}),
        ("deberta-v2", "text-classification", {"task_type": "SEQ_CLS", "exclude_modules": ["pooler.dense"]}),
    ],
)
def test_all_linear(
    model_type: str, task: str, settings: dict[str, Any], tiny_base: Callable[..., BaseModel],
    inputs_for: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    base = tiny_base(model_type, task)
    conv1d = {"fan_in_fan_out": True} if model_type == "gpt2" else {}
    train(base, tmp_path, target_modules="all-linear", feedforward_modules=[], **settings, **conv1d)
    assert_same(base, tmp_path, inputs_for(model_type))
    edit_config(tmp_path, target_modules="all-linear")
    assert_same(base, tmp_path, inputs_for(model_type))


@pytest.mark.parametrize("task", ["image-classification", "text-classification"])
def test_a_vector_on_the_head_is_refused(
    task: str, tiny_base: Callable[..., BaseModel], tmp_path: Path, refused: Callable[..., str]
) -> None:
    model_type, layer = {"image-classification": ("vit", "classifier")}.get(task, ("deberta-v2", "pooler.dense"))
    base = tiny_base(model_type, task)
    settings = {"task_type": "SEQ_CLS"} if task == "text-classification" else {}
    train(base, tmp_path, target_modules="all-linear", feedforward_modules=[], **settings)
    message = refused(tmp_path, base.info)
    assert f"tensor '{layer}.ia3_l' scales the task head, which is swapped as a whole" in message
    assert f"train again with '{layer}' in PEFT's modules_to_save or exclude_modules" in message


def test_a_million_names() -> None:
    """Lists cost what they are long, whatever they are matched with."""
    many = tuple(f"layer.{number}.no_such" for number in range(1_000_000))
    names = [f"encoder.layer.{number}.attention.output.dense" for number in range(200)]
    begin = time.monotonic()
    assert targeted(names, (*many, "output.dense")) == {*names}
    assert scaled_at_input(names, (*many, "put.dense")) == {*names}
    assert withheld(names, (*many[:1000], "attention")) == {*names}
    assert is_saved(names[0], (*many, "ntion"))
    assert not is_saved(names[0], many)
    assert time.monotonic() - begin < 60
