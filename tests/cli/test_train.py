"""`adapter-export train`: its help, its two kinds of output, and bad input in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapter_export.cli import main
from adapter_export.cli.options import ExitCode
from adapter_export.cli.train import command
from adapter_export.methods import registry
from adapter_export.training.train import train

ROWS = "".join(f'{{"text": "{word} movie", "label": {number}}}\n' for number, word in enumerate(("good", "bad")))


@pytest.fixture
def run(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Result]:
    """Called as (*more options, **instead) -> the result of a run of two updates into tmp_path/out."""
    (tmp_path / "train.jsonl").write_text(ROWS * 4)

    def call(*more: str, **instead: Any) -> Result:
        options = {
            "model": tiny_model("bert"),
            "method": "ia3",
            "task": "text-classification",
            "train": tmp_path / "train.jsonl",
            "output": tmp_path / "out",
            **instead,
        }
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return CliRunner().invoke(main, ["train", *given, "--max-steps", "2", *more])

    return call


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(main, ["train", "--help"])
    assert result.exit_code == ExitCode.DONE
    assert "adapter-export train --model MiniLM --method ia3 --task text-classification \\\n" in result.stdout
    assert "torchrun --nproc-per-node 2 -m adapter_export train" in result.stdout


def test_every_setting_of_the_function_is_an_option_with_the_same_default() -> None:
    required = ["model", "method", "task", "train", "output"]
    context = command.make_context("train", [text for name in required for text in (f"--{name}", "x")])
    parameters = signature(train).parameters.values()
    settings = {p.name: p.default for p in parameters if p.name not in [*required, "progress", "options"]}
    of_methods = {field.name: None for name in registry.names() for field in fields(registry.get(name).Options)}
    assert {"reduction_factor", "placement", "activation", "feedforward", "rank"} <= set(of_methods)
    given = {name: value for name, value in context.params.items() if name not in [*required, "as_json"]}
    assert given == settings | of_methods


def test_json_is_one_object_on_stdout(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--json", "--eval", str(tmp_path / "train.jsonl"), "--placement", "pfeiffer", method="bottleneck")
    assert result.exit_code == ExitCode.DONE, result.stderr
    printed = json.loads(result.stdout)
    assert printed["output"] == str(tmp_path / "out")
    assert printed["labels"] == ["0", "1"]
    assert printed["steps"] == 2
    assert set(printed["metrics"]) == {"loss", "accuracy", "macro_f1"}
    assert (tmp_path / "out" / "adapter.safetensors").exists()
    assert "\x1b" not in result.output, "no progress bar without a terminal"


def test_people_read_the_same(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--eval", str(tmp_path / "train.jsonl"), "--max-length", "3")
    assert result.exit_code == ExitCode.DONE, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: ia3 adapter of 322 values"
    assert lines[1].startswith("2 updates, ")
    assert [line.partition(":")[0] for line in lines[2:]] == ["loss", "accuracy", "macro f1"]
    assert result.stderr == "16 texts were cut to 3 tokens\n"


def test_rows_with_nothing_left_are_told(
    run: Callable[..., Result], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": "good night", "completion": text} for text in (" old", " dog")]
    rows.append({"prompt": "a long day and night", "completion": " good"})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = {"task": "causal-lm", "model": tiny_model("llama", "causal-lm"), "train": tmp_path / "data.jsonl"}
    result = run("--max-length", "4", **chosen)
    assert result.exit_code == ExitCode.DONE, result.stderr
    assert result.stderr.splitlines() == [
        "1 texts were cut to 4 tokens",
        "1 rows were left out: cut so short, they have nothing to learn",
    ]
    assert json.loads(run("--max-length", "4", "--force", "--json", **chosen).stdout)["left_out"] == 1


@pytest.mark.parametrize(
    ("more", "instead", "message"),
    [
        ((), {"train": "no.csv"}, "error: no.csv: no such file"),
        ((), {"model": "none"}, "error: model none: expected a folder, found nothing"),
        ((), {"method": "vera"}, "error: method 'vera': expected one of bottleneck, ia3, lora"),
        (("--epochs", "3"), {}, "error: --epochs and --max-steps: expected one of them, found both"),
        (("--text-column", "body"), {}, "column 'body' is missing; its columns are 'text', 'label'"),
        (("--batch-size", "many"), {}, "'many' is not a valid integer"),
    ],
)
def test_bad_input_is_one_line(
    run: Callable[..., Result], tmp_path: Path, more: tuple[str, ...], instead: dict[str, str], message: str
) -> None:
    result = run(*more, **instead)
    assert result.exit_code == ExitCode.BAD_INPUT
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_a_full_output_needs_force(run: Callable[..., Result]) -> None:
    assert run().exit_code == ExitCode.DONE
    refused = run()
    assert (refused.exit_code, "--force" in refused.stderr) == (ExitCode.BAD_INPUT, True)
    assert run("--force").exit_code == ExitCode.DONE
