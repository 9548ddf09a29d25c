"""Judging by records: right bundles pass without torch, wrong ones and stale records do not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.recording.recorder import record
from adapter_export.parity.references.records import check_record, read_record
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from tests.bundles import Exported
from tests.parity.mutants import Mutant, make, of_another, swapped, without

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays(merged_bundle: Exported) -> Arrays:
    """Returns the arrays of the record of `ia3_three`, made by PEFT."""
    return record(merged_bundle.base, merged_bundle.adapters["ia3_three"])


@pytest.fixture
def file(arrays: Arrays, tmp_path: Path) -> Path:
    return written(arrays, tmp_path / "reference.npz")


def written(arrays: Arrays, path: Path, **changes: Any) -> Path:
    """Writes these arrays to a file, with changed values in `meta`."""
    meta = np.array(json.dumps(json.loads(str(arrays["meta"])) | changes))
    np.savez(path, **(arrays | {"meta": meta}))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("mode", ["merged", "swappable", "bank"])
def test_a_right_bundle(mode: str, file: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported: Exported = request.getfixturevalue(f"{mode}_bundle")
    report = judged(exported, file, tmp_path)
    assert report.verdict is Verdict.PASS, [item.judgement for item in report.results]
    assert report.witnessed
    assert {item.case.name for item in report.results} >= {"1 x 1 recorded", "3 x 9 left recorded"}
    rows = [item.judgement for item in report.results]
    assert all(1e-9 < row.error.max < 1e-5 for row in rows if row.error)
    assert all(row.effect > 0.1 for row in rows if row.effect is not None)


def judged(exported: Exported, file: Path, folder: Path) -> ParityReport:
    """Judges a bundle with `ia3_three` alone by its record alone."""
    bundle = make(Mutant("nothing", "", "ia3_three"), exported, folder / "bundle")
    return check_parity(bundle, references={"ia3_three": file})


WRONG = {
    "adapter dropped in one layer": without("encoder.layer.1.", ".ia3."),
    "two layers swapped": swapped("encoder.layer.0.", "encoder.layer.1."),
    "another head": of_another(".head."),
    "another body": of_another(".ia3."),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_bundle(how: str, swappable_bundle: Exported, file: Path, tmp_path: Path) -> None:
    bundle = make(Mutant(how, "swappable_bundle", "ia3_three", WRONG[how]), swappable_bundle, tmp_path / "wrong")
    assert check_parity(bundle, references={"ia3_three": file}).verdict is Verdict.FAIL


def test_wrong_labels(swappable_bundle: Exported, arrays: Arrays, tmp_path: Path) -> None:
    file = written(arrays, tmp_path / "r.npz", labels=["good", "so so", "bad"])
    report = judged(swappable_bundle, file, tmp_path)
    assert report.verdict is Verdict.FAIL
    assert [check.detail for check in report.checks if check.verdict is Verdict.FAIL] == [
        "adapter ia3_three: expected good, so so, bad by its witness, found bad, so so, good"
    ]


def test_no_torch_is_imported(merged_bundle: Exported, file: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from adapter_export.parity.run import check_parity
report = check_parity(Path({str(merged_bundle.bundle)!r}), references={{"ia3_three": Path({str(file)!r})}})
print(report.outcome, *[name for name in ("torch", "transformers", "peft") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The model accepts 64 tokens; the texts of the record are shorter.
    assert result.stdout.strip() == "pass (not judged beyond 13 tokens)"


def test_a_record_of_something_else_is_refused(swappable_bundle: Exported, arrays: Arrays, tmp_path: Path) -> None:
    manifest = read_manifest(swappable_bundle.bundle)
    info = manifest.adapter("ia3_three")
    for field, message in (
        ("base_sha256", "was recorded with a base model of weights 000000000000"),
        ("adapter_sha256", "adapter 'ia3_three' of the bundle was made from"),
    ):
        found = read_record(written(arrays, tmp_path / "r.npz", **{field: "0" * 64}), "ia3_three")
        with pytest.raises(InputError, match=message):
            check_record(found, manifest, info)
    # A bundle without digests of its checkpoints is judged by the numbers alone.
    check_record(found, manifest, replace(info, source_sha256=None))


def test_eight_bits_need_a_record_of_their_own(arrays: Arrays, tmp_path: Path) -> None:
    found = read_record(written(arrays, tmp_path / "r.npz"), "a")
    assert "int8" not in found.kinds
    assert found.kinds == {"float32": None, "float16": None, "bfloat16": None}


def test_eight_bits_by_a_record_for_the_bundle(merged_bundle: Exported, tmp_path: Path) -> None:
    model, adapters = merged_bundle.base, merged_bundle.adapters
    manifest = export_onnx(model, adapters, tmp_path / "bundle", mode="swappable", quantize="int8")
    found = record(model, adapters["ia3_three"], bundle=tmp_path / "bundle")
    file = written(found, tmp_path / "r.npz")
    assert read_record(file, "a").kinds == {"float32": None, "float16": None, "bfloat16": None, "int8": None}
    report = check_parity(tmp_path / "bundle", references={"ia3_three": file})
    assert report.verdict is Verdict.PASS, [item.judgement for item in report.results]
    # PyTorch with the same weights has the error of the graph, not that of a graph with float32 weights.
    errors = [item.judgement for item in report.results if item.judgement.error and item.judgement.target_error]
    assert all(
        1e-3 < one.error.mean < 3 * one.target_error.mean < 0.5 for one in errors if one.error and one.target_error
    )
    # A record that is not for 8 bits is inconclusive, and the tensors of another adapter fail.
    plain = {name: array for name, array in found.items() if "/int8" not in name}
    plain |= _meta(plain, kinds={"float32": None})
    report = check_parity(tmp_path / "bundle", references={"ia3_three": written(plain, tmp_path / "plain.npz")})
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "record it again with --bundle" in str(report.results[0].judgement.reasons)
    exported = Exported(tmp_path / "bundle", model, adapters)
    change = swapped("encoder.layer.0.", "encoder.layer.1.")
    bundle = make(Mutant("layers", "", "ia3_three", change), exported, tmp_path / "wrong")
    assert manifest.quantize == "int8"
    assert check_parity(bundle, references={"ia3_three": file}).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {}, "expected a record, which has 'meta'"),
        (lambda a: {"meta": np.array("{}")}, "expected a record, which has 'meta'"),
        (lambda a: a | _meta(a, format_version=2), "field 'format_version': expected 1, found 2"),
        (lambda a: a | _meta(a, cases=[]), "expected cases, found none"),
        (lambda a: a | _meta(a, kinds={"int4": None}), "outputs 'on' in int4: expected those of float64"),
        (lambda a: a | _meta(a, cases=[{"name": "0"}]), "'meta': field 'padding' is missing"),
        (lambda a: a | {"0/on/float32/logits": np.zeros(3)}, "case 0: outputs 'on' in float32"),
        (lambda a: {n: v for n, v in a.items() if "/input/" not in n}, "case 0: expected inputs, found none"),
    ],
)
def test_a_file_that_is_no_record(
    change: Callable[[Arrays], Arrays], message: str, arrays: Arrays, tmp_path: Path
) -> None:
    np.savez(tmp_path / "r.npz", **change(arrays))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        read_record(tmp_path / "r.npz", "a")
    assert str(error.value).startswith(str(tmp_path / "r.npz"))


def _meta(arrays: Arrays, **changes: Any) -> Arrays:
    return {"meta": np.array(json.dumps(json.loads(str(arrays["meta"])) | changes))}


def test_damaged_files(file: Path) -> None:
    data = file.read_bytes()
    for broken in (b"", b"text", data[: len(data) // 2]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"expected a record|cannot be read"):
            read_record(file, "a")
    with pytest.raises(InputError, match="no such file"):
        read_record(file.with_name("nowhere.npz"), "a")


def test_objects_in_a_file_are_never_unpickled(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", allow_pickle=True, **(arrays | {"x": np.array([{}], object)}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a record"):
        read_record(tmp_path / "r.npz", "a")
