"""What a folder states about its license, and which of its files are license files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapter_export.checkpoints.licenses import (
    Stated,
    base_model_name,
    license_fields,
    license_files,
    stated,
    write_license_files,
)


def readme(folder: Path, block: str) -> Path:
    (folder / "README.md").write_text(f"---\n{block}\n---\ntext\n")
    return folder


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("license: apache-2.0", Stated("apache-2.0")),
        ("license: [mit, gpl-3.0]\nbase_model: org/name", Stated("mit, gpl-3.0", "org/name")),
        ("license: other\nlicense_name: Some License", Stated("other (Some License)")),
        ("license: other", Stated("other")),
        ("license: mit\nlicense_name: Some License", Stated("mit")),
        ("base_model: [org/name]", Stated(None, "org/name")),
        ("base_model: [org/one, org/two]", Stated()),
        ("base_model: ../../etc", Stated()),
        ("license: ''", Stated()),
        ("language: en", Stated()),
    ],
)
def test_what_is_stated(block: str, expected: Stated, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert stated(readme(tmp_path, block)) == expected
    assert caplog.text == ""


def test_no_readme(tmp_path: Path) -> None:
    assert stated(tmp_path) == Stated()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ('license: "\\e]0;title\\a"', "field 'license' is not read: expected at most 100 printable characters"),
        ('license: "one\\ntwo"', "field 'license' is not read"),
        (f"license: {'long' * 30}", "field 'license' is not read"),
        ("license: {", "its license is not read: no YAML"),
    ],
)
def test_what_is_not_read_is_a_note(block: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert stated(readme(tmp_path, block)) == Stated()
    assert message in caplog.text
    assert caplog.messages[0].isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_readme_that_is_no_file_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("pipe", "link", "folder"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "README.md")
    (tmp_path / "secret").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "link" / "README.md").symlink_to(tmp_path / "secret")
    (tmp_path / "folder" / "README.md").mkdir()
    for name in ("pipe", "link", "folder"):
        assert stated(tmp_path / name) == Stated()
    assert "found a pipe" in caplog.text
    assert "is a link out of" in caplog.text
    assert "found a folder" in caplog.text


def test_license_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    (folder / "licenses").mkdir(parents=True)
    kept = {"LICENSE": b"text\r\n", "LICENCE.md": b"\xe9", "NOTICE.txt": b"", "COPYING": b"c", "license-two.txt": b"l"}
    for name, data in {**kept, "README.md": b"no", "config.json": b"{}", "MY-LICENSE": b"no"}.items():
        (folder / name).write_bytes(data)
    assert license_files(folder) == kept
    assert caplog.text == ""
    write_license_files(license_files(folder), tmp_path / "out" / "base")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "base").iterdir()} == kept
    write_license_files({}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_files_that_are_not_copied_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("key")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    (folder / "LICENSE.bin").write_bytes(b"\0")
    (folder / "NOTICE.long").write_bytes(b"a" * ((1 << 20) + 1))
    (folder / "COPYING\x1b[0m").write_text("a")
    assert license_files(folder) == {}
    for reason in ("is a link out of", "it is no text", "at most 1 MiB", "its name is not valid on every system"):
        assert reason in caplog.text


def test_many_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(40):
        (tmp_path / f"LICENSE.{number:02}").write_text("a")
    assert list(license_files(tmp_path)) == [f"LICENSE.{number:02}" for number in range(32)]
    assert "32 license files are copied, and no more" in caplog.text


@pytest.mark.parametrize(
    ("base", "adapters", "expected"),
    [
        (None, [], {"license": "unknown"}),
        (None, [None], {"license": "unknown"}),
        ("MIT", [None, "mit"], {"license": "mit"}),
        ("mit, gpl-3.0", [], {"license": ["mit", "gpl-3.0"]}),
        ("mit", ["apache-2.0"], {"license": "other", "license_name": "base-model-and-adapters"}),
        (None, ["mit"], {"license": "other", "license_name": "base-model-and-adapters"}),
        ("other", [], {"license": "other"}),
        ("other (Some: License)", [], {"license": "other", "license_name": "some-license"}),
        ("My own", [], {"license": "other", "license_name": "my-own"}),
        ("???", [], {"license": "other", "license_name": "other"}),
    ],
)
def test_the_license_of_the_whole(base: str | None, adapters: list[str | None], expected: dict[str, object]) -> None:
    assert license_fields(base, adapters) == expected


def test_the_name_of_the_base_model() -> None:
    assert base_model_name("org/name@0123", ["other/one"]) == "org/name"
    assert base_model_name("o r g/name@0123", []) is None
    assert base_model_name(None, ["org/name", None, "org/name"]) == "org/name"
    assert base_model_name(None, ["org/name", "org/other"]) is None
    assert base_model_name(None, []) is None
