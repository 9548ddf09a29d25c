"""Records of bundles that are damaged, incomplete or something else end in one line that says so."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from adapter_export.errors import InputError
from adapter_export.parity.bundle_records.reader import BundleRecord, read_bundle_record
from tests.fuzz import mutators
from tests.fuzz.seeds import CORPUS
from tests.recorded import Recorded
from tests.strategies import damaged, file_of

Arrays = dict[str, np.ndarray]
VALID = (CORPUS / "bundle_record" / "seed-one").read_bytes()


@pytest.fixture
def arrays() -> Arrays:
    with np.load(io.BytesIO(VALID)) as file:
        return dict(file)


def _meta(arrays: Arrays, change: Callable[[dict[str, Any]], object]) -> Arrays:
    about = json.loads(str(arrays["meta"]))
    change(about)
    return arrays | {"meta": np.array(json.dumps(about))}


def _without(arrays: Arrays, part: str) -> Arrays:
    return {name: value for name, value in arrays.items() if part not in name}


def test_the_seed_is_a_record() -> None:
    with file_of(VALID, "a.npz") as path:
        record = read_bundle_record(path)
    assert len(record.cases) == 2
    assert record.adapters == ("(no adapter)", "topics")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {}, "which has 'meta' with format 'adapter-export bundle record'; found none"),
        (lambda a: {"meta": np.array("{")}, "found none"),
        (
            lambda a: _meta(a, lambda m: m.update(format="adapter-export reference")),
            "a record of one adapter; give",
        ),
        (
            lambda a: _meta(a, lambda m: m.update(format_version=7)),
            "field 'format_version': expected 1, found 7",
        ),
        (lambda a: _meta(a, lambda m: m.pop("base_sha256")), "'meta': field 'base_sha256' is missing"),
        (
            lambda a: _meta(a, lambda m: m["cases"][0].update(batch=0)),
            "'cases.0..batch': expected a number",
        ),
        (lambda a: _meta(a, lambda m: m["adapters"].update({"../x": m["adapters"]["topics"]})), "adapter name '../x'"),
        (lambda a: _meta(a, lambda m: m.update(cases=[])), "found: no cases"),
        (lambda a: _meta(a, lambda m: m["cases"].append(m["cases"][0])), "found: a case twice"),
        (lambda a: _without(a, "0/input/"), "case '1 x 2': no inputs"),
        (lambda a: _without(a, "0/topics/off/"), "case '1 x 2': topics: no outputs 'off'"),
        (lambda a: _without(a, "0/topics/on/rounded"), "outputs 'on' of T that are not those of R"),
        (lambda a: a | {"0/-/on/target/logits": np.zeros((1, 1, 8))}, "outputs 'on' of T that are not those of R"),
        (lambda a: a | {"0/-/on/exact/logits": np.zeros((1, 2, 3), int)}, "outputs 'on' that are no numbers"),
        (lambda a: _without(a, "check/rows"), "check 'rows': no inputs"),
        (lambda a: _without(a, "columns/"), "columns of 'logits' that it does not have"),
        (lambda a: a | {"columns/logits": np.array([0, 1, 9])}, "columns of 'logits' that it does not have"),
        (lambda a: _without(a, "1/prompt/1"), "other prompts than one for each of its 2 rows"),
        (lambda a: _without(a, "1/topics/new/choice"), "topics: no new tokens with their logits"),
        (lambda a: a | {"1/topics/new/margin": np.zeros((2, 1))}, "topics: other new tokens than logits"),
        (lambda a: a | {"1/topics/new/scores": np.zeros((2, 2, 4))}, "topics: scores of another shape"),
        (lambda a: a | {"1/topics/new/tokens": np.zeros((2, 2))}, "topics: new tokens that are no numbers"),
    ],
)
def test_a_file_that_is_no_record(
    change: Callable[[Arrays], Arrays], message: str, arrays: Arrays, tmp_path: Path
) -> None:
    np.savez(tmp_path / "r.npz", **change(arrays))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        read_bundle_record(tmp_path / "r.npz")
    assert str(error.value).startswith(str(tmp_path / "r.npz"))


def test_damaged_files(recorded: Recorded, tmp_path: Path) -> None:
    data, file = recorded.file.read_bytes(), tmp_path / "r.npz"
    flipped = bytearray(data)
    # In the data of an array: a record is as good as before if the time of an entry has changed.
    with zipfile.ZipFile(recorded.file) as archive:
        entry = max(archive.infolist(), key=lambda info: info.compress_size)
    flipped[entry.header_offset + entry.compress_size] ^= 1
    for broken in (b"", b"text", data[: len(data) // 2], data[:-1], bytes(flipped)):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"r\.npz: expected a record of a bundle"):
            read_bundle_record(file)
    with pytest.raises(InputError, match="no such file"):
        read_bundle_record(tmp_path / "nowhere.npz")


@settings(max_examples=60)
@given(damaged(VALID, mutators.of_archive) | damaged(VALID))
def test_damaged_records_end_in_one_line(data: bytes) -> None:
    with file_of(data, "a.npz") as path:
        try:
            found: BundleRecord | str = read_bundle_record(path)
        except InputError as error:
            found = str(error)
    assert isinstance(found, BundleRecord) or len(found.splitlines()) == 1
