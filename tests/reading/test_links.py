"""Links inside a folder work, those that lead out of it are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.reading.files import read_bytes
from adapter_export.reading.links import check_writable, follows_links, leads_out, leads_to

LIMIT = 1 << 20
SHA = "0f" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("own")
    (tmp_path / "secret").write_text("of others")
    return folder


def _absolute(folder: Path) -> str:
    (folder / "a").symlink_to(folder.parent / "secret")
    return "a"


def _relative(folder: Path) -> str:
    (folder / "a").symlink_to("../secret")
    return "a"


def _chain(folder: Path) -> str:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("c")
    (folder / "c").symlink_to("../secret")
    return "a"


def _through_a_folder(folder: Path) -> str:
    (folder / "up").symlink_to("..")
    return "up/secret"


def _sibling_of_like_name(folder: Path) -> str:
    (folder.parent / "model-2").mkdir()
    (folder.parent / "model-2" / "secret").write_text("of others")
    (folder / "a").symlink_to("../model-2/secret")
    return "a"


def _blobs_of_nobody(folder: Path) -> str:
    (folder.parent / "blobs").mkdir()
    (folder.parent / "blobs" / SHA).write_text("of others")
    (folder / "a").symlink_to(f"../blobs/{SHA}")
    return "a"


@pytest.mark.parametrize(
    "make", [_absolute, _relative, _chain, _through_a_folder, _sibling_of_like_name, _blobs_of_nobody]
)
def test_a_link_out_is_refused_by_its_name_and_where_it_leads(folder: Path, make: Callable[[Path], str]) -> None:
    name = make(folder)
    with pytest.raises(InputError) as caught:
        read_bytes(folder / name, LIMIT, folder)
    first = folder / name.split("/", maxsplit=1)[0]
    assert str(caught.value).startswith(f"{first}: is a link out of {folder}, to ")
    assert os.path.realpath(folder / name) in str(caught.value)
    assert "--follow-links" not in str(caught.value)
    assert leads_out(folder / name, folder)
    with pytest.raises(InputError):
        check_writable(folder / name, folder)


def test_links_inside_a_folder_work(folder: Path) -> None:
    """As Kubernetes mounts a ConfigMap, and by an absolute link."""
    version = folder / "..2026_11_26"
    version.mkdir()
    (version / "manifest.json").write_text("mounted")
    (folder / "..data").symlink_to("..2026_11_26")
    (folder / "manifest.json").symlink_to("..data/manifest.json")
    (folder / "absolute").symlink_to(folder / "config.json")
    assert read_bytes(folder / "manifest.json", LIMIT) == b"mounted"
    assert read_bytes(folder / "absolute", LIMIT) == b"own"
    check_writable(folder / "manifest.json", folder)


def test_a_folder_that_is_a_link_itself_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("model")
    (folder / "linked.json").symlink_to("config.json")
    assert read_bytes(tmp_path / "latest" / "linked.json", LIMIT) == b"own"
    check_writable(tmp_path / "latest" / "config.json", tmp_path / "latest")


def test_a_hard_link_is_a_file_of_the_folder(folder: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", folder / "hard")
    assert read_bytes(folder / "hard", LIMIT) == b"of others"


def test_links_of_the_hubs_cache_work_at_any_depth(tmp_path: Path) -> None:
    repository = tmp_path / "models--team--base"
    snapshot = repository / "snapshots" / "0123abc"
    (snapshot / "adapters").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / SHA).write_text("blob")
    (snapshot / "x").symlink_to(f"../../blobs/{SHA}")
    (snapshot / "adapters" / "x").symlink_to(f"../../../blobs/{SHA}")
    (snapshot / "refs").symlink_to("../../refs")
    (repository / "refs").write_text("main")
    assert read_bytes(snapshot / "x", LIMIT) == b"blob"
    assert read_bytes(snapshot / "adapters" / "x", LIMIT) == b"blob"
    with pytest.raises(InputError, match="is a link out of"):
        read_bytes(snapshot / "refs", LIMIT)


def test_blobs_that_are_a_link_are_not_the_hubs(tmp_path: Path) -> None:
    repository = tmp_path / "models--team--base"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("of others")
    (repository / "blobs").symlink_to("../private")
    (snapshot / "x").symlink_to("../../blobs/key")
    with pytest.raises(InputError, match="is a link out of"):
        read_bytes(snapshot / "x", LIMIT)


def test_a_loop_of_links_is_refused(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(InputError, match="a link that leads back to itself"):
        read_bytes(folder / "a", LIMIT)


@follows_links("model", "adapters")
def _work(model: str | Path, adapters: Mapping[str, Path] | Sequence[Path], follow_links: bool = False) -> list[bytes]:
    """Reads in threads, as the merge does."""
    paths = adapters.values() if isinstance(adapters, Mapping) else adapters
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda folder: read_bytes(folder / "a", LIMIT), [Path(model), *paths]))


def test_follow_links_counts_for_its_folders_while_the_work_runs(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for place in (folder, other):
        (place / "a").symlink_to("../secret")
    assert _work(str(folder), {"x": other}, follow_links=True) == [b"of others"] * 2
    assert _work(folder, [other], True) == [b"of others"] * 2
    with pytest.raises(InputError, match="--follow-links follows it"):
        _work(folder, [])
    with pytest.raises(InputError, match="is a link out of"):
        read_bytes(folder / "a", LIMIT)

    @follows_links("model")
    def reads_another(model: Path, follow_links: bool) -> bytes:
        return read_bytes(other / "a", LIMIT)

    with pytest.raises(InputError, match="is a link out of"):
        reads_another(folder, follow_links=True)


def test_follow_links_writes_nowhere_else(folder: Path) -> None:
    (folder / "a").symlink_to("../secret")

    @follows_links("model")
    def writes(model: Path, follow_links: bool) -> None:
        check_writable(model / "a", model)

    with pytest.raises(InputError, match="nothing outside that folder is written or deleted"):
        writes(folder, follow_links=True)


def test_writing_below_a_folder_that_is_a_link_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "adapters").symlink_to("../elsewhere")
    with pytest.raises(InputError, match=r"adapters: is a link out of .*elsewhere"):
        check_writable(folder / "adapters" / "new.onnx_adapter", folder)


def test_a_path_with_nul_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="without NUL"):
        leads_to(folder / "a\0b")
