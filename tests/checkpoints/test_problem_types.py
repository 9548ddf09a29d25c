"""What a head's numbers mean: where it is stated, and where only their number tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.problem_types import MULTI, REGRESSION, SINGLE, classes, meaning, with_problem_type
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

LABELS = ("a", "b", "c")


@pytest.fixture
def adapter(tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter]) -> Adapter:
    return random_adapter(tiny_info("bert", "text-classification"), "ia3", labels=LABELS)


def test_what_transformers_makes_of_nothing_said() -> None:
    assert meaning(None, 1) == REGRESSION
    assert meaning(None, 2) == SINGLE
    assert meaning(SINGLE, 1) == REGRESSION, "of one class there is nothing to tell"
    assert meaning(MULTI, 1) == MULTI
    assert meaning(REGRESSION, 3) == REGRESSION


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"problem_type": MULTI, "id2label": {"0": "x", "1": "y", "2": "z"}}, MULTI),
        ({"problem_type": MULTI, "num_labels": 3}, MULTI),
        ({"problem_type": MULTI, "id2label": {"0": "x", "1": "y"}}, None),
        ({"problem_type": MULTI}, None),
        ({"problem_type": None, "num_labels": 3}, None),
        ({}, None),
    ],
)
def test_a_checkpoint_without_a_word_takes_its_base_models(
    adapter: Adapter, config: dict[str, Any], expected: str | None
) -> None:
    assert with_problem_type(adapter, config).problem_type == expected
    assert with_problem_type(replace(adapter, problem_type=REGRESSION), config).problem_type == REGRESSION


def test_a_config_has_two_classes_unless_it_says_so() -> None:
    from transformers import BertConfig

    for config in (BertConfig(), BertConfig(num_labels=5), BertConfig(id2label={0: "a", 1: "b", 2: "c"})):
        assert classes(config.to_dict()) == config.num_labels
        assert classes(config.to_diff_dict()) == config.num_labels


def test_one_that_nobody_knows(adapter: Adapter) -> None:
    with pytest.raises(InputError, match=r"config\.json: field 'problem_type': expected one of single_.*, found 'x'"):
        with_problem_type(adapter, {"problem_type": "x", "num_labels": 3})


@pytest.mark.parametrize("method", ["ia3", "bottleneck"])
def test_it_is_written_and_read_again(
    method: str,
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> None:
    info = tiny_info("bert", "text-classification")
    adapter = random_adapter(info, method, labels=LABELS)
    for problem_type in (MULTI, None):
        folder = save_checkpoint(replace(adapter, problem_type=problem_type), info)
        assert load_adapter(folder, info).problem_type == problem_type
    sidecar = folder / "adapter_export.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "problem_type": "many"}))
    with pytest.raises(InputError, match=r"adapter_export\.json: field 'problem_type': expected one of .*'many'"):
        load_adapter(folder, info)
