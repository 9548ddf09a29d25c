"""Judging by the record of a bundle: it agrees with the check that wrote it, and no wrong bundle passes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.parity.bundle_records import columns
from adapter_export.parity.bundle_records.reader import read_bundle_record
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.report import NO_ADAPTER, ParityReport
from adapter_export.parity.run import check_parity
from adapter_export.runtime.generation.sampling import RowChooser
from tests.bundles import Exported
from tests.cli.test_extras import WITHOUT
from tests.parity.mutants import Mutant, changed, make, of_another, swapped, without
from tests.recorded import SHAPES, TEXT, Recorded


def by_case(report: ParityReport) -> dict[tuple[str, str, str], Judgement]:
    return {(item.adapter, item.case.name, item.output): item.judgement for item in report.results}


def numbers(judgement: Judgement) -> list[float]:
    """All numbers of a judgement."""
    deviations = [judgement.error, judgement.target_error, judgement.off_error]
    found = [value for item in deviations if item is not None for value in (item.max, item.p999, item.mean)]
    return [*found, *(value for value in (judgement.effect, judgement.cosine) if value is not None)]


def assert_agree(live: ParityReport, again: ParityReport) -> None:
    """The verdicts are the same, and all numbers to the rounding of float64."""
    assert again.outcome == live.outcome
    assert [(check.name, check.verdict) for check in again.checks] == [(c.name, c.verdict) for c in live.checks]
    assert again.witnesses == live.witnesses
    expected, found = by_case(live), by_case(again)
    assert list(found) == list(expected)
    for key, judgement in expected.items():
        assert found[key].verdict is judgement.verdict, key
        assert found[key].reasons == judgement.reasons
        assert found[key].tokens == judgement.tokens
        np.testing.assert_allclose(numbers(found[key]), numbers(judgement), rtol=1e-9, atol=1e-15, err_msg=str(key))


def test_live_and_recorded_reports_agree(recorded: Recorded) -> None:
    live = recorded.report
    assert live.verdict is Verdict.PASS
    # There is something to agree on: errors of float32's size, for each adapter and each case.
    assert {name for name, _, _ in by_case(live)} == {NO_ADAPTER, *recorded.exported.adapters}
    assert {case for _, case, _ in by_case(live)} == {*(shape.name for shape in SHAPES), "text 1"}
    assert all(j.error and 1e-9 < j.error.max < 1e-5 for (name, _, _), j in by_case(live).items() if name != NO_ADAPTER)
    assert_agree(live, check_parity(recorded.exported.bundle, references=recorded.file))


def test_a_decoder_with_its_generation(record: Callable[..., Recorded], llama_bundle: Exported) -> None:
    found = record(llama_bundle, [ParityCase(2, 9, "left")], [TEXT])
    assert any(isinstance(item.case, GreedyCase) and item.judgement.tokens for item in found.report.results)
    assert_agree(found.report, check_parity(llama_bundle.bundle, references=found.file))


def test_other_tokens_fail(
    record: Callable[..., Recorded], llama_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's loop takes the second-best token. Texts are compared up to there."""
    found = record(llama_bundle, [ParityCase(2, 9, "left")])
    monkeypatch.setattr(RowChooser, "__call__", lambda self, logits: int(np.argsort(logits)[-2]))
    report = check_parity(llama_bundle.bundle, references=found.file)
    failed = {item.adapter: item.judgement for item in report.results if item.judgement.verdict is Verdict.FAIL}
    assert {*failed} == {NO_ADAPTER, *llama_bundle.adapters}
    for judgement in failed.values():
        assert judgement.tokens is not None
        # One token of each of the four rows is behind the same text as when the record was made.
        assert (judgement.tokens.count, judgement.tokens.agreed) == (4, 0)
        assert judgement.error is not None
        assert judgement.error.max < 1e-5


def test_a_record_of_some_columns(
    record: Callable[..., Recorded], llama_bundle: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(columns, "WIDE", 20)
    monkeypatch.setattr(columns, "KEPT", 7)
    found = record(llama_bundle, [ParityCase(2, 9, "left")])
    read = read_bundle_record(found.file)
    case = next(iter(read.cases))
    assert read.expected(case, "ia3").on[0]["logits"].shape == (2, 9, 7)
    report = check_parity(llama_bundle.bundle, references=found.file)
    assert report.verdict is Verdict.PASS, by_case(report)
    assert any("judged at 7 of " in note for note in report.notes)
    # The tokens are those of all columns.
    assert [j.tokens for j in by_case(report).values()] == [j.tokens for j in by_case(found.report).values()]
    mutant = Mutant("layers", "", "ia3", swapped("layers.0.", "layers.1."))
    wrong = make(mutant, llama_bundle, tmp_path / "wrong")
    assert check_parity(wrong, references=found.file).verdict is Verdict.FAIL


def test_another_graph_of_the_same_adapters(recorded: Recorded, bank_bundle: Exported) -> None:
    """The graph is what a record is there to judge: a bank is another graph of the same model and adapters."""
    report = check_parity(bank_bundle.bundle, references=recorded.file)
    assert report.verdict is Verdict.PASS, by_case(report)


def test_a_merged_graph(recorded: Recorded, merged_bundle: Exported) -> None:
    report = check_parity(merged_bundle.bundle, references=recorded.file)
    assert report.verdict is Verdict.PASS, by_case(report)
    assert {item.adapter for item in report.results} == {"ia3_three"}
    assert all(judgement.cosine and judgement.off_error is None for judgement in by_case(report).values())


WRONG = {
    "adapter dropped in one layer": without("encoder.layer.1.", ".ia3."),
    "two layers swapped": swapped("encoder.layer.0.", "encoder.layer.1."),
    "another head": of_another(".head."),
    "one percent": changed(".ia3.", lambda tensor: tensor * np.float32(1.01)),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_bundle(how: str, recorded: Recorded, tmp_path: Path) -> None:
    bundle = make(Mutant(how, "", "ia3_three", WRONG[how]), recorded.exported, tmp_path / "wrong")
    report = check_parity(bundle, references=recorded.file)
    assert report.verdict is Verdict.FAIL
    assert {item.adapter for item in report.results} == {NO_ADAPTER, "ia3_three"}


def test_wrong_labels(recorded: Recorded, tmp_path: Path) -> None:
    bundle = _with_manifest(
        recorded.exported.bundle, tmp_path, lambda m: m["adapters"][1].update(labels=["so so", "bad", "good"])
    )
    report = check_parity(bundle, references=recorded.file)
    assert [check.detail for check in report.checks if check.verdict is Verdict.FAIL] == [
        "adapter ia3_three: expected bad, so so, good by the checkpoint, found so so, bad, good"
    ]


def test_eight_bits(
    record: Callable[..., Recorded],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base, info = tiny_model("bert"), tiny_info("bert")
    adapters = {"a": save_checkpoint(random_adapter(info, "ia3", 5), info)}
    export_onnx(base, adapters, tmp_path / "bundle", mode="swappable", task="features", quantize="int8")
    found = record(Exported(tmp_path / "bundle", base, adapters))
    assert_agree(found.report, check_parity(tmp_path / "bundle", references=found.file))
    export_onnx(base, adapters, tmp_path / "plain", mode="swappable", task="features")
    with pytest.raises(InputError, match="field 'quantize': recorded for int8, but the bundle has none; record it ag"):
        check_parity(tmp_path / "plain", references=found.file)


def test_without_torch(recorded: Recorded) -> None:
    """The command, where importing torch, transformers or PEFT fails."""
    command = [sys.executable, "-c", WITHOUT, "parity", "--json", "--bundle", recorded.exported.bundle]
    command += ["--reference", recorded.file]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["verdict"] == recorded.report.outcome
    assert len(found["cases"]) == len(recorded.report.results)
    assert [check["name"] for check in found["checks"]] == [check.name for check in recorded.report.checks]


def _with_manifest(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    copy = Path(shutil.copytree(bundle, folder / "changed"))
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


STALE = {
    "weights": (
        lambda manifest: manifest["base"].update(sha256="0" * 64),
        r"recorded with base weights \w{12}\.\.\., but the bundle has 000000000000\.\.\.",
    ),
    "adapter": (
        lambda manifest: manifest["adapters"][2].update(source_sha256="0" * 64),
        r"recorded with adapter 'houlsby_four' of checkpoint \w{12}\.\.\., but the bundle has 000000000000\.\.\.",
    ),
    "another adapter": (
        lambda manifest: manifest["adapters"][2].update(name="more", file="adapters/more.onnx_adapter"),
        "it has no adapter 'more' (it has: ia3_two, ia3_three, houlsby_four, houlsby_two, pfeiffer_five)",
    ),
    "tokenizer": (
        lambda manifest: manifest["files"].update({"tokenizer.json": "0" * 64}),
        r"recorded with tokenizer.json \w{12}\.\.\., but the bundle has 000000000000\.\.\.",
    ),
    "a file that is gone": (
        lambda manifest: manifest["files"].pop("tokenizer.json"),
        r"recorded with tokenizer.json \w{12}\.\.\., but the bundle has none",
    ),
    "task": (
        lambda manifest: manifest.update(task="features"),
        "field 'task': recorded for text-classification, but the bundle has features",
    ),
}


@pytest.mark.parametrize("what", STALE)
def test_a_record_of_something_else(what: str, recorded: Recorded, tmp_path: Path) -> None:
    change, message = STALE[what]
    bundle = _with_manifest(recorded.exported.bundle, tmp_path, change)
    pattern = message if "\\w" in message else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=f"parity.npz: is not a record of bundle .*: {pattern}; record it again$"):
        check_parity(bundle, references=recorded.file)


def test_a_graph_with_an_off_state_needs_a_record_with_one(
    record: Callable[..., Recorded], merged_bundle: Exported, recorded: Recorded, tmp_path: Path
) -> None:
    adapters = {"ia3_three": merged_bundle.adapters["ia3_three"]}
    found = record(Exported(merged_bundle.bundle, merged_bundle.base, adapters), SHAPES[:1])
    alone = make(Mutant("nothing", "", "ia3_three"), recorded.exported, tmp_path / "alone")
    with pytest.raises(InputError, match="recorded from a graph that always has an adapter"):
        check_parity(alone, references=found.file)


def test_provenance(recorded: Recorded) -> None:
    about, manifest = read_bundle_record(recorded.file).about, read_manifest(recorded.exported.bundle)
    assert about.base_sha256 == manifest.base.sha256
    assert {name: item.source_sha256 for name, item in about.adapters.items()} == {
        info.name: info.source_sha256 for info in manifest.adapters
    }
    assert about.graphs == {"model.onnx": manifest.files["model.onnx"]}
    assert {"adapter-export", "python", "numpy", "onnxruntime", "torch", "transformers", "peft"} <= {*about.versions}
    assert about.created.endswith("+00:00")


def test_a_failed_check_writes_nothing(recorded: Recorded, tmp_path: Path) -> None:
    exported = recorded.exported
    bundle = make(Mutant("wrong", "", "ia3_two", of_another(".head.")), exported, tmp_path / "wrong")
    adapters = {"ia3_two": exported.adapters["ia3_two"]}
    report = check_parity(bundle, exported.base, adapters, record=tmp_path / "r.npz")
    assert report.verdict is Verdict.FAIL
    assert not list(tmp_path.glob("*.npz"))


def test_what_cannot_be_combined(recorded: Recorded, merged_bundle: Exported, tmp_path: Path) -> None:
    bundle = merged_bundle.bundle
    with pytest.raises(InputError, match=r"--model: cannot be used with --reference .*parity\.npz"):
        check_parity(bundle, merged_bundle.base, references=recorded.file)
    with pytest.raises(InputError, match="--record: cannot be used with --reference"):
        check_parity(bundle, references=recorded.file, record=tmp_path / "r.npz")
    with pytest.raises(InputError, match="--record: expected --adapter ia3_three=DIR"):
        check_parity(bundle, references={"ia3_three": recorded.file}, record=tmp_path / "r.npz")


def test_sensitive_cases_are_repeated_with_the_recorded_roundings(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A floor and a slack of almost nothing make every case look sensitive; then e(T) is that of the roundings."""
    from adapter_export.parity.criteria import judge, select

    strict = judge.Thresholds(floor=1e-12, ceiling=1e-4, effect=100, cosine=0.9999, slack=1e-3)
    monkeypatch.setitem(select.THRESHOLDS, "float32", strict)  # type: ignore[arg-type]
    report = check_parity(recorded.exported.bundle, references=recorded.file)
    before, after = by_case(recorded.report), by_case(report)
    notes = [note for note in report.notes if "the inputs make much of rounding" in note]
    assert len(notes) == len(SHAPES) + 1
    larger = [after[key].target_error.max > j.target_error.max for key, j in before.items() if j.target_error]  # type: ignore[union-attr]
    assert sum(larger) > len(larger) / 2
