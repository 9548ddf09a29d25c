"""`adapter-export add`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli import main
from tests.bundles import Exported


def invoke(*args: Any) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["add", *map(str, args)])


@pytest.fixture
def bundle(swappable_bundle: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))


def test_added_and_listed(bundle: Path, swappable_bundle: Exported) -> None:
    ia3, pfeiffer = swappable_bundle.adapters["ia3_two"], swappable_bundle.adapters["pfeiffer_five"]
    result = invoke("--bundle", bundle, "--adapter", f"x={ia3}", "--adapter", f"y={pfeiffer}", "--json")
    assert result.exit_code == 0, result.output
    listed = json.loads(result.stdout)["adapters"]
    manifest = read_manifest(bundle)
    assert [item["name"] for item in listed] == [info.name for info in manifest.adapters]
    assert [item["name"] for item in listed if item["added"]] == ["x", "y"]
    assert listed[-1] == {
        "name": "y",
        "added": True,
        "method": "bottleneck",
        "parameters": manifest.adapter("y").parameters,
        "labels": ["a", "b", "c", "d", "e"],
        "file": "adapters/y.onnx_adapter",
        "sha256": manifest.adapter("y").sha256,
    }


def test_a_person_reads_a_table(bundle: Path, swappable_bundle: Exported) -> None:
    result = invoke("--bundle", bundle, "--adapter", f"x={swappable_bundle.adapters['ia3_three']}")
    assert result.exit_code == 0, result.output
    assert f"{bundle}: 6 adapters" in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("│ x ")]
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["ia3", "355", "bad, so so, good", "added"]


def test_force_replaces(bundle: Path, swappable_bundle: Exported) -> None:
    args = ("--bundle", bundle, "--adapter", f"ia3_two={swappable_bundle.adapters['pfeiffer_five']}")
    before = read_manifest(bundle)
    refused = invoke(*args)
    assert refused.exit_code == 2
    assert "already has an adapter 'ia3_two'; pass --force to replace it" in refused.stderr
    assert read_manifest(bundle) == before
    assert invoke(*args, "--force").exit_code == 0
    assert read_manifest(bundle).adapter("ia3_two").method == "bottleneck"


def test_bad_input_is_one_line(bundle: Path, swappable_bundle: Exported, tmp_path: Path) -> None:
    ia3 = swappable_bundle.adapters["ia3_two"]
    for args, message in (
        (("--bundle", bundle), "Missing option '--adapter'"),
        (("--bundle", bundle, "--adapter", "x"), "--adapter 'x': expected NAME=DIR"),
        (("--bundle", bundle, "--adapter", f"x={ia3}", "--adapter", f"x={ia3}"), "given twice"),
        (("--bundle", bundle, "--adapter", f"x={tmp_path / 'nope'}"), "expected a folder, found nothing"),
        (("--bundle", tmp_path, "--adapter", f"x={ia3}"), "the folder is not a bundle"),
    ):
        result = invoke(*args)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
