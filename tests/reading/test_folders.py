"""What transformers may open in a folder is checked, what it never opens is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.reading.folders import check_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("of others")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_what_is_never_opened_may_be_anything(folder: Path) -> None:
    (folder / ".git").symlink_to("../secret")
    (folder / "data").symlink_to("/")
    (folder / "logs").mkdir()
    (folder / "logs" / "latest").symlink_to("../../secret")
    os.mkfifo(folder / "logs" / "pipe")
    check_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_path_of_the_machine_a_tokenizer_was_made_on_is_no_matter(name: str, folder: Path) -> None:
    path = folder / name
    stale = {"tokenizer_file": "/home/nobody/x/tokenizer.json", "vocab_file": None, "special_tokens_map_file": "m"}
    stale |= {"name_or_path": str(folder.parent), "bos_token": "/", "chat_template": "/" * 5000}
    path.write_text(json.dumps({**stale, "merges_file": str(folder / "config.json")}))
    check_folder(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / "merges.txt").symlink_to("../secret"), "merges.txt: is a link out of"),
        (lambda folder: (folder / "merges.txt").symlink_to("nothing"), "merges.txt: no such file"),
        (
            lambda folder: (folder / "vocab.json").touch() or os.truncate(folder / "vocab.json", 1 << 40),
            "vocab.json: expected a file of at most 512 MiB, found 1,099,511,627,776 bytes",
        ),
        (lambda folder: os.mkfifo(folder / "vocab.txt"), "vocab.txt: expected a regular file, found a pipe"),
        (
            lambda folder: (folder / "special_tokens_map.json").write_text('{"vocab_file": "/etc/passwd"}'),
            "special_tokens_map.json: field 'vocab_file': expected a file in this folder, found '/etc/passwd'",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"source_spm": "../secret"}'),
            "tokenizer_config.json: field 'source_spm': expected a file in this folder, found '../secret'",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"anything": "/etc/passwd"}'),
            "tokenizer_config.json: field 'anything': expected a file in this folder, found '/etc/passwd'",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"fast_tokenizer_files": ["../secret"]}'),
            "tokenizer_config.json: field 'fast_tokenizer_files': expected a file in this folder, found '../secret'",
        ),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json: expected JSON"),
    ],
)
def test_what_may_be_opened_is_checked(folder: Path, make: Callable[[Path], object], message: str) -> None:
    make(folder)
    with pytest.raises(InputError, match=message):
        check_folder(folder)


def test_chat_templates_are_checked(folder: Path) -> None:
    templates = folder / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("x")
    check_folder(folder)
    (templates / "rag.jinja").symlink_to("../../secret")
    with pytest.raises(InputError, match=r"rag\.jinja: is a link out of"):
        check_folder(folder)
