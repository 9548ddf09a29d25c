"""Adding adapters: the same files as an export makes, all or none, whatever happens."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle import add as module
from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.card import card
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import ADAPTERS, Manifest, adapter_path, read_manifest, write_manifest
from adapter_export.bundle.remove import remove_adapter
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.stated_task import StatedTask
from adapter_export.errors import InputError, OutputBusy, OutputExists
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import load_base
from adapter_export.outputs.ownership import CARD, MANIFEST, first_foreign
from adapter_export.outputs.record import record_of
from adapter_export.outputs.workspace import Workspace, workspace
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported, licensed


@pytest.fixture
def bundle(swappable_bundle: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def info(swappable_bundle: Exported) -> ModelInfo:
    return load_base(swappable_bundle.base, "text-classification").info


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_whole(folder: Path) -> Manifest:
    """The manifest and the files it names belong together."""
    manifest = read_manifest(folder)
    for path, digest in manifest.files.items():
        assert sha256(folder / path) == digest, path
    for info in manifest.adapters:
        assert manifest.files[info.file or ""] == info.sha256
    return manifest


def assert_tidy(folder: Path) -> None:
    """Besides what the manifest names there is nothing."""
    manifest = assert_whole(folder)
    assert set(content(folder)) == {MANIFEST, CARD, *manifest.files}
    assert [info.file for info in manifest.adapters] == [adapter_path(info.name) for info in manifest.adapters]
    assert not list(folder.glob(".*"))


def test_adding_gives_the_file_that_exporting_gives(bundle: Path, swappable_bundle: Exported) -> None:
    before = read_manifest(bundle)
    manifest = add_adapter(bundle, {"again": swappable_bundle.adapters["pfeiffer_five"]})
    assert manifest == read_manifest(bundle)
    new, old = manifest.adapter("again"), manifest.adapter("pfeiffer_five")
    assert replace(new, name=old.name, file=old.file) == old
    assert manifest.adapters[:-1] == before.adapters
    assert (bundle / adapter_path("again")).read_bytes() == (bundle / adapter_path("pfeiffer_five")).read_bytes()
    assert_tidy(bundle)


def test_a_width_the_graph_was_not_exported_with(
    bundle: Path,
    info: ModelInfo,
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> None:
    adapter = random_adapter(info, "bottleneck", 9, labels=tuple("uvwxyz"), reduction_factor=1)
    add_adapter(bundle, {"wide": save_checkpoint(adapter, info)})
    with AdapterSession(bundle) as session:
        batch = {name: value for name, value in inputs_for("bert").items() if name in session.manifest.inputs}
        for name in set(session.manifest.inputs) - set(batch):
            batch[name] = np.zeros_like(batch["input_ids"])
        assert session.run(batch, adapter="wide")["logits"].shape == (3, 6)
        assert session.labels("wide") == tuple("uvwxyz")


def test_a_replaced_adapter(bundle: Path, swappable_bundle: Exported) -> None:
    before = read_manifest(bundle)
    with pytest.raises(OutputExists, match="already has an adapter 'ia3_two'; pass --force to replace it"):
        add_adapter(bundle, {"new": swappable_bundle.adapters["ia3_two"], "ia3_two": swappable_bundle.base})
    for source in ("houlsby_two", "houlsby_two", "ia3_two"):
        manifest = add_adapter(bundle, {"ia3_two": swappable_bundle.adapters[source]}, force=True)
        assert manifest == read_manifest(bundle)
        assert manifest.adapter("ia3_two").sha256 == before.adapter(source).sha256
        assert [info.name for info in manifest.adapters] == [info.name for info in before.adapters]
        assert_tidy(bundle)
    assert read_manifest(bundle) == before


def test_nothing_is_added_when_one_does_not_fit(bundle: Path, swappable_bundle: Exported, tmp_path: Path) -> None:
    before = content(bundle)
    broken = Path(shutil.copytree(swappable_bundle.adapters["houlsby_two"], tmp_path / "broken"))
    (broken / "adapter.safetensors").write_bytes(b"broken")
    good = swappable_bundle.adapters["ia3_two"]
    for adapters in ({"a": good, "b": broken}, {"ia3_three": good, "b": broken}, {"a": good, "b": tmp_path / "no"}):
        with pytest.raises(InputError):
            add_adapter(bundle, adapters, force=True)
        assert content(bundle) == before
        assert not list(bundle.glob(".*"))


@pytest.mark.parametrize("failing", ["write_manifest", "sync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_changes_when_a_write_fails(
    bundle: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    before = content(bundle)
    monkeypatch.setattr(module, failing, fail)
    good = swappable_bundle.adapters["ia3_two"]
    with pytest.raises(type(error)):
        add_adapter(bundle, {"a": good, "houlsby_two": good}, force=True)
    assert content(bundle) == before
    assert not list(bundle.glob(".*"))


def test_an_interrupt_after_the_manifest_took_effect(
    bundle: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_manifest = module.replace_manifest

    def interrupted(own: Workspace, manifest: Manifest) -> None:
        replace_manifest(own, manifest)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "replace_manifest", interrupted)
    good = swappable_bundle.adapters["ia3_two"]
    with pytest.raises(KeyboardInterrupt):
        add_adapter(bundle, {"a": good, "houlsby_two": good}, force=True)
    assert [info.name for info in assert_whole(bundle).adapters][-1] == "a"
    monkeypatch.undo()
    add_adapter(bundle, {"b": good})
    assert_tidy(bundle)


def test_where_tidying_fails_the_adapters_are_in(
    bundle: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    digest = read_manifest(bundle).adapter("ia3_two").sha256
    good = swappable_bundle.adapters["ia3_two"]
    monkeypatch.setattr(module, "read_bytes", fail)
    manifest = add_adapter(bundle, {"houlsby_two": good}, force=True)
    assert manifest == assert_whole(bundle)
    assert manifest.adapter("houlsby_two").sha256 == digest
    assert manifest.adapter("houlsby_two").file == f"{ADAPTERS}/houlsby_two@{digest[:12]}.onnx_adapter"
    monkeypatch.undo()
    add_adapter(bundle, {"b": good})
    assert_tidy(bundle)


def adding(folder: Path, source: Path, **files: str) -> Path:
    """A copy of an adapter's folder whose README.md states the license gpl-3.0, with these files."""
    return licensed(source, folder, "license: gpl-3.0", **files)


def licenses(folder: Path) -> dict[str, str]:
    root = folder / "licenses" / "adapters"
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def licensed_copy(licensed_bundle: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(licensed_bundle.bundle, tmp_path / "licensed"))


def test_licenses_of_added_and_replaced_adapters(
    licensed_copy: Path, licensed_bundle: Exported, swappable_bundle: Exported, tmp_path: Path
) -> None:
    before = licenses(licensed_copy)
    given = swappable_bundle.adapters
    new = adding(tmp_path / "new", given["ia3_three"], LICENSE="of new", NOTICE="of new")
    old = adding(tmp_path / "old", given["ia3_three"], LICENSE="other", COPYING="more")
    manifest = add_adapter(licensed_copy, {"new": new, "ia3_two": old}, force=True)
    assert [info.license for info in manifest.adapters] == ["gpl-3.0", None, "gpl-3.0"]
    assert licenses(licensed_copy) == {
        "houlsby_two/LICENSE": "of houlsby_two\n",
        "ia3_two/LICENSE": "other",
        "ia3_two/COPYING": "more",
        "new/LICENSE": "of new",
        "new/NOTICE": "of new",
    }
    assert_tidy(licensed_copy)
    assert (licensed_copy / CARD).read_text() == card(manifest)
    assert "| new | ia3 |" in card(manifest)
    # One with the same license file, one without any, and back: the bundle is the first one again.
    add_adapter(licensed_copy, {"new": adding(tmp_path / "same", given["ia3_two"], LICENSE="of new")}, force=True)
    assert "new/NOTICE" not in licenses(licensed_copy)
    add_adapter(licensed_copy, {"new": given["ia3_two"], **licensed_bundle.adapters}, force=True)
    assert licenses(licensed_copy) == before
    assert_tidy(licensed_copy)
    assert remove_adapter(licensed_copy, ["new"]) == read_manifest(licensed_bundle.bundle)
    after, first = content(licensed_copy), content(licensed_bundle.bundle)
    # The order of the files in the manifest is another.
    assert {**after, MANIFEST: b""} == {**first, MANIFEST: b""}


def test_where_tidying_fails_the_licenses_are_in(
    licensed_copy: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    given = swappable_bundle.adapters
    other = adding(tmp_path / "other", given["ia3_three"], LICENSE="other")
    monkeypatch.setattr(module, "read_bytes", fail)
    digest = hashlib.sha256(b"other").hexdigest()[:12]
    for _ in range(2):
        manifest = add_adapter(licensed_copy, {"ia3_two": other}, force=True)
        assert manifest == assert_whole(licensed_copy)
        assert set(licenses(licensed_copy)) in (
            {"houlsby_two/LICENSE", f"ia3_two@{digest}/LICENSE"},
            {"houlsby_two/LICENSE", "ia3_two/LICENSE"},
        )
    monkeypatch.undo()
    add_adapter(licensed_copy, {"later": given["ia3_two"]})
    assert licenses(licensed_copy)["ia3_two/LICENSE"] == "other"
    assert_tidy(licensed_copy)
    # The file of the adapter has its usual path afterwards, and only its license has another one at first.
    monkeypatch.setattr(module, "read_bytes", fail)
    add_adapter(licensed_copy, {"ia3_two": other}, force=True)
    monkeypatch.undo()
    add_adapter(licensed_copy, {"ia3_two": adding(tmp_path / "last", given["ia3_two"], LICENSE="last")}, force=True)
    assert licenses(licensed_copy)["ia3_two/LICENSE"] == "last"
    assert_tidy(licensed_copy)


@pytest.mark.parametrize("failing", ["write_manifest", "write_license_files"])
def test_no_license_changes_when_a_write_fails(
    licensed_copy: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = content(licensed_copy)
    other = adding(tmp_path / "other", swappable_bundle.adapters["ia3_three"], LICENSE="other")
    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        add_adapter(licensed_copy, {"a": other, "ia3_two": other}, force=True)
    assert content(licensed_copy) == before
    assert not (licensed_copy / "licenses" / "adapters" / "a").exists()


def test_a_card_that_cannot_be_written_is_a_note(
    bundle: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_card", fail)
    manifest = add_adapter(bundle, {"x": swappable_bundle.adapters["ia3_two"]})
    assert manifest == assert_whole(bundle)
    assert "README.md is not up to date, as it could not be written" in caplog.text
    assert "| x |" not in (bundle / CARD).read_text()
    monkeypatch.undo()
    remove_adapter(bundle, ["ia3_two"])
    assert (bundle / CARD).read_text() == card(read_manifest(bundle))


def test_a_readme_of_the_users(bundle: Path, swappable_bundle: Exported) -> None:
    """A bundle that an older version made has no card, so a README.md in it is somebody's own."""
    write_manifest(bundle, replace(read_manifest(bundle), card=False))
    (bundle / CARD).write_text("mine")
    assert add_adapter(bundle, {"x": swappable_bundle.adapters["ia3_two"]}).card is False
    assert remove_adapter(bundle, ["x"]).card is False
    assert (bundle / CARD).read_text() == "mine"
    assert first_foreign(bundle) == CARD
    (bundle / CARD).unlink()
    manifest = add_adapter(bundle, {"x": swappable_bundle.adapters["ia3_two"]})
    assert (bundle / CARD).read_text() == card(manifest)
    assert first_foreign(bundle) is None
    assert_tidy(bundle)


@pytest.mark.skipif(not hasattr(sys, "addaudithook") or sys.platform == "win32", reason="kills forked processes")
@pytest.mark.slow
def test_killed_at_any_moment_the_licenses_are_the_old_or_the_new_ones(
    licensed_bundle: Exported, swappable_bundle: Exported, tmp_path: Path
) -> None:
    before = read_manifest(licensed_bundle.bundle)
    shutil.copytree(licensed_bundle.bundle, tmp_path / "given" / "bundle")
    given = swappable_bundle.adapters
    new = adding(tmp_path / "new", given["ia3_three"], LICENSE="of new")
    old = adding(tmp_path / "old", given["ia3_three"], LICENSE="other", COPYING="more")
    script = Path(__file__).parents[1] / "outputs" / "killed.py"
    done = subprocess.run(
        [sys.executable, str(script), "add", str(tmp_path), f"new={new}", f"ia3_two={old}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 20
    outcomes = []
    for count in range(1, last + 1):
        folder = tmp_path / f"after-{count}" / "bundle"
        manifest = assert_whole(folder)
        old_one = manifest == before
        digests = set(manifest.licenses("ia3_two").values())
        texts = ("of ia3_two\n",) if old_one else ("other", "more")
        assert digests == {hashlib.sha256(text.encode()).hexdigest() for text in texts}
        assert len(manifest.licenses("new")) == (0 if old_one else 1)
        outcomes.append(old_one)
        add_adapter(folder, {"later": given["ia3_three"]})
        assert_tidy(folder)
        assert (folder / CARD).read_text() == card(read_manifest(folder))
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[0]
    assert not outcomes[-1]


@pytest.mark.skipif(not hasattr(sys, "addaudithook") or sys.platform == "win32", reason="kills forked processes")
@pytest.mark.slow
def test_killed_at_any_moment_the_bundle_is_the_old_or_the_new_one(swappable_bundle: Exported, tmp_path: Path) -> None:
    before = read_manifest(swappable_bundle.bundle)
    shutil.copytree(swappable_bundle.bundle, tmp_path / "given" / "bundle")
    adapters = swappable_bundle.adapters
    arguments = [
        f"new={adapters['ia3_two']}",
        f"houlsby_two={adapters['pfeiffer_five']}",
        f"ia3_two={adapters['ia3_two']}",
    ]
    script = Path(__file__).parents[1] / "outputs" / "killed.py"
    done = subprocess.run(
        [sys.executable, str(script), "add", str(tmp_path), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 15
    outcomes = []
    for count in range(1, last + 1):
        folder = tmp_path / f"after-{count}" / "bundle"
        manifest = assert_whole(folder)
        old = manifest == before
        if not old:
            assert manifest.adapter("new").sha256 == before.adapter("ia3_two").sha256
            assert manifest.adapter("houlsby_two").sha256 == before.adapter("pfeiffer_five").sha256
            assert manifest.adapter("houlsby_two").labels == before.adapter("pfeiffer_five").labels
        outcomes.append(old)
        # Whatever was left lying there, the next one removes.
        add_adapter(folder, {"later": adapters["ia3_three"]})
        assert_tidy(folder)
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[0]
    assert not outcomes[-1]
    assert_tidy(tmp_path / f"after-{last}" / "bundle")


def test_one_waits_for_another_command_as_long_as_it_is_told_to(bundle: Path, swappable_bundle: Exported) -> None:
    before = content(bundle)
    given = {"x": swappable_bundle.adapters["ia3_two"]}
    with (
        workspace(bundle, inside=True),
        pytest.raises(OutputBusy, match=r"another command is writing it \(process \d+ on .*\); waited 0.2 s for it"),
    ):
        add_adapter(bundle, given, lock_timeout=0.2)
    assert content(bundle) == before
    add_adapter(bundle, given, lock_timeout=0)
    assert_tidy(bundle)


def test_a_strangers_record_removes_nothing_out_of_its_bundle(bundle: Path, swappable_bundle: Exported) -> None:
    """A bundle may come with what looks like the rest of a killed command."""
    (bundle.parent / "precious").touch()
    (bundle / "linked").symlink_to(bundle.parent)
    (bundle / "notes.txt").touch()
    (bundle / "licenses" / "base").mkdir(parents=True)
    (bundle / "licenses" / "base" / "LICENSE").touch()
    outside = str(bundle.parent / "precious")
    for path in ("../precious", outside, "linked/precious", "adapters/../../precious", "notes.txt", MODEL, CARD,
                 "licenses/adapters/../../notes.txt", "licenses/base/LICENSE"):  # fmt: skip
        folder = bundle / ".adapter-export"
        folder.mkdir()
        record = asdict(record_of(bundle, ()))
        (folder / "record.json").write_text(json.dumps({**record, "placed": [path]}))
        before = content(bundle)
        with suppress(InputError):  # a record that leads out of the bundle is none of ours
            add_adapter(bundle, {"x": swappable_bundle.adapters["ia3_two"]}, force=True)
        shutil.rmtree(folder, ignore_errors=True)
        assert (bundle.parent / "precious").exists()
        assert (bundle / "notes.txt").exists()
        assert (bundle / "licenses" / "base" / "LICENSE").exists()
        assert (bundle / CARD).exists()
        assert content(bundle)[MODEL] == before[MODEL]


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_at_once_are_both_added(bundle: Path, swappable_bundle: Exported) -> None:
    code = "import sys, adapter_export as a; a.add_adapter(sys.argv[1], {sys.argv[2]: sys.argv[3]})"
    checkpoint = str(swappable_bundle.adapters["ia3_two"])
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(bundle), name, checkpoint], stderr=subprocess.PIPE)
        for name in ("x", "y", "z")
    ]
    for process in running:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert {"x", "y", "z"} <= {info.name for info in read_manifest(bundle).adapters}
    assert_tidy(bundle)


class TestRefusals:
    @pytest.mark.parametrize("mode", ["embedded", "merged"])
    def test_an_adapter_in_the_graph(
        self, request: pytest.FixtureRequest, swappable_bundle: Exported, mode: str
    ) -> None:
        exported: Exported = request.getfixturevalue(f"{mode}_bundle")
        with pytest.raises(InputError, match=f"mode '{mode}' holds its adapter in the graph; expected swap"):
            add_adapter(exported.bundle, {"x": swappable_bundle.adapters["ia3_two"]})

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ((), "expected at least one adapter"),
            (("../x",), "adapter name '../x'"),
            (("IA3_two",), "'IA3_two': differs from 'ia3_two' in upper and lower case only"),
            (("x", "X"), "'X': differs from 'x' in upper and lower case only"),
        ],
    )
    def test_names(self, bundle: Path, swappable_bundle: Exported, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            add_adapter(bundle, dict.fromkeys(names, swappable_bundle.adapters["ia3_two"]))

    def test_a_place_the_graph_does_not_have(
        self,
        bundle: Path,
        info: ModelInfo,
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        adapter = random_adapter(info, "bottleneck", placement="houlsby", activation="gelu")
        with pytest.raises(
            InputError, match=r"adapter x: tensor '.*bottleneck_gelu\.down': the graph has no such tens"
        ):
            add_adapter(bundle, {"x": save_checkpoint(adapter, info)})

    def test_no_head_where_the_base_model_has_none(
        self,
        bundle: Path,
        info: ModelInfo,
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        adapter = replace(random_adapter(info, "bottleneck"), head={}, labels=None)
        with pytest.raises(InputError, match=r"adapter x: expected a task head \(text-classification\), as the base"):
            add_adapter(bundle, {"x": save_checkpoint(adapter, info)})

    def test_another_base_model(
        self,
        bundle: Path,
        tiny_info: Callable[..., ModelInfo],
        random_adapter: Callable[..., Adapter],
        save_checkpoint: Callable[..., Path],
    ) -> None:
        other = tiny_info("bert", "text-classification")
        with pytest.raises(InputError, match="field 'base_sha256': trained on a base model with weights"):
            add_adapter(bundle, {"x": save_checkpoint(random_adapter(other, "ia3"), other)})

    def test_a_folder_that_is_no_bundle(self, tmp_path: Path, swappable_bundle: Exported) -> None:
        with pytest.raises(InputError, match="the folder is not a bundle"):
            add_adapter(tmp_path, {"x": swappable_bundle.adapters["ia3_two"]})

    def test_a_language_model_head_cannot_be_compared_here(
        self, bundle: Path, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from adapter_export.checkpoints.adapter import LM_HEAD, HeadLayer

        def load(path: Path, info: ModelInfo, **options: object) -> Adapter:
            return Adapter("ia3", {}, {LM_HEAD: HeadLayer(np.ones((2, 2), "f4"), None)})

        monkeypatch.setattr(module, "load_adapter", load)
        monkeypatch.setattr(module, "read_manifest", lambda folder: replace(read_manifest(folder), task="causal-lm"))
        monkeypatch.setattr(module, "stated_task", lambda *_: StatedTask("causal-lm"))
        with pytest.raises(InputError, match="adapter x: carries 'lm_head', which only an export"):
            add_adapter(bundle, {"x": swappable_bundle.adapters["ia3_two"]})


def test_a_head_is_left_out_on_request_where_the_graph_has_none(
    features_bundle: Exported,
    tmp_path: Path,
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Never without the user's consent, and then with a note and without class names."""
    bundle = Path(shutil.copytree(features_bundle.bundle, tmp_path / "bundle"))
    info = load_base(features_bundle.base, "text-classification").info
    adapter = random_adapter(info, "ia3", labels=("a", "b"))
    assert adapter.head
    folder = save_checkpoint(adapter, info)
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"adapter x: brings a task head \(classifier\), and the bundle is"):
        add_adapter(bundle, {"x": folder})
    assert (bundle / "manifest.json").read_bytes() == before
    manifest = add_adapter(bundle, {"x": folder}, task="features")
    assert manifest.adapter("x").labels is None
    assert "its task head (classifier) is left out" in caplog.text
    tensors = module.graph_tensors("x", adapter, manifest)
    assert tensors
    assert not any(".head." in name for name in tensors)
    assert (bundle / MODEL).exists()


def test_needs_neither_torch_nor_transformers(bundle: Path, swappable_bundle: Exported) -> None:
    code = (
        "import sys\n"
        "from adapter_export import add_adapter\n"
        "add_adapter(sys.argv[1], {'x': sys.argv[2], 'y': sys.argv[3]})\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    adapters = [str(swappable_bundle.adapters[name]) for name in ("ia3_two", "houlsby_two")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), *adapters], capture_output=True, text=True, check=True
    )
    assert "onnxruntime" in done.stdout.split()
    assert not {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "peft"} & set(done.stdout.split())
