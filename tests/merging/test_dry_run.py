"""A dry run of a merge: the plan is what the merge then does, the refusals are the same, nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from adapter_export import AdapterExportError, InputError, OutputBusy, OutputExists, merge, plan_merge
from adapter_export.cli import main
from adapter_export.merging import dry_run
from adapter_export.outputs.workspace import workspace
from tests.bundles import Exported
from tests.merging.models import write_adapter, write_model
from tests.outputs.look import state


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", shards=2)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_the_plan_is_what_the_merge_does(model: Path, adapter: Path, tmp_path: Path) -> None:
    (model / "model.onnx").write_bytes(b"another form")
    before = state(tmp_path)
    plan = plan_merge(model, adapter, tmp_path / "deep" / "merged")
    assert state(tmp_path) == before
    result = merge(model, adapter, tmp_path / "deep" / "merged")
    assert tuple(item.name for item in plan.changed) == result.changed
    assert (plan.output, plan.architecture, plan.left_out) == (result.output, result.architecture, result.left_out)
    written = {path.name: path for path in result.output.iterdir()}
    assert set(plan.copied) <= set(written)
    merged = {
        name: value
        for path in written.values()
        if path.suffix == ".safetensors"
        for name, value in load_file(path).items()
    }
    for item in plan.changed:
        assert (item.shape, item.bytes) == (merged[item.name].shape, merged[item.name].nbytes)
    assert plan.new_bytes == sum(item.bytes for item in plan.changed)
    weights = sum(path.stat().st_size for path in written.values() if path.suffix == ".safetensors")
    assert plan.bytes == weights + sum(written[name].stat().st_size for name in plan.copied)
    (one,) = plan.adapters
    assert (one.name, one.method, one.source_format) == ("adapter", "ia3", "peft")
    assert one.parameters == sum(site.parameters for site in one.sites) > 0


def test_a_task_head(swappable_bundle: Exported, tmp_path: Path) -> None:
    given = (swappable_bundle.base, swappable_bundle.adapters["ia3_three"], tmp_path / "merged")
    plan = plan_merge(*given)
    assert merge(*given).head
    assert plan.adapters[0].labels == ("bad", "so so", "good")
    assert {item.name for item in plan.added} == {"classifier.weight", "classifier.bias"}
    assert plan.architecture == "BertForSequenceClassification"


def refused(call: Callable[[], object]) -> tuple[type, str]:
    with pytest.raises((AdapterExportError, OSError)) as error:
        call()
    return type(error.value), str(error.value)


def _force_over_a_strangers(folder: Path) -> dict[str, Any]:
    (folder / "merged").mkdir()
    (folder / "merged" / "mine").write_text("x")
    return {"force": True}


def _taken(folder: Path) -> dict[str, Any]:
    (folder / "merged").mkdir()
    (folder / "merged" / "mine").write_text("x")
    return {}


def _file(folder: Path) -> dict[str, Any]:
    (folder / "merged").write_text("x")
    return {}


def _below_a_file(folder: Path) -> dict[str, Any]:
    (folder / "file").write_text("x")
    return {"output": folder / "file" / "inner" / "merged"}


def _input(folder: Path) -> dict[str, Any]:
    return {"output": folder / "model"}


def _labels(folder: Path) -> dict[str, Any]:
    return {"labels": {"nobody": ["a"]}}


def _task(folder: Path) -> dict[str, Any]:
    return {"task": "text-classification"}


def _infinite(folder: Path) -> dict[str, Any]:
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "k_proj" in name)
    save_file({**tensors, name: np.full_like(tensors[name], 3e38)}, path)
    return {}


def _merged_already(folder: Path) -> dict[str, Any]:
    merge(folder / "model", folder / "adapter", folder / "once")
    return {"model": folder / "once"}


def _other_base(folder: Path) -> dict[str, Any]:
    (folder / "adapter" / "adapter_export.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    return {}


def _no_room(folder: Path) -> dict[str, Any]:
    return {"room": 10}


@pytest.mark.parametrize(
    "spoil",
    [_taken, _force_over_a_strangers, _file, _below_a_file, _input, _labels, _task, _infinite, _merged_already,
     _other_base, _no_room],
)  # fmt: skip
def test_refusals_are_those_of_the_merge(
    spoil: Callable[[Path], dict[str, Any]], model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": model, "adapter": adapter, "output": tmp_path / "merged", **spoil(tmp_path)}
    if room := given.pop("room", None):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=room))
        monkeypatch.setattr(dry_run, "_may_share", lambda folder, disk: False)
    before = state(tmp_path)
    found = refused(lambda: plan_merge(**given))
    assert state(tmp_path) == before
    assert found == refused(lambda: merge(**given))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(model: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    for output in (tmp_path / "closed" / "merged", tmp_path / "closed" / "deep" / "er" / "merged"):
        assert refused(lambda to=output: plan_merge(model, adapter, to))[0] is PermissionError
        assert refused(lambda to=output: merge(model, adapter, to))[0] is PermissionError


def test_another_command_that_writes_the_output(model: Path, adapter: Path, tmp_path: Path) -> None:
    with workspace(tmp_path / "merged"):
        before = state(tmp_path)
        with pytest.raises(OutputBusy, match="another command is writing it"):
            plan_merge(model, adapter, tmp_path / "merged")
        assert state(tmp_path) == before
    plan_merge(model, adapter, tmp_path / "merged")


def test_what_a_killed_command_left_stays(model: Path, adapter: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom adapter_export.outputs.workspace import workspace\n"
        "with workspace(Path(sys.argv[1])): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "merged")], check=True)
    assert (tmp_path / ".merged.adapter-export").is_dir()
    before = state(tmp_path)
    plan_merge(model, adapter, tmp_path / "merged")
    assert state(tmp_path) == before


def test_an_earlier_output_with_force(model: Path, adapter: Path, tmp_path: Path) -> None:
    merge(model, adapter, tmp_path / "merged")
    before = state(tmp_path)
    with pytest.raises(OutputExists, match="choose another folder or pass --force"):
        plan_merge(model, adapter, tmp_path / "merged")
    assert plan_merge(model, adapter, tmp_path / "merged", force=True).changed
    assert state(tmp_path) == before


def test_notes_are_part_of_the_plan(model: Path, adapter: Path, tmp_path: Path) -> None:
    for path in adapter.iterdir():
        shutil.copy(path, model / path.name)
    (note,) = plan_merge(model, adapter, tmp_path / "merged").notes
    assert "an adapter lies in this folder (adapter_config.json)" in note


class TestCommand:
    def test_json_and_tables(self, model: Path, adapter: Path, tmp_path: Path) -> None:
        given = ["merge", "--model", str(model), "--adapter", str(adapter), "--output", str(tmp_path / "x" / "merged")]
        before = state(tmp_path)
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, [*given, "--dry-run"])
        assert shown.exit_code == 0, shown.output
        assert "would be written, LlamaForCausalLM" in shown.stdout
        assert "model.layers.{0-1}.self_attn.k_proj.weight" in shown.stdout
        found = json.loads(CliRunner().invoke(main, [*given, "--dry-run", "--json"]).stdout)
        assert found["dry_run"] is True
        assert {item["name"] for item in found["changed"]} >= {"model.layers.0.self_attn.k_proj.weight"}
        assert found["adapters"][0]["sites"][0]["shapes"]
        assert state(tmp_path) == before

    def test_a_refusal(self, adapter: Path, tmp_path: Path) -> None:
        given = ["merge", "--model", str(tmp_path), "--adapter", str(adapter), "--output", str(tmp_path / "merged")]
        shown = CliRunner().invoke(main, [*given, "--dry-run"])
        assert (shown.exit_code, shown.stdout) == (2, "")
        assert shown.stderr == CliRunner().invoke(main, given).stderr


def test_no_model_is_a_refusal(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model "):
        plan_merge(tmp_path / "nowhere", adapter, tmp_path / "merged")
