"""Single files are replaced whole or stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.outputs import files as module
from adapter_export.outputs.files import atomic_file, library_writes, write_json


class Stop(Exception):
    """What fails."""


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é": 1})
    before = path.read_bytes()
    assert before == b'{\n  "\\u00e9": 1\n}\n'

    def fail(_: Path) -> None:
        raise Stop

    monkeypatch.setattr(module, "sync", fail)
    with pytest.raises(Stop):
        atomic_file(path, b"new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    atomic_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    atomic_file(tmp_path / "link", b"new")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [RuntimeError("iostream error"), Exception("No space left on device (os error 28)")])
def test_what_libraries_raise_where_a_file_cannot_be_written(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError, match=f"could not be written: {re.escape(str(error))}"), library_writes(tmp_path):
        raise error


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), InputError("ours")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), library_writes(tmp_path):
        raise error
