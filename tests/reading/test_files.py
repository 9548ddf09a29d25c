"""Only regular files are read, at once and up to a size."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.reading.files import open_file, present, read_bytes, read_given, read_text, regular_file, size_of

LIMIT = 1 << 20


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket has room for some hundred characters only.
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize(
    ("make", "found"),
    [(os.mkfifo, "a pipe"), (lambda path: path.mkdir(), "a folder"), (_socket, "a socket")],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], found: str) -> None:
    path = tmp_path / "x"
    make(path)
    for read in (open_file, regular_file, size_of, lambda path: read_bytes(path, LIMIT)):
        with pytest.raises(InputError, match=f"x: expected a regular file, found {found}"):
            read(path)


def test_a_device_is_refused_also_by_its_own_name() -> None:
    with pytest.raises(InputError, match="found a device"):
        read_bytes(Path("/dev/zero"), LIMIT)
    with pytest.raises(InputError, match="found a device"):
        read_given(Path("/dev/zero"), LIMIT)


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="at most 1 MiB, found 1,099,511,627,776 bytes"):
        read_bytes(path, LIMIT)
    with pytest.raises(InputError, match="at most 1 MiB, found more"):
        read_given(path, LIMIT)


def test_missing_files_and_other_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x: no such file"):
        read_bytes(tmp_path / "x", LIMIT)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin: expected UTF-8, found: .* at byte 3"):
        read_text(tmp_path / "latin", LIMIT)


def test_a_link_that_leads_nowhere_is_present(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("gone")
    assert present(tmp_path / "x")
    assert not present(tmp_path / "gone")
    with pytest.raises(InputError, match="x: no such file"):
        read_bytes(tmp_path / "x", LIMIT)


def test_the_name_in_messages_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("text")
    (tmp_path / "x").symlink_to("target")
    with open_file(tmp_path / "x") as file:
        assert Path(file.name) == tmp_path / "x"
        assert file.read() == b"text"


def test_what_the_user_names_may_be_a_pipe_or_a_link_to_anywhere(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"line\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").symlink_to("../data")
    assert read_given(tmp_path / "folder" / "x", LIMIT) == b"line\n"
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"piped\n",))
    writer.start()
    assert read_given(tmp_path / "pipe", LIMIT) == b"piped\n"
    writer.join()
    with pytest.raises(InputError, match=r"nothing: no such file"):
        read_given(tmp_path / "nothing", LIMIT)
