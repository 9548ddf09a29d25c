"""`inspect` as a function: which class describes what. Its values are tested by the command, in tests/cli."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from adapter_export import (
    AdapterDescription,
    AdapterFileDescription,
    BundleDescription,
    Description,
    InputError,
    ModelDescription,
    OnnxDescription,
    inspect,
    read_manifest,
)
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import adapter_path
from adapter_export.inspection.descriptions import as_dict
from tests.bundles import Exported


def test_each_kind_has_its_class(swappable_bundle: Exported) -> None:
    kinds = {
        swappable_bundle.bundle: BundleDescription,
        swappable_bundle.base: ModelDescription,
        swappable_bundle.adapters["ia3_two"]: AdapterDescription,
        swappable_bundle.bundle / MODEL: OnnxDescription,
        swappable_bundle.bundle / adapter_path("ia3_two"): AdapterFileDescription,
    }
    for path, cls in kinds.items():
        found = inspect(path)
        assert type(found) is cls
        assert found.path == path


def test_a_bundle_says_which_files_are_at_fault(swappable_bundle: Exported, copied_bundle: Path) -> None:
    found = inspect(copied_bundle)
    assert isinstance(found, BundleDescription)
    assert found.faulty == ()
    assert [item.name for item in found.adapters] == [
        info.name for info in read_manifest(swappable_bundle.bundle).adapters
    ]
    (copied_bundle / "tokenizer.json").unlink()
    (copied_bundle / "notes.txt").write_text("mine")
    found = inspect(copied_bundle)
    assert isinstance(found, BundleDescription)
    assert [(item.file, item.status) for item in found.faulty] == [("tokenizer.json", "missing")]


def test_the_json_object_leaves_out_what_not_every_path_has() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Made(Description):
        always: str | None
        sometimes: str | None = None
        inner: tuple[Description, ...] = ()

    inner = Description(path=Path("b"), kind="inner")
    found = as_dict(Made(path=Path("a"), kind="outer", always=None, inner=(inner,)))
    assert found == {
        "path": Path("a"),
        "kind": "outer",
        "always": None,
        "inner": [{"path": Path("b"), "kind": "inner"}],
    }
    assert as_dict(Made(path=Path("a"), kind="outer", always="x", sometimes="y"))["sometimes"] == "y"


def test_what_it_cannot_describe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        inspect(tmp_path / "nothing")


@pytest.fixture
def copied_bundle(swappable_bundle: Exported, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
