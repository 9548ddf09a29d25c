"""Adapters taken out of a bundle, on copies of shared bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adapter_export import AdapterSession, InputError, add_adapter, remove_adapter
from adapter_export.bundle import remove
from adapter_export.bundle.card import card
from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli import main
from adapter_export.errors import OutputBusy
from adapter_export.outputs.ownership import CARD, MANIFEST
from adapter_export.outputs.workspace import workspace
from adapter_export.reading.hashes import sha256
from tests.bundles import Exported

NAMES = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")


@pytest.fixture(params=["swappable", "bank"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shared: Exported = request.getfixturevalue(f"{request.param}_bundle")
    return shutil.copytree(shared.bundle, tmp_path / "bundle")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answer(bundle: Path, name: str) -> np.ndarray:
    inputs = {name: np.arange(2, 12).reshape(2, 5) for name in ("input_ids",)}
    inputs |= {"attention_mask": np.ones((2, 5), np.int64), "token_type_ids": np.zeros((2, 5), np.int64)}
    with AdapterSession(bundle) as session:
        rows = {"adapters": [name, name]} if session.manifest.mode == "bank" else {"adapter": name}
        return session.run({key: inputs[key] for key in session.manifest.inputs if key in inputs}, **rows)["logits"]


def test_it_is_gone_and_the_others_stay(bundle: Path) -> None:
    before, expected = files(bundle), answer(bundle, "houlsby_two")
    manifest = remove_adapter(bundle, ["ia3_two", "pfeiffer_five"])
    assert read_manifest(bundle) == manifest
    assert [info.name for info in manifest.adapters] == ["ia3_three", "houlsby_four", "houlsby_two"]
    after = files(bundle)
    gone = {f"adapters/{name}.onnx_adapter" for name in ("ia3_two", "pfeiffer_five")}
    assert set(before) - set(after) == gone
    assert set(after) <= set(before)
    assert [path for path in after if after[path] != before[path]] == [CARD, MANIFEST]
    assert not gone & set(manifest.files)
    with AdapterSession(bundle) as session:
        assert session.adapters == ("ia3_three", "houlsby_four", "houlsby_two")
    np.testing.assert_array_equal(answer(bundle, "houlsby_two"), expected)


def test_a_name_is_free_again(bundle: Path, classifier_checkpoints: dict[str, Path]) -> None:
    expected = answer(bundle, "ia3_two")
    remove_adapter(bundle, ["ia3_two"])
    add_adapter(bundle, {"ia3_two": classifier_checkpoints["ia3_two"]})
    np.testing.assert_array_equal(answer(bundle, "ia3_two"), expected)


def test_all_of_them(bundle: Path) -> None:
    assert remove_adapter(bundle, NAMES).adapters == ()
    with AdapterSession(bundle) as session:
        assert session.adapters == ()
    assert not [path for path in files(bundle) if path.startswith("adapters")]


def test_licenses_go_with_their_adapter(licensed_bundle: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(licensed_bundle.bundle, tmp_path / "licensed")
    before = files(bundle)
    manifest = remove_adapter(bundle, ["ia3_two"])
    assert set(before) - set(files(bundle)) == {
        "adapters/ia3_two.onnx_adapter", "licenses/adapters/ia3_two/LICENSE"
    }  # fmt: skip
    assert not (bundle / "licenses" / "adapters" / "ia3_two").exists()
    assert (bundle / CARD).read_text() == card(manifest)
    assert "license: apache-2.0\n" in card(manifest)
    remove_adapter(bundle, ["houlsby_two"])
    assert sorted(path for path in files(bundle) if path.startswith("licenses")) == [
        "licenses/base/LICENSE", "licenses/base/NOTICE"
    ]  # fmt: skip
    AdapterSession(bundle, expect_sha256=sha256(bundle / MANIFEST)).close()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected at least one adapter to remove, found none"),
        (["nope"], r"adapter 'nope': not in the bundle \(it has: ia3_two, "),
        (["ia3_two", "nope"], r"adapter 'nope': not in the bundle"),
    ],
)
def test_all_or_none(bundle: Path, names: list[str], message: str) -> None:
    before = files(bundle)
    with pytest.raises(InputError, match=message):
        remove_adapter(bundle, names)
    assert files(bundle) == before


def test_an_adapter_inside_the_graph_stays(embedded_bundle: Exported) -> None:
    with pytest.raises(InputError, match="mode 'embedded' holds its adapter in the graph; expected swappable or bank"):
        remove_adapter(embedded_bundle.bundle, ["houlsby_four"])


def test_another_writer_has_it(bundle: Path) -> None:
    before = files(bundle)
    with workspace(bundle.resolve(), inside=True), pytest.raises(OutputBusy):
        remove_adapter(bundle, ["ia3_two"], lock_timeout=0)
    assert files(bundle) == before


def test_what_fails_before_the_manifest_changes_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = files(bundle)
    monkeypatch.setattr(remove, "replace_manifest", full)
    with pytest.raises(OSError, match="No space left"):
        remove_adapter(bundle, ["ia3_two"])
    assert files(bundle) == before


def test_the_command(bundle: Path) -> None:
    arguments = ["remove", "--bundle", str(bundle), "--adapter", "ia3_two", "--adapter", "houlsby_two"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "bundle": str(bundle),
        "removed": ["ia3_two", "houlsby_two"],
        "adapters": ["ia3_three", "houlsby_four", "pfeiffer_five"],
    }
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "adapter 'ia3_two': not in the bundle" in again.stderr
    plain = CliRunner().invoke(main, ["remove", "--bundle", str(bundle), "--adapter", "pfeiffer_five"])
    assert plain.stdout.splitlines() == [f"{bundle}: removed pfeiffer_five", "adapters: ia3_three, houlsby_four"]
