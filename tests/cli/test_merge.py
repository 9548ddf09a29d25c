"""`adapter-export merge` as a command: what it prints, on a terminal and elsewhere, and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.cli import main
from adapter_export.reading.hashes import sha256
from tests.merging.models import write_adapter, write_model


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


@pytest.fixture
def given(tmp_path: Path) -> list[Any]:
    model = write_model(tmp_path / "model", shards=2)
    (model / "pytorch_model.bin").write_text("")
    return ["--model", model, "--adapter", write_adapter(tmp_path / "one"), "--output", tmp_path / "out"]


def test_one_object_on_stdout(given: list[Any], tmp_path: Path) -> None:
    result = invoke(*given, "--adapter", write_adapter(tmp_path / "two", 2), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert found["output"] == str(tmp_path / "out")
    assert found["architecture"] == "LlamaForCausalLM"
    assert len(found["changed"]) == 6
    assert found["head"] is False
    assert found["left_out"] == ["pytorch_model.bin"]


def test_for_people(given: list[Any], tmp_path: Path) -> None:
    result = invoke(*given)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'out'}: LlamaForCausalLM, 6 tensors changed",
        "not copied: pytorch_model.bin",
    ]
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of Unix")
def test_a_bar_of_bytes_on_a_terminal_only(given: list[Any]) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "adapter_export", "merge", *map(str, given), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        # Reading from a terminal whose other side is closed is an error on Linux.
        while chunk := _read(ours):
            shown += chunk
        output, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert b"bytes" in shown or b"kB" in shown
    assert json.loads(output)["head"] is False


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_the_old_output_stays_until_the_new_one_is_whole(given: list[Any], tmp_path: Path) -> None:
    assert invoke(*given).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    refused = invoke(*given)
    assert refused.exit_code == 2
    assert "pass --force" in refused.stderr
    broken = tmp_path / "model" / "model-00002-of-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert invoke(*given, "--force").exit_code == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    write_model(tmp_path / "again", shards=2)
    other = ["--model", tmp_path / "again", *given[2:]]
    assert invoke(*other, "--adapter", write_adapter(tmp_path / "two", 2), "--force").exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} != before


def test_inspect_tells_what_was_merged(given: list[Any], tmp_path: Path) -> None:
    assert invoke(*given).exit_code == 0
    again = ["--model", tmp_path / "out", "--adapter", write_adapter(tmp_path / "two", 2)]
    assert invoke(*again, "--output", tmp_path / "both").exit_code == 0
    result = CliRunner().invoke(main, ["inspect", "--json", str(tmp_path / "both")])
    found = json.loads(result.stdout)
    assert found["kind"] == "merged model"
    first, second = found["merged"]
    assert (first["name"], second["name"]) == ("one", "two")
    assert first["base_sha256"] == weights_sha256(tmp_path / "model")
    assert second["base_sha256"] == weights_sha256(tmp_path / "out")
    assert first["adapter_sha256"] == sha256(tmp_path / "one" / "adapter_model.safetensors")
    assert first["dtype"] == ["float32"]
    names = ("mlp.down_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert sorted(first["changed"]) == [f"model.layers.{{0-1}}.{name}.weight" for name in names]
    assert found["weights_sha256"] == weights_sha256(tmp_path / "both")
