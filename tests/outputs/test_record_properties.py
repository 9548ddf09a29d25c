"""Records of a command's work: read as written, and anything else is no record."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapter_export.outputs.record import OutputRecord, read_record, write_record
from tests.fuzz import mutators
from tests.strategies import damaged, file_of, json_values, printable

TARGET = Path("/somewhere/deep/out")
parts = st.text("ab._- ü", min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
records = st.builds(
    OutputRecord,
    st.just(TARGET.name),
    st.integers(1, 2**31 - 1),
    printable,
    printable,
    st.lists(st.sampled_from([str(parent) for parent in TARGET.parents]), max_size=3).map(tuple),
    st.lists(st.lists(parts, min_size=1, max_size=3).map("/".join), max_size=3).map(tuple),
    st.booleans(),
)


@given(records)
def test_what_is_written_is_read(record: OutputRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        write_record(path, record)
        assert read_record(path, TARGET) == record
        assert read_record(path, TARGET.with_name("other")) is None


VALID = json.dumps(
    {"output": "out", "pid": 7, "host": "h", "started": "2026", "made": ["/somewhere/deep"], "placed": ["a/b"],
     "scratch": True, "written_by": "adapter-export"}
).encode()  # fmt: skip


# Paths of any kind, as a stranger's record may hold them.
paths = st.lists(st.sampled_from(["..", ".", "", "a", "b c", "\\", "C:", "\0"]), max_size=4).map("/".join)
strangers = st.lists(paths, max_size=3).map(lambda placed: json.dumps({**json.loads(VALID), "placed": placed}).encode())


@given(
    strangers
    | damaged(VALID, mutators.of_json)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.binary()
)
def test_nothing_in_one_leads_elsewhere(data: bytes) -> None:
    with file_of(data, "record.json") as path:
        record: Any = read_record(path, TARGET)
    if record is not None:
        assert record.output == TARGET.name
        assert {Path(name) for name in record.made} <= set(TARGET.parents)
        assert all((TARGET / name).resolve().is_relative_to(TARGET) and name for name in record.placed)
