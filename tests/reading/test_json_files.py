"""JSON files: what is wrong with one is an error that names it, or nothing where a file may be anybody's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.reading.json_files import json_or_empty, optional_json, read_json, read_json_value


def test_a_value_and_an_object(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "object.json").write_text('{"a": 1}')
    assert read_json_value(tmp_path / "list.json") == [1]
    assert read_json(tmp_path / "object.json") == {"a": 1}
    with pytest.raises(InputError, match=r"list\.json: expected a JSON object, found list"):
        read_json(tmp_path / "list.json")


def test_the_digest_that_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    assert read_json(tmp_path / "a.json", expect_sha256=hashlib.sha256(b"{}").hexdigest()) == {}
    with pytest.raises(InputError, match=r"a\.json: expected the file with sha256 00, found 44136fa"):
        read_json(tmp_path / "a.json", expect_sha256="00")


def test_an_optional_file_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    assert optional_json(tmp_path / "a.json") == {}
    (tmp_path / "a.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"a\.json"):
        optional_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 12345678}'], ids=["empty", "list", "broken", "too large"])
def test_nothing_where_a_file_is_not_ours(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert json_or_empty(tmp_path / "a.json", 10) == {}


def test_an_object_of_ours(tmp_path: Path) -> None:
    assert json_or_empty(tmp_path / "a.json", 10) == {}
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    assert json_or_empty(tmp_path / "a.json", 10) == {"a": 1}
    assert json_or_empty(tmp_path / "link.json", 10) == {}
