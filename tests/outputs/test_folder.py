"""Outputs appear whole or not at all, and nothing that was there is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_export.errors import InputError, OutputBusy, OutputExists
from adapter_export.outputs import folder as module
from adapter_export.outputs.files import write_json
from adapter_export.outputs.folder import Output, output_folder, require_space

POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


class Stop(Exception):
    """What the blocks of these tests fail with."""


def tree(folder: Path) -> dict[str, str | None]:
    """Everything below `folder`: content of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_text() for path in folder.rglob("*")
    }


LISTING = json.dumps({"files": ["inner/c", "more"]}, indent=2) + "\n"


def fill(folder: Path, text: str = "new") -> None:
    """An output as a merged model or an adapter is one: it lists its files."""
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "c").write_text(text)
    (folder / "more").write_text(text)
    (folder / "adapter_export.json").write_text(LISTING)


def filled(text: str) -> dict[str, str | None]:
    return {"inner": None, "inner/c": text, "more": text, "adapter_export.json": LISTING}


def below(name: str, found: dict[str, str | None]) -> dict[str, str | None]:
    return {name: None} | {f"{name}/{path}": value for path, value in found.items()}


def write(target: Path | str, force: bool = False, error: BaseException | None = None) -> None:
    with output_folder(target, force) as written:
        fill(written.folder)
        if error is not None:
            raise error
        written.commit()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """An earlier output."""
    fill(tmp_path / "output", "old")
    return tmp_path / "output"


OLD, NEW = below("output", filled("old")), below("output", filled("new"))


@pytest.fixture(params=["exchanged", "two steps"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder: as this system does it, and as one does that cannot exchange two folders."""
    if request.param == "two steps":
        monkeypatch.setattr(module, "exchange", lambda one, other: False)
    return str(request.param)


def test_a_new_folder_and_its_parents(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "b" / "output") as written:
        assert not (tmp_path / "a" / "b" / "output").exists()
        fill(written.folder)
        written.commit()
    assert tree(tmp_path) == below("a", below("b", NEW))


def test_without_commit_there_is_nothing(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "output") as written:
        fill(written.folder)
    assert tree(tmp_path) == {}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    write(tmp_path / "output")
    assert tree(tmp_path) == NEW


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("output")
    assert tree(tmp_path) == NEW


def test_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "output")
    write(".")
    monkeypatch.chdir(tmp_path / "output" / "inner")
    write("../../other")
    assert tree(tmp_path) == NEW | below("other", filled("new"))


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255))
    assert tree(tmp_path) == below("n" * 255, filled("new"))


def test_force_replaces_an_output_of_ours_as_a_whole(ours: Path, tmp_path: Path, replacing: str) -> None:
    with output_folder(ours, force=True) as written:
        fill(written.folder)
        assert (ours / "more").read_text() == "old"
        written.commit()
    assert tree(tmp_path) == NEW


def test_a_manifest_lists_the_files_of_a_bundle(tmp_path: Path) -> None:
    """Its own, and every other; a manifest of somebody else's is none."""
    folder = tmp_path / "output"
    (folder / "adapters").mkdir(parents=True)
    (folder / "adapters" / "x.onnx_adapter").touch()
    write_json(folder / "manifest.json", {"format_version": 1, "files": {"adapters/x.onnx_adapter": "0" * 64}})
    write(folder, force=True)
    assert tree(tmp_path) == NEW


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt(), SystemExit(3), OSError(28, "No space left on device")])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_what_was_there(ours: Path, tmp_path: Path, error: BaseException, force: bool) -> None:
    with pytest.raises(type(error)):
        write(ours if force else tmp_path / "a" / "b" / "output", force, error)
    assert tree(tmp_path) == OLD


def test_a_failure_leaves_what_others_put_into_the_same_parent(tmp_path: Path) -> None:
    """A parent that was made for an output may be used by another command by then."""
    with output_folder(tmp_path / "runs" / "deep" / "a"):
        write(tmp_path / "runs" / "b")
    assert tree(tmp_path) == below("runs", below("b", filled("new")))


@pytest.mark.parametrize("step", range(9))
def test_a_failure_of_each_step_at_the_end(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: str, step: int
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

    def commit(written: Output) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", failing(Path.rename))
            patch.setattr(module, "sync", failing(module.sync))
            patch.setattr(module, "exchange", failing(module.exchange))
            written.commit()

    # Steps: sync of the folder, of inner, of three files; the exchange, or the try of one, the old folder away and the
    # new one in its place; sync of their parent.
    last = 6 if replacing == "exchanged" else 8
    with output_folder(ours, force=True) as written:
        fill(written.folder)
        if step > last:
            commit(written)
        else:
            with pytest.raises(Stop):
                commit(written)
    # Once the new folder is there, it stays.
    assert tree(tmp_path) == (NEW if step >= last else OLD)


FOREIGN: dict[str, Callable[[Path], None]] = {
    "a file among ours": lambda folder: (folder / "diary.txt").write_text("dear") and None,
    "a file among ours, deeper": lambda folder: (folder / "inner" / "diary.txt").write_text("dear") and None,
    "a link among ours": lambda folder: (folder / "diary.txt").symlink_to(folder / "more"),
    "a listing that is broken": lambda folder: (folder / "adapter_export.json").write_text("{") and None,
    "a listing without files": lambda folder: (folder / "adapter_export.json").write_text("{}") and None,
    "no listing": lambda folder: (folder / "adapter_export.json").unlink(),
    "a web app": lambda folder: (
        (folder / "adapter_export.json").unlink(),
        (folder / "manifest.json").write_text('{"name": "app", "icons": []}'),
        None,
    )[-1],
    "a trainer's adapter": lambda folder: (
        (folder / "adapter_export.json").unlink(),
        (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
        (folder / "checkpoint-500").mkdir(),
        (folder / "checkpoint-500" / "optimizer.pt").write_text("days of work"),
        None,
    )[-1],
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_output_of_ours_is_never_replaced(ours: Path, tmp_path: Path, kind: str, force: bool) -> None:
    """Ours is what lists its files, and holds nothing else."""
    FOREIGN[kind](ours)
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match="which this tool did not write" if force else "already holds something"):
        write(ours, force)
    assert tree(tmp_path) == before


def test_the_first_foreign_file_is_named(ours: Path) -> None:
    (ours / "inner" / "diary.txt").touch()
    with pytest.raises(OutputExists, match=r"output .*output: holds 'inner/diary\.txt', which this tool did not write"):
        write(ours, force=True)


def test_what_comes_while_the_command_works_stays(ours: Path, tmp_path: Path, replacing: str) -> None:
    with output_folder(ours, force=True) as written:
        fill(written.folder)
        (ours / "diary.txt").write_text("dear")
        with pytest.raises(OutputExists, match=r"output: holds 'diary\.txt'"):
            written.commit()
    assert tree(tmp_path) == OLD | {"output/diary.txt": "dear"}


def test_what_comes_into_a_new_output_stays(tmp_path: Path) -> None:
    with output_folder(tmp_path / "output") as written:
        fill(written.folder)
        fill(tmp_path / "output", "theirs")
        with pytest.raises(OutputExists):
            written.commit()
    assert tree(tmp_path) == below("output", filled("theirs"))


def test_without_force_not_even_our_own(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="choose another folder or pass --force"):
        write(ours)
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
        write(target, force)


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a NUL character"):
        write(f"{tmp_path}/a\0b")


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_or_contains_an_input(ours: Path, tmp_path: Path, force: bool) -> None:
    inner = ours / "adapters" / "one"
    inner.mkdir(parents=True)
    for given in (ours, inner, inner / "..", f"{ours}/"):
        with (
            pytest.raises(InputError, match="expected a folder apart from the input"),
            output_folder(ours, force, inputs=[tmp_path / "elsewhere", given]),
        ):
            pytest.fail("the block ran")
    (tmp_path / "alias").symlink_to(ours)
    with (
        pytest.raises(InputError, match="expected a folder apart from the input"),
        output_folder(ours, force, inputs=[tmp_path / "alias"]),
    ):
        pytest.fail("the block ran")
    # An output inside an input is no danger to it.
    with output_folder(ours / "new", force, inputs=[ours]):
        pass


@POSIX_ONLY
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            write(tmp_path / "output")
    finally:
        tmp_path.chmod(0o755)
    assert tree(tmp_path) == {}


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a place where even root cannot make a folder")
@pytest.mark.parametrize("path", ["/proc/adapter-export-test", "/proc/adapter-export-test/output"])
def test_a_place_where_nothing_can_be_made(path: str) -> None:
    with pytest.raises(OSError, match="/proc/"), output_folder(path):
        pytest.fail("the block ran")


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match="file"), output_folder(tmp_path / "file" / "output"):
        pytest.fail("the block ran")
    assert tree(tmp_path) == {"file": "text"}


@POSIX_ONLY
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with output_folder(tmp_path / "output") as written:
            fill(written.folder)
            (written.folder / "more").chmod(0o600)
            written.commit()
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"output": 0o750, "inner": 0o750, "c": 0o640, "more": 0o640, "adapter_export.json": 0o640}


@POSIX_ONLY
def test_a_full_disk(ours: Path, tmp_path: Path) -> None:
    """The system refuses to write more than 1000 bytes to a file, in the middle of one."""
    code = f"""
import resource, signal
from adapter_export.outputs.folder import output_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for target in ({str(ours)!r}, {str(tmp_path / "a" / "output")!r}):
    try:
        with output_folder(target, force=True) as written:
            (written.folder / "manifest.json").write_text("new")
            (written.folder / "big").write_bytes(bytes(2000))
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)] * 2
    assert tree(tmp_path) == OLD


def test_room_on_the_disk(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(InputError, match=r"expected room for 1,000,000,000,000 MB on its disk, found [\d,.]+ MB"):
        require_space(tmp_path, 10**18)


class TestFromWithin:
    """A folder that cannot be replaced, as a mount point, is filled in place."""

    @pytest.fixture
    def mounted(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "output"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("cannot mount here")
        yield folder
        subprocess.run(["umount", folder], check=True)

    @pytest.fixture
    def bound(self, tmp_path: Path) -> Iterator[Path]:
        """A folder of the same disk, mounted: its device tells nothing."""
        folder, source = tmp_path / "a b" / "output", tmp_path / "source"
        folder.mkdir(parents=True)
        source.mkdir()
        if subprocess.run(["mount", "--bind", source, folder], capture_output=True, check=False).returncode:
            pytest.skip("cannot mount here")
        yield folder
        subprocess.run(["umount", folder], check=True)

    @pytest.fixture(params=["mounted", "bound"])
    def inside(self, request: pytest.FixtureRequest) -> Path:
        folder: Path = request.getfixturevalue(request.param)
        return folder

    @pytest.fixture
    def alike(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Treated as such a folder, where nothing can be mounted."""
        monkeypatch.setattr(module, "_only_from_within", lambda target: True)
        (tmp_path / "output").mkdir()
        return tmp_path / "output"

    def test_it_is_filled(self, inside: Path) -> None:
        write(inside)
        assert tree(inside) == filled("new")

    def test_the_listing_comes_last(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        rename = Path.rename

        def noted(path: Path, target: Path) -> Path:
            order.append(target.name)
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", noted)
        write(alike)
        assert order == ["c", "more", "adapter_export.json"]

    def test_what_a_new_disk_holds_does_not_count(self, alike: Path) -> None:
        (alike / "lost+found").mkdir()
        write(alike)
        assert tree(alike) == filled("new") | {"lost+found": None}

    @pytest.mark.parametrize("force", [False, True])
    def test_a_filled_one_is_refused_before_the_work(self, inside: Path, force: bool) -> None:
        fill(inside, "old")
        with pytest.raises(OutputExists, match=r"'adapter_export\.json', and can only be written from within"):
            write(inside, force)
        assert tree(inside) == filled("old")

    def test_a_failure_leaves_it_empty(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(Stop):
            write(alike, error=Stop())
        assert tree(alike) == {}
        rename = Path.rename

        def failing(path: Path, target: Path) -> Path:
            if target.name == "more":
                raise OSError(28, "No space left on device")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="No space"):
            write(alike)
        assert tree(alike) == {}

    def test_a_full_one(self, mounted: Path) -> None:
        with pytest.raises(OSError, match="No space left"), output_folder(mounted) as written:
            (written.folder / "big").write_bytes(bytes(2 << 20))
        assert tree(mounted) == {}


class TestTwoWriters:
    """One output has one writer."""

    CODE = """
import sys, time
from pathlib import Path
from adapter_export.outputs.folder import output_folder
with output_folder(sys.argv[1], force=True) as written:
    (written.folder / "half").touch()
    print("writing", flush=True)
    time.sleep(60)
"""

    def start(self, target: Path) -> subprocess.Popen[bytes]:
        running = subprocess.Popen([sys.executable, "-c", self.CODE, str(target)], stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.readline() == b"writing\n"
        return running

    @pytest.mark.parametrize("replaced", [False, True])
    def test_the_second_is_refused_at_once(self, tmp_path: Path, replaced: bool) -> None:
        target = tmp_path / "a" / "output"
        if replaced:
            fill(target, "old")
        running = self.start(target)
        try:
            with pytest.raises(OutputBusy, match=f"another command is writing it .process {running.pid} on "):
                write(target, force=True)
        finally:
            running.kill()
            running.communicate()
        assert running.returncode == -signal.SIGKILL

    def test_in_one_process_as_well(self, tmp_path: Path) -> None:
        with output_folder(tmp_path / "output") as written:
            with pytest.raises(OutputBusy):
                write(tmp_path / "output")
            fill(written.folder)
            written.commit()
        assert tree(tmp_path) == NEW

    def test_a_bundle_that_is_being_added_to(self, ours: Path, tmp_path: Path) -> None:
        from adapter_export.outputs.workspace import workspace

        with workspace(ours, inside=True), pytest.raises(OutputBusy):
            write(ours, force=True)
        write(ours, force=True)
        assert tree(tmp_path) == NEW


@POSIX_ONLY
class TestKilled:
    """After SIGKILL the next command on the same output removes what was left, and says so."""

    @pytest.mark.parametrize("replaced", [False, True])
    def test_the_next_command_cleans_up(self, tmp_path: Path, replaced: bool, caplog: pytest.LogCaptureFixture) -> None:
        target = tmp_path / "a" / "output"
        if replaced:
            fill(target, "old")
        running = TestTwoWriters().start(target)
        running.kill()
        running.communicate()
        assert (target.parent / ".output.adapter-export" / "new" / "half").exists()
        write(target, force=True)
        assert tree(tmp_path) == below("a", NEW)
        assert f"was killed while it wrote this (process {running.pid} on " in caplog.text

    def test_a_failing_next_command_removes_the_parents_that_the_killed_one_made(self, tmp_path: Path) -> None:
        running = TestTwoWriters().start(tmp_path / "a" / "b" / "output")
        running.kill()
        running.communicate()
        with pytest.raises(Stop):
            write(tmp_path / "a" / "b" / "output", error=Stop())
        assert tree(tmp_path) == {}

    @pytest.mark.parametrize("inside", [False, True])
    def test_what_is_not_provably_ours_stays(self, tmp_path: Path, inside: bool) -> None:
        """A folder of the same name, without a record of ours, or with something else in it."""
        fill(tmp_path / "output", "old")
        folder = tmp_path / "output" / ".adapter-export" if inside else tmp_path / ".output.adapter-export"
        for content in ({"thesis.txt": "years"}, {"new": "years"}, {"lock": "years"}, {"record.json": "{}"}):
            folder.mkdir()
            for name, text in content.items():
                (folder / name).write_text(text)
            before = tree(tmp_path)
            with pytest.raises(InputError, match="expected what an earlier command on output left, found"):
                write(tmp_path / "output", force=True)
            assert tree(tmp_path) == before
            shutil.rmtree(folder)
        folder.symlink_to(tmp_path)
        with pytest.raises(InputError, match="expected what an earlier command on output left, found a link"):
            write(tmp_path / "output", force=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("action", ["write_folder", "write_folder_in_two_steps", "fill_in_place"])
    @pytest.mark.parametrize("replaced", [False, True])
    def test_at_any_moment_there_is_no_half_output(self, tmp_path: Path, action: str, replaced: bool) -> None:
        if replaced and action == "fill_in_place":
            pytest.skip("nothing is replaced in place")
        given = tmp_path / "given" / "new"
        given.mkdir(parents=True)
        if replaced:
            fill(given / "output", "old")
        elif action == "fill_in_place":
            (given / "output").mkdir()
        script = Path(__file__).with_name("killed.py")
        done = subprocess.run(
            [sys.executable, str(script), action, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        listing = json.dumps({"files": ["a", "b", "inner/c"]}, indent=2) + "\n"
        whole = {"inner": None, "inner/c": "new", "a": "new", "b": "new", "adapter_export.json": listing}
        old = filled("old") if replaced else {} if action == "fill_in_place" else None
        last = int(done.stdout)
        assert last > 10
        for count in range(1, last + 1):
            parent = tmp_path / f"after-{count}" / "new"
            found = tree(parent / "output") if (parent / "output").exists() else None
            if action == "write_folder":
                # No moment is without the one or the other, beside the lock on it.
                found = found and {name: text for name, text in found.items() if ".adapter-export" not in name}
                assert found in (old, whole), count
            # Whatever it was, the next command finds the old output or the new one, and nothing else is left.
            with pytest.raises(Stop):
                write(parent / "output", force=True, error=Stop())
            left = tree(parent)
            assert left in ({} if old is None else below("output", old), below("output", whole)), count
        assert left == below("output", whole)


@POSIX_ONLY
class TestSignals:
    """SIGTERM while the output is put in its place waits for that."""

    CODE = """
import os, signal, sys
from adapter_export.outputs import folder as module, signals
sync = module.sync
def term(path):
    sync(path)
    if path.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGTERM)
module.sync = term
with signals.ending():
    try:
        with module.output_folder(sys.argv[1]) as written:
            (written.folder / "a").touch()
            written.commit()
    except signals.Terminated:
        sys.exit(128 + signals.received())
"""

    @pytest.mark.parametrize(("at", "code", "there"), [("a", 143, False), ("parent", 0, True)])
    def test_before_it_counts_and_afterwards_it_comes_too_late(
        self, tmp_path: Path, at: str, code: int, there: bool
    ) -> None:
        target = tmp_path / "parent" / "output"
        done = subprocess.run([sys.executable, "-c", self.CODE, str(target), at], check=False)
        assert done.returncode == code
        assert tree(tmp_path) == (below("parent", below("output", {"a": ""})) if there else {})

    def test_without_our_handler_it_ends_the_process_when_the_output_is_there(self, tmp_path: Path) -> None:
        code = self.CODE.replace("with signals.ending():", "if True:")
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p" / "output"), "p"], check=False)
        assert done.returncode == -signal.SIGTERM
        assert (tmp_path / "p" / "output" / "a").exists()
