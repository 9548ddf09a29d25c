"""`adapter-export graft`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli import main
from tests.finished import Finished


def invoke(*args: Any) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["graft", *map(str, args)])


def test_a_bundle_and_its_dry_run(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    output = tmp_path / "bundle"
    args = ["--graph", made.graph, "--model", made.model, "--output", output, "--slots", 7, "--mode", "bank"]
    args += ["--adapter", f"one={made.adapters['ia3']}", "--adapter", f"two={made.adapters['lora']}"]
    planned = invoke(*args, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not output.exists()
    assert "bank, causal-lm, 10 sites, weights compared with the model" in planned.stdout
    assert "layers.{0-1}.self_attn.k_proj" in planned.stdout
    done = invoke(*args, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["sites"], found["verified"], found["task"]) == (10, True, "causal-lm")
    assert [item["name"] for item in found["adapters"]] == ["one", "two"]
    assert read_manifest(output).slots == 7
    again = invoke(*args)
    assert again.exit_code == 2
    assert "already holds something" in again.stderr


def test_places_by_names_alone_are_told(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    done = invoke("--graph", made.graph, "--adapter", f"one={made.adapters['ia3']}", "--output", tmp_path / "bundle")
    assert done.exit_code == 0, done.output
    assert "places by names, weights not compared" in done.stdout


def test_bad_input_is_one_line(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    for graph, message in (
        (tmp_path / "nothing", "graph"),
        (
            made.model,
            f"graph {made.model}: expected one file *.onnx, or encoder_model.onnx and decoder_model.onnx, found none",
        ),
    ):
        result = invoke("--graph", graph, "--adapter", f"one={made.adapters['ia3']}", "--output", tmp_path / "bundle")
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "bundle").exists()
