"""Outputs appear whole or not at all, and nothing that was there is lost."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.bundle import layout
from adapter_export.bundle.layout import atomic_file, atomic_folder, check_output, write_json
from adapter_export.errors import InputError, OutputExists

POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


class Stop(Exception):
    """What the blocks of these tests fail with."""


def tree(folder: Path) -> dict[str, str | None]:
    """Everything below `folder`: content of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_text() for path in folder.rglob("*")
    }


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "c").write_text("new")
    (folder / "manifest.json").write_text("new")


WRITTEN = {"inner": None, "inner/c": "new", "manifest.json": "new"}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """An earlier output."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "manifest.json").write_text("old")
    (folder / "more").write_text("old")
    return folder


OLD = {"output": None, "output/manifest.json": "old", "output/more": "old"}


def test_a_new_folder_and_its_parents(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b" / "output") as temporary:
        assert not (tmp_path / "a" / "b" / "output").exists()
        fill(temporary)
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/output": None} | {
        f"a/b/output/{name}": value for name, value in WRITTEN.items()
    }


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    with atomic_folder(tmp_path / "output") as temporary:
        fill(temporary)
    assert tree(tmp_path / "output") == WRITTEN


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_folder("output") as temporary:
        fill(temporary)
    assert tree(tmp_path / "output") == WRITTEN


def test_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "output" / "inner")
    with atomic_folder(".") as temporary:
        fill(temporary)
    monkeypatch.chdir(tmp_path / "output" / "inner" / "inner")
    with atomic_folder("../../other") as temporary:
        fill(temporary)
    assert tree(tmp_path / "output" / "inner") == tree(tmp_path / "output" / "other") == WRITTEN


def test_of_two_at_once_the_second_fails(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "output") as first, atomic_folder(tmp_path / "output") as second:
            fill(first)
            fill(second)
            (second / "inner" / "c").write_text("second")

    with pytest.raises(OutputExists):
        write()
    assert (tmp_path / "output" / "inner" / "c").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_force_replaces_an_output_of_ours_as_a_whole(ours: Path, tmp_path: Path) -> None:
    with atomic_folder(ours, force=True) as temporary:
        fill(temporary)
        assert (ours / "more").read_text() == "old"
    assert tree(tmp_path) == {"output": None} | {f"output/{name}": value for name, value in WRITTEN.items()}


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt(), SystemExit(3), OSError(28, "No space left on device")])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_what_was_there(ours: Path, tmp_path: Path, error: BaseException, force: bool) -> None:
    target = ours if force else tmp_path / "a" / "b" / "output"

    def write() -> None:
        with atomic_folder(target, force) as temporary:
            fill(temporary)
            raise error

    with pytest.raises(type(error)):
        write()
    assert tree(tmp_path) == OLD


@pytest.mark.parametrize("step", range(6))
def test_a_failure_of_each_step_at_the_end(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The renames and syncs that put the new folder in place: each one in turn fails."""
    left = [step]

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                raise Stop
            return real(*arguments)

        return call

    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(layout, "sync", failing(layout.sync))
    # Steps: sync of the folder, of inner, of two files; the old folder away, the new one in its place.
    with pytest.raises(Stop), atomic_folder(ours, force=True) as temporary:
        fill(temporary)
    monkeypatch.undo()
    assert tree(tmp_path) == OLD


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_output_of_ours_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "diary.txt").write_text("dear")
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match="--force replaces its own" if force else "already holds something"):
        check_output(tmp_path / "output", force)
    with pytest.raises(OutputExists), atomic_folder(tmp_path / "output", force):
        pytest.fail("the block ran")
    assert tree(tmp_path) == before


def test_without_force_not_even_our_own(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="choose another folder or pass --force"), atomic_folder(ours):
        pytest.fail("the block ran")
    assert tree(tmp_path) == OLD


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_no_folder_at_all(tmp_path: Path, kind: str, force: bool) -> None:
    target = tmp_path / "output"
    if kind == "file":
        target.write_text("text")
    else:
        target.symlink_to(tmp_path if kind == "link" else tmp_path / "nothing")
    with pytest.raises(InputError, match="expected a folder or nothing, found a file or a link"):
        check_output(target, force)


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_or_contains_an_input(ours: Path, tmp_path: Path, force: bool) -> None:
    inner = ours / "adapters" / "one"
    inner.mkdir(parents=True)
    for given in (ours, inner, inner / "..", f"{ours}/"):
        with pytest.raises(InputError, match="expected a folder apart from the input"):
            check_output(ours, force, inputs=[tmp_path / "elsewhere", given])
    (tmp_path / "alias").symlink_to(ours)
    with pytest.raises(InputError, match="expected a folder apart from the input"):
        check_output(ours, force, inputs=[tmp_path / "alias"])
    # An output inside an input is no danger to it.
    check_output(ours / "new", force, inputs=[ours])


@POSIX_ONLY
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError), atomic_folder(tmp_path / "output"):
            pytest.fail("the block ran")
    finally:
        tmp_path.chmod(0o755)
    assert tree(tmp_path) == {}


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a place where even root cannot make a folder")
def test_a_place_where_nothing_can_be_made() -> None:
    with pytest.raises(OSError, match="/proc/"), atomic_folder("/proc/adapter-export-test/output"):
        pytest.fail("the block ran")


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match="file"), atomic_folder(tmp_path / "file" / "output"):
        pytest.fail("the block ran")
    assert tree(tmp_path) == {"file": "text"}


@POSIX_ONLY
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "output") as temporary:
            fill(temporary)
            (temporary / "manifest.json").chmod(0o600)
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"output": 0o750, "inner": 0o750, "c": 0o640, "manifest.json": 0o640}


@POSIX_ONLY
def test_a_full_disk(ours: Path, tmp_path: Path) -> None:
    """The system refuses to write more than 1000 bytes to a file, in the middle of one."""
    code = f"""
import resource, signal
from adapter_export.bundle.layout import atomic_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for target in ({str(ours)!r}, {str(tmp_path / "a" / "output")!r}):
    try:
        with atomic_folder(target, force=True) as temporary:
            (temporary / "manifest.json").write_text("new")
            (temporary / "big").write_bytes(bytes(2000))
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["27", "27"]  # EFBIG
    assert tree(tmp_path) == OLD


@POSIX_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
def test_killed_at_any_moment_there_is_no_half_output(tmp_path: Path, replaced: bool) -> None:
    given = tmp_path / "given"
    (given / "new").mkdir(parents=True)
    if replaced:
        (given / "new" / "output").mkdir()
        for name in ("manifest.json", "more"):
            (given / "new" / "output" / name).write_text("old")
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, str(script), "write_folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole = {"inner": None, "inner/c": "new", "a": "new", "b": "new", "manifest.json": "new"}
    old = {"manifest.json": "old", "more": "old"} if replaced else None
    for count in range(1, int(done.stdout) + 1):
        parent = tmp_path / f"after-{count}" / "new"
        found = tree(parent / "output") if (parent / "output").exists() else None
        if found is None and old is not None:
            # Between the two renames: the old folder stands beside its place.
            (moved,) = parent.glob(".output.old.*/output")
            found = tree(moved)
        assert found in (old, whole), count
    assert tree(tmp_path / f"after-{int(done.stdout)}" / "new" / "output") == whole


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é": 1})
    before = path.read_bytes()
    assert before == b'{\n  "\\u00e9": 1\n}\n'

    def fail(_: Path) -> None:
        raise Stop

    monkeypatch.setattr(layout, "sync", fail)
    with pytest.raises(Stop):
        atomic_file(path, b"new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    atomic_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@POSIX_ONLY
def test_one_writer_waits_for_the_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from adapter_export.bundle.layout import one_writer\n"
        "with one_writer(Path(sys.argv[1])): print('in', flush=True)"
    )
    with layout.one_writer(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1.5)
    assert other.communicate(timeout=20)[0] == b"in\n"
    shutil.rmtree(tmp_path)
