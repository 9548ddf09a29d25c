"""`docs/runtimes.md`: what it says of the numbers stored beside it, how they are judged, and how tiny models do in the
runtimes themselves, against float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.runtime.session import AdapterSession
from benchmarks.runtimes.cases import jobs
from benchmarks.runtimes.jobs import AdapterFile, Job, Runs, Step, arrays_from_json, arrays_to_json
from benchmarks.runtimes.made import BANK, EMBEDDED, FORMS, MERGED, REQUIRED, SWAPPABLE, Made, make
from benchmarks.runtimes.measure import MODELS, cell
from benchmarks.runtimes.page import NUMBERS, PAGE, render
from benchmarks.runtimes.runtimes import RUNTIMES, NotTried, in_openvino_inlined, in_python
from tests.bundles import Exported

ENCODER, DECODER = MODELS
# Above any error of float32 in these models. Seen: 2e-5 in MiniLM, 9e-6 in SmolLM2, 2e-6 in the tiny ones.
CEILING = 5e-5
BROWSER = "ONNX Runtime, browser"
# What each runtime does with each form, as the text of the page says: a number, or the start of another cell.
SAID = {
    "ONNX Runtime, Python": dict.fromkeys(FORMS, "error"),
    "ONNX Runtime, C": {**dict.fromkeys(FORMS, "error"), REQUIRED: "refused"},
    "ONNX Runtime, Node": {**dict.fromkeys(FORMS, "error"), SWAPPABLE: "ignores"},
    BROWSER: {**dict.fromkeys(FORMS, "error"), SWAPPABLE: "refused"},
    "OpenVINO": {**dict.fromkeys(FORMS, "refused"), MERGED: "error"},
    "OpenVINO, functions inlined": {**dict.fromkeys(FORMS, "error"), SWAPPABLE: "refused"},
}
GENAI = "ONNX Runtime GenAI"


class TestThePage:
    @pytest.fixture(scope="class")
    @staticmethod
    def runtimes() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))["runtimes"]
        return found

    def test_it_is_what_the_command_writes(self) -> None:
        # Otherwise: python -m benchmarks.runtimes --page-only
        assert PAGE.read_text(encoding="utf-8") == render(json.loads(NUMBERS.read_text(encoding="utf-8")))

    def test_every_runtime_has_a_row(self, runtimes: dict[str, Any]) -> None:
        assert [*runtimes] == [*RUNTIMES]
        tried = {title for title, entry in runtimes.items() if "cells" in entry}
        assert tried == {*SAID, GENAI}
        for title in tried:
            assert [*runtimes[title]["cells"]] == [ENCODER, DECODER]
            assert all([*cells] == [*FORMS] for cells in runtimes[title]["cells"].values())

    @pytest.mark.parametrize("title", SAID)
    def test_what_the_text_says_was_measured(self, runtimes: dict[str, Any], title: str) -> None:
        for model, cells in runtimes[title]["cells"].items():
            said = dict.fromkeys(FORMS, "refused") if (title, model) == ("ONNX Runtime, C", DECODER) else SAID[title]
            assert {form: next(iter(found)) for form, found in cells.items()} == said, model

    def test_genai_opens_what_has_its_file(self, runtimes: dict[str, Any]) -> None:
        cells = runtimes[GENAI]["cells"]
        assert {next(iter(found)) for found in cells[ENCODER].values()} == {"refused"}
        opened = {form for form, found in cells[DECODER].items() if "error" in found}
        assert opened == {MERGED, EMBEDDED, SWAPPABLE}

    def test_numbers_are_those_of_float32(self, runtimes: dict[str, Any]) -> None:
        models = [cells for entry in runtimes.values() for cells in entry.get("cells", {}).values()]
        found = [value for cells in models for result in cells.values() for value in result.values()]
        numbers = [value for value in found if not isinstance(value, str)]
        assert numbers
        assert 0 < min(numbers) <= max(numbers) < CEILING

    def test_why_openvino_refuses(self, runtimes: dict[str, Any]) -> None:
        for cells in runtimes["OpenVINO"]["cells"].values():
            for form in (EMBEDDED, SWAPPABLE, REQUIRED, BANK):
                assert "No conversion rule found for operations: adapter_export." in cells[form]["refused"]
        for cells in runtimes["OpenVINO, functions inlined"]["cells"].values():
            assert "Port for tensor name" in cells[SWAPPABLE]["refused"]


def job(*names: str | None) -> Job:
    """A job with one run for each of these adapters, whose output is 3, 4; for `a` 6, 8."""
    expected = {name: [{"x": np.array([[6.0, 8.0]] if name == "a" else [[3.0, 4.0]])}] for name in names}
    return Job(Path(), Path(), "input", {}, [Runs(name, [Step({})], expected[name]) for name in names], ["x"])


def answer(*outputs: list[float]) -> dict[str, Any]:
    return {"version": "1", "answers": [[arrays_to_json({"x": np.array([row], np.float32)})] for row in outputs]}


class TestCells:
    def test_the_largest_error_of_all_runs(self) -> None:
        # rms(6, 8) = sqrt(50).
        found = cell(job(None, "a"), answer([3, 4], [6, 9]))
        assert found == {"error": pytest.approx(1 / 50**0.5)}

    def test_an_adapter_without_an_effect_is_ignored(self) -> None:
        assert cell(job(None, "a"), answer([3, 4], [3, 4])) == {"ignores": 0}
        assert cell(job(None, "a"), answer([3, 4], [3, 4.5])) != {"ignores": 0}
        # Nothing to ignore: there are no runs with an adapter.
        assert cell(job(None, None), answer([3, 4], [3, 4])) == {"error": 0}

    def test_what_is_no_number_is_infinitely_wrong(self) -> None:
        assert cell(job(None), answer([3, float("nan")])) == {"error": float("inf")}

    def test_the_last_line_of_a_refusal(self) -> None:
        assert cell(job(None), {"version": "1", "refused": "at main.c:1\nno such thing\n\n"}) == {
            "refused": "no such thing"
        }

    def test_another_shape_is_an_error_of_ours(self) -> None:
        with pytest.raises(AssertionError):
            cell(job(None), answer([3, 4, 5]))


def test_arrays_survive_json() -> None:
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::2], "b": np.zeros((1, 0, 4), np.float32)}
    found = arrays_from_json(json.loads(json.dumps(arrays_to_json(arrays))))
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_a_runtime_that_was_not_tried_is_a_row_with_its_reason() -> None:
    machine = {
        "date": "2026-01-02T03:04",
        "processor": "P",
        "cores": 2,
        "system": "Linux 6",
        "versions": {"numpy": "2"},
    }
    cells = {"M": {**{form: {"error": 1.23e-6} for form in FORMS}, BANK: {"refused": "not `this`"}}}
    runtimes = {"one": {"version": "3", "cells": cells}, "two": {"not tried": "there is no two"}}
    lines = render({"machine": machine, "runtimes": runtimes}).splitlines()
    assert "| one 3 | 1e-06 | 1e-06 | 1e-06 | 1e-06 | refused (1) |" in lines
    assert "| two | not tried | not tried | not tried | not tried | not tried |" in lines
    assert {"1. `not 'this'`", "- **two**: there is no two."} <= {*lines}


def judged(answered: Callable[[Job], Mapping[str, Any]], asked: Job) -> dict[str, Any]:
    try:
        return cell(asked, answered(asked))
    except NotTried as reason:
        pytest.skip(str(reason))


def copied(bundle: Path, folder: Path) -> Path:
    """To put another graph beside that of the bundle."""
    return Path(shutil.copytree(bundle, folder / "bundle"))


class TestTinyModels:
    @pytest.fixture(scope="class")
    @staticmethod
    def encoder(features_bundle: Exported, tmp_path_factory: pytest.TempPathFactory) -> Job:
        bundle = copied(features_bundle.bundle, tmp_path_factory.mktemp("encoder"))
        made = Made(features_bundle.base, "features", features_bundle.adapters, {SWAPPABLE: bundle})
        return jobs(made)[SWAPPABLE]

    @pytest.fixture(scope="class")
    @staticmethod
    def decoder(llama_bundle: Exported) -> Job:
        made = Made(llama_bundle.base, "causal-lm", llama_bundle.adapters, {SWAPPABLE: llama_bundle.bundle})
        return jobs(made)[SWAPPABLE]

    @pytest.fixture(scope="class")
    @staticmethod
    def required(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
        """A decoder with a cache, with adapter tensors as required inputs."""
        methods: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "bottleneck": {"reduction_factor": 4}}
        folder = tmp_path_factory.mktemp("required")
        return jobs(make(tiny_model("llama", "causal-lm"), "causal-lm", methods, folder, [REQUIRED]))[REQUIRED]

    @pytest.mark.parametrize("title", SAID)
    def test_an_encoder(self, encoder: Job, title: str) -> None:
        found = judged(RUNTIMES[title], encoder)
        assert [*found] == [SAID[title][SWAPPABLE]]
        assert "error" not in found or found["error"] < CEILING

    @pytest.mark.parametrize("title", ["ONNX Runtime, Python", GENAI])
    def test_a_decoder(self, decoder: Job, title: str) -> None:
        assert judged(RUNTIMES[title], decoder)["error"] < CEILING

    @pytest.mark.parametrize(
        "title", ["ONNX Runtime, Python", "ONNX Runtime, Node", BROWSER, "OpenVINO, functions inlined"]
    )
    def test_adapters_as_required_inputs(self, required: Job, title: str) -> None:
        assert judged(RUNTIMES[title], required)["error"] < CEILING

    def test_openvino_takes_overridable_initializers_for_constants(self, encoder: Job) -> None:
        without = {name: AdapterFile(item.file, {}) for name, item in encoder.adapters.items()}
        found = judged(in_openvino_inlined, replace(encoder, adapters=without))
        assert found["ignores"] < CEILING

    def test_openvino_does_not_tell_of_inputs_that_are_left_out(self, required: Job) -> None:
        given = {name: AdapterFile(None, dict([*item.tensors.items()][1:])) for name, item in required.adapters.items()}
        assert "refused" not in judged(in_openvino_inlined, replace(required, adapters=given))
        assert "refused" in judged(in_python, replace(required, adapters=given))

    def test_rows_of_a_bank_in_openvino(self, bank_bundle: Exported, tmp_path: Path) -> None:
        bundle = copied(bank_bundle.bundle, tmp_path)
        names, ids = ["houlsby_two", None, "ia3_three"], np.array([[2, 17, 5, 40, 9, 3]] * 3)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        with AdapterSession(bundle) as session:
            expected = session.run_rows(inputs, names)
            slots = {adapter.name: adapter.slot for adapter in session.manifest.adapters}
        feeds = {**inputs, "adapter_ids": np.array([slots[name] if name else 0 for name in names])}
        asked = Job(bundle, bundle / "model.onnx", "", {}, [Runs(None, [Step(feeds)], [])], ["logits"])
        try:
            answer = in_openvino_inlined(asked)
        except NotTried as reason:
            pytest.skip(str(reason))
        for row, one in zip(arrays_from_json(answer["answers"][0][0])["logits"], expected, strict=True):
            # Labels that only other adapters have are -inf.
            labels = one["logits"].size
            np.testing.assert_allclose(row[:labels], one["logits"], rtol=0, atol=1e-5)
            assert (row[labels:] == -np.inf).all()
