"""`docs/architectures.md` against the placement tables and against the numbers stored beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.registry import model_types
from adapter_export.methods.bottleneck import placement_sites
from adapter_export.methods.ia3 import IA3, IA3Options
from adapter_export.methods.lora import LoRA, LoRAOptions
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port
from benchmarks.architectures.page import ADAPTERS, NUMBERS, PAGE, placement_rows, render, tasks_of

# The others are not linear.
MERGEABLE = ("ia3", "lora")
# Above any error of float32 in these models; seen: 1e-7 to 3e-5, the most with LoRA on T5.
CEILING = 5e-5


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))
    return found


def test_the_page_is_what_the_command_writes(numbers: dict[str, Any]) -> None:
    # Otherwise: python -m benchmarks.architectures --page-only
    assert PAGE.read_text(encoding="utf-8") == render(numbers)


def test_every_architecture_was_measured(numbers: dict[str, Any]) -> None:
    assert sorted(numbers) == model_types()
    for model_type, entry in numbers.items():
        assert entry["versions"].keys() == {"onnxruntime", "torch", "transformers"}
        assert list(entry["pytorch"]) == sorted(ADAPTERS), model_type
        assert sorted(entry["tasks"]) == sorted(tasks_of(model_type)), model_type
        for task, found in entry["tasks"].items():
            for adapter in ADAPTERS:
                merged = {"merged"} if adapter in MERGEABLE and task == tasks_of(model_type)[0] else set()
                assert set(found[adapter]) == {"embedded", "swappable"} | merged, (model_type, task, adapter)
    assert "not measured" not in PAGE.read_text(encoding="utf-8")


def test_what_has_no_number_says_why(numbers: dict[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for model_type, entry in numbers.items():
        for adapter, found in entry["pytorch"].items():
            assert found["trains"] is True, (model_type, adapter)
            assert found["sites"] > 0
            assert isinstance(found["merges"], str) == (adapter not in MERGEABLE), (model_type, adapter)
            assert adapter not in MERGEABLE or found["merges"] < 1e-12
        for task, adapters in entry["tasks"].items():
            for adapter, modes in adapters.items():
                for mode, result in modes.items():
                    if isinstance(result, str):
                        (line,) = (line for line in page.splitlines() if result in line)
                        assert line.startswith(f"- **{model_type}**, {task} (")
                        assert f"{adapter} {mode}" in line
                    else:
                        assert 0 < result < CEILING, (model_type, task, adapter, mode)


@pytest.mark.parametrize("model_type", model_types())
def test_sites_on_the_page_are_those_of_a_model(model_type: str, tiny_info: Callable[..., ModelInfo]) -> None:
    page, rows = PAGE.read_text(encoding="utf-8"), list(placement_rows(model_type))
    assert all(f"| {' | '.join(row)} |" in page for row in rows)
    info = tiny_info(model_type)
    layers = layers_of(model_type, info.modules)
    for columns, sites in (
        ((2, 3), IA3().place(layers, IA3Options())),
        ((4,), LoRA().place(layers, LoRAOptions())),
        ((5, 6), placement_sites(layers, "houlsby")),
        ((6,), placement_sites(layers, "parallel")),
    ):
        listed = {path for row in rows for column in columns for path in _paths(row, column)}
        assert {_numberless(site.module) for site in sites} <= listed
        assert {_numberless(site.residual) for site in sites if site.residual} <= {_paths(row, 7)[0] for row in rows}

    for site in placement_sites(layers, "pfeiffer"):
        norms = {
            f"{_numberless(row[1].strip('`'))}.{row[8].split('`')[1]}" for row in rows if row[8].startswith("input")
        }
        outputs = {_numberless(row[1].strip("`")) for row in rows if row[8] == "output of the layer"}
        assert _numberless(site.module) in (norms if site.port is Port.NORM else outputs)


def _paths(row: tuple[str, ...], column: int) -> list[str]:
    """Whole paths of a cell's modules, numbers left out."""
    return [_numberless(f"{row[1].strip('`')}.{name}") for name in re.findall(r"`([^`]*)`", row[column])]


def _numberless(path: str) -> str:
    return re.sub(r"\.(\d+|N)(?=\.|$)", "", path)
