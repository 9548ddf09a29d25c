"""A dry run of an export: the plan is what the export then does, the refusals are the same, nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapter_export import AdapterExportError, export_onnx, plan_export, read_manifest
from adapter_export.cli import main
from tests.bundles import Exported, licensed
from tests.outputs.look import state


@pytest.mark.parametrize("mode", ["swappable", "bank", "embedded", "merged"])
def test_the_plan_is_what_the_export_does(mode: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported: Exported = request.getfixturevalue(f"{mode}_bundle")
    before = state(tmp_path)
    plan = plan_export(exported.base, exported.adapters, tmp_path / "a" / "b" / "bundle", mode=mode)
    assert state(tmp_path) == before
    manifest = read_manifest(exported.bundle)
    assert (plan.mode, plan.task, plan.dtype, plan.opset) == (mode, manifest.task, manifest.dtype, manifest.opset)
    assert list(plan.graphs) == list(manifest.graphs)
    assert plan.slots == (manifest.slots if mode == "bank" else None)
    assert plan.tokenizer == (exported.bundle / "tokenizer.json").is_file()
    for one, info in zip(plan.adapters, manifest.adapters, strict=True):
        assert (one.name, one.method, one.parameters, one.labels) == (
            info.name, info.method, info.parameters, info.labels,
        )  # fmt: skip
    if mode != "merged":
        planned = {(site.site, site.operator) for one in plan.adapters for site in one.sites}
        made = {
            (next(iter(site.tensors)).rpartition(".")[0].rpartition(".")[0], site.op_type.removesuffix("OfRows"))
            for site in manifest.sites
            if site.port != "replace"
        }
        assert planned == made
    files = [path for path in exported.bundle.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.name not in ("manifest.json", "README.md"))
    assert 0.5 * size < plan.bytes <= size


def test_a_decoder(llama_bundle: Exported, tmp_path: Path) -> None:
    plan = plan_export(llama_bundle.base, llama_bundle.adapters, tmp_path / "bundle", mode="swappable", dtype="fp16")
    assert (plan.task, plan.dtype, plan.graphs) == ("causal-lm", "float16", ("model.onnx",))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "nope"},
        {"mode": "merged"},
        {"mode": "embedded"},
        {"dtype": "fp16", "quantize": "int8"},
        {"bind": "input", "mode": "bank"},
        {"slots": 0},
        {"opset": 3},
        {"task": "causal-lm"},
        {"labels": {"nobody": ["a"]}},
        {"labels": {"ia3_two": ["a", "b", "c"]}},
        {"model": "nowhere"},
        {"mode": "merged", "adapters": "houlsby_two"},
        {"output": "model"},
        {"output": "taken"},
    ],
)
def test_refusals_are_those_of_the_export(changes: dict[str, Any], swappable_bundle: Exported, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    given: dict[str, Any] = {
        "model": swappable_bundle.base,
        "adapters": swappable_bundle.adapters,
        "output": tmp_path / "bundle",
        "mode": "swappable",
        **changes,
    }
    if changes.get("adapters"):
        given["adapters"] = {changes["adapters"]: swappable_bundle.adapters[changes["adapters"]]}
    if changes.get("output"):
        given["output"] = {"model": swappable_bundle.base, "taken": tmp_path / "taken"}[changes["output"]]
    before = state(tmp_path)
    with pytest.raises(AdapterExportError) as planned:
        plan_export(**given)
    assert state(tmp_path) == before
    with pytest.raises(AdapterExportError) as real:
        export_onnx(**given)
    assert (type(planned.value), str(planned.value)) == (type(real.value), str(real.value))


def test_the_command(merged_bundle: Exported, tmp_path: Path) -> None:
    ((name, folder),) = merged_bundle.adapters.items()
    given = ["onnx", "--model", str(merged_bundle.base), "--adapter", f"{name}={folder}", "--mode", "embedded",
             "--output", str(tmp_path / "x" / "bundle"), "--dry-run"]  # fmt: skip
    before = state(tmp_path)
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, given)
    assert shown.exit_code == 0, shown.output
    assert "would be written: embedded, text-classification, float32, " in shown.stdout
    assert "encoder.layer.{0-1}.attention.self.key" in shown.stdout
    found = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    assert (found["dry_run"], found["mode"]) == (True, "embedded")
    assert found["adapters"][0]["sites"][0]["shapes"]
    assert state(tmp_path) == before


def test_licenses(licensed_bundle: Exported, tmp_path: Path) -> None:
    plan = plan_export(licensed_bundle.base, licensed_bundle.adapters, tmp_path / "bundle", mode="swappable")
    assert plan.base_license == "apache-2.0"
    assert {one.name: one.license for one in plan.adapters} == {"ia3_two": "mit", "houlsby_two": None}
    base = licensed(licensed_bundle.base, tmp_path / "base", "license: {", NOTICE="\0")
    given = ["onnx", "--model", str(base), "--mode", "swappable", "--output", str(tmp_path / "bundle"), "--dry-run"]
    given += [item for name, path in licensed_bundle.adapters.items() for item in ("--adapter", f"{name}={path}")]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, given)
    assert shown.exit_code == 0, shown.output
    assert "base model: license not stated" in shown.stdout
    assert "labels no, yes, license mit" in shown.stdout
    assert "labels off, on, license not stated" in shown.stdout
    assert f"note: {base / 'README.md'}: its license is not read: no YAML" in shown.stdout
    assert f"note: {base / 'NOTICE'}: this license file is not copied: it is no text" in shown.stdout
