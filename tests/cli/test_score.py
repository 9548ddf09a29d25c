"""`adapter-export score`, against `run --json`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from adapter_export.cli import main, scoring
from tests.bundles import Exported

TEXTS = ("a good movie", "bad", "the dark house was not for me")
ADAPTERS = ("houlsby_four", "ia3_two", "ia3_three=0.5,ia3_two=0.25", "")


def invoke(command: str, *args: Any) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, [command, *map(str, args)])


def rows(number: int) -> list[dict[str, str]]:
    """Texts with adapters in turns; one of two adapters at once names whose task head it uses."""
    return [
        {
            "text": f"{TEXTS[i % 3]} {TEXTS[i % 2]}",
            "adapter": ADAPTERS[i % 4],
            "head": "ia3_two" if "=" in ADAPTERS[i % 4] else "",
        }
        for i in range(number)
    ]


def as_csv(path: Path, table: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def as_jsonl(path: Path, table: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")


def as_parquet(path: Path, table: list[dict[str, str]]) -> None:
    columns = {name: [row[name] or None for row in table] for name in table[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "GROUP", 5)


@pytest.mark.parametrize(("ending", "write"), [("csv", as_csv), ("jsonl", as_jsonl), ("parquet", as_parquet)])
def test_results_are_those_of_run(
    bank_bundle: Exported, tmp_path: Path, ending: str, write: Callable[[Path, list[dict[str, str]]], None]
) -> None:
    write(tmp_path / f"rows.{ending}", rows(12))
    spoken = [
        {"text": row["text"], "adapter": {"ia3_three": 0.5, "ia3_two": 0.25}, "head": "ia3_two"}
        if "=" in row["adapter"]
        else {"text": row["text"], **({"adapter": row["adapter"]} if row["adapter"] else {})}
        for row in rows(12)
    ]
    as_jsonl(tmp_path / "for-run.jsonl", spoken)
    ran = invoke(
        "run",
        "--bundle",
        bank_bundle.bundle,
        "--adapter",
        "pfeiffer_five",
        "--input",
        tmp_path / "for-run.jsonl",
        "--json",
    )
    assert ran.exit_code == 0, ran.output
    output = tmp_path / "scores.jsonl"
    given = ("--bundle", bank_bundle.bundle, "--input", tmp_path / f"rows.{ending}", "--output", output)
    done = invoke("score", *given, "--adapter", "pfeiffer_five", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 12
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    expected = json.loads(ran.stdout)["results"]
    assert len(found) == len(expected) == 12
    for one, other in zip(found, expected, strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), rel=1e-5)
        assert one.pop("probability") == pytest.approx(other.pop("probability"), rel=1e-5)
        assert one == other


def test_a_bundle_that_generates(export_cached: Callable[..., Exported], tmp_path: Path) -> None:
    bundle = export_cached("llama", mode="bank").bundle
    as_jsonl(tmp_path / "rows.jsonl", [{"text": f"the cat sat {'on ' * (i % 3)}"} for i in range(7)])
    settings = ("--adapter", "ia3", "--max-new-tokens", 4, "--temperature", 1.0, "--seed", 3)
    given = ("--bundle", bundle, "--input", tmp_path / "rows.jsonl", *settings)
    ran = invoke("run", *given, "--json")
    assert invoke("score", *given, "--output", tmp_path / "scores.jsonl").exit_code == 0
    found = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found == json.loads(ran.stdout)["results"]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "bad", "adapter": "nobody"}, (), "line 8: "),
        ({"text": "bad", "adapter": "ia3_two=x"}, (), "line 8: "),
        ({"text": 3}, (), "line 8: column 'text': expected a text"),
        ({"text": "bad"}, ("--text-column", "review"), "expected a column 'review', found text"),
        ({"text": "bad"}, ("--max-new-tokens", 3), "does not generate"),
        ({"text": "bad"}, ("--head", "ia3_two"), "--head ia3_two"),
        ({"text": "bad"}, ("--actors", 2), "--actors"),
    ],
)
def test_nothing_is_left_of_what_fails(
    bank_bundle: Exported, tmp_path: Path, row: dict[str, Any], options: tuple[Any, ...], message: str
) -> None:
    as_jsonl(tmp_path / "rows.jsonl", [*({"text": "bad", "adapter": "ia3_two"} for _ in range(7)), row])
    given = ("--bundle", bank_bundle.bundle, "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "scores.jsonl")
    done = invoke("score", *given, "--adapter", "ia3_three", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_output_that_is_there_stays(bank_bundle: Exported, tmp_path: Path) -> None:
    as_jsonl(tmp_path / "rows.jsonl", [{"text": "bad"}])
    output = tmp_path / "scores.jsonl"
    output.write_text("mine", encoding="utf-8")
    given = ("--bundle", bank_bundle.bundle, "--input", tmp_path / "rows.jsonl", "--output", output)
    assert invoke("score", *given, "--adapter", "ia3_two").exit_code == 2
    assert output.read_text(encoding="utf-8") == "mine"
    assert invoke("score", *given, "--adapter", "ia3_two", "--force").exit_code == 0
    assert json.loads(output.read_text(encoding="utf-8"))["adapter"] == "ia3_two"
