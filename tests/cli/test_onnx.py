"""`onnx` with a precision, quantized weights and fused operators; `inspect` says what a bundle has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.cli import main
from adapter_export.cli.options import ExitCode
from adapter_export.modelinfo import ModelInfo


@pytest.fixture(scope="module")
def request_for(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Callable[..., list[str]]:
    """Called as (output, *options) -> the command line for a tiny ViT, which is traced fastest, and an IA3 adapter."""
    info = tiny_info("vit")
    adapter = save_checkpoint(random_adapter(info, "ia3"), info)

    def make(output: Path, *options: str) -> list[str]:
        return [
            "onnx", "--model", str(tiny_model("vit")), "--adapter", f"a={adapter}", "--mode", "swappable",
            "--output", str(output), *options,
        ]  # fmt: skip

    return make


@pytest.mark.parametrize(
    ("options", "expected", "line"),
    [
        pytest.param(
            ["--dtype", "fp16", "--fuse", "cpu"],
            {"dtype": "float16", "quantize": "none", "fuse": "cpu"},
            "float16, fused for cpu",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="transformers for Python 3.10 has no fusions"),
        ),
        (
            ["--quantize", "int8"],
            {"dtype": "float32", "quantize": "int8", "fuse": "none", "contrib": ["com.microsoft.MatMulNBits"]},
            "float32 with int8 weights",
        ),
    ],
)
def test_what_was_asked_for_is_reported_and_recorded(
    options: list[str], expected: dict[str, Any], line: str, request_for: Callable[..., list[str]], tmp_path: Path
) -> None:
    made = CliRunner().invoke(main, request_for(tmp_path / "bundle", *options))
    assert made.exit_code == 0, made.output
    assert line in " ".join(made.stdout.split())
    inspected = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle"), "--json"]).stdout)
    assert {name: inspected[name] for name in expected} == expected


def test_fusions_that_transformers_does_not_have(
    request_for: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on Python 3.10."""
    monkeypatch.setitem(sys.modules, "transformers.exporters.onnxruntime_fusions", None)
    made = CliRunner().invoke(main, request_for(tmp_path / "bundle", "--fuse", "cpu"))
    assert made.exit_code == ExitCode.BAD_INPUT
    assert "--fuse cpu: transformers " in made.stderr
    assert "has no fusions for ONNX Runtime; expected 5.23 or newer, which needs Python 3.11" in made.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "bf16", "--quantize", "int8"], "--quantize int8 with --dtype bf16: expected fp32"),
        (["--dtype", "bf16", "--fuse", "cpu"], "--fuse cpu with --dtype bf16: ONNX Runtime's CPU provider has no"),
        (["--dtype", "fp8"], "'fp8' is not one of 'fp32', 'fp16', 'bf16'"),
    ],
)
def test_what_nothing_runs_is_refused_before_any_work(
    options: list[str], message: str, request_for: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, request_for(tmp_path / "bundle", *options))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_bfloat16_bundle_says_what_it_needs(request_for: Callable[..., list[str]], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert CliRunner().invoke(main, request_for(bundle, "--dtype", "bf16", "--opset", "22")).exit_code == 0
    result = CliRunner().invoke(main, ["run", "--bundle", str(bundle), "--text", "a"])
    assert result.exit_code == 2
    assert "computes in bfloat16, for which ONNX Runtime's CPU provider has no operators" in result.stderr
