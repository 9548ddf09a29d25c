"""A bundle pinned by its manifest's digest: whoever can write to its folder cannot change what runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from adapter_export.bundle.add import add_adapter
from adapter_export.cli import main
from adapter_export.errors import AdapterExportError, InputError
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.runtime.adapters.watching import BundleWatch
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

IDS = np.array([[5, 6, 7]])
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


@pytest.fixture
def bundle(swappable_bundle: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def forged(bundle: Path, name: str, content: bytes) -> None:
    """A file replaced by somebody who can write a manifest that fits."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = digest(bundle / name)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_the_very_bundle_runs(bundle: Path) -> None:
    with AdapterSession(bundle) as plain, AdapterSession(bundle, expect_sha256=digest(bundle / MANIFEST)) as pinned:
        for adapter in (None, "ia3_two"):
            expected = plain.run(INPUTS, adapter)["logits"]
            assert np.array_equal(pinned.run(INPUTS, adapter)["logits"], expected)


def test_a_forged_manifest_is_found_before_it_is_read(bundle: Path) -> None:
    pin = digest(bundle / MANIFEST)
    forged(bundle, "tokenizer.json", b"{}")
    AdapterSession(bundle).close()
    message = rf"^{bundle / MANIFEST}: expected the file with sha256 {pin}, found {digest(bundle / MANIFEST)}$"
    with pytest.raises(InputError, match=message):
        AdapterSession(bundle, expect_sha256=pin)
    (bundle / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="expected the file with sha256"):
        AdapterSession(bundle, expect_sha256=pin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bundle: (bundle / "model.onnx").write_bytes(b"x"), "model.onnx: expected a file with sha256"),
        (lambda bundle: (bundle / "tokenizer.json").write_text("{}"), "tokenizer.json: expected a file with sha256"),
        (lambda bundle: (bundle / "tokenizer_config.json").unlink(), "tokenizer_config.json: no such file"),
        (
            lambda bundle: (bundle / "chat_template.jinja").write_text("{{ 1 }}"),
            "chat_template.jinja: expected only files that the bundle's manifest lists",
        ),
        (
            lambda bundle: (bundle / "adapters" / "other").write_text("x"),
            "adapters/other: expected only files that the bundle's manifest lists",
        ),
    ],
)
def test_files_beside_the_manifest(bundle: Path, change: Callable[[Path], Any], message: str) -> None:
    pin = digest(bundle / MANIFEST)
    change(bundle)
    with pytest.raises(InputError, match=message):
        AdapterSession(bundle, expect_sha256=pin)


def test_an_adapter_that_was_changed(bundle: Path) -> None:
    pin = digest(bundle / MANIFEST)
    with AdapterSession(bundle, expect_sha256=pin) as session:
        file = bundle / "adapters" / "ia3_two.onnx_adapter"
        file.write_bytes((bundle / "adapters" / "ia3_three.onnx_adapter").read_bytes())
        with pytest.raises(InputError, match=r"ia3_two.onnx_adapter: expected a file with sha256"):
            session.run(INPUTS, "ia3_two")


def test_what_add_changes_is_not_followed(bundle: Path, swappable_bundle: Exported) -> None:
    told: list[AdapterExportError] = []
    pin = digest(bundle / MANIFEST)
    with (
        AdapterSession(bundle, expect_sha256=pin) as session,
        BundleWatch(session, seconds=3600.0, on_error=told.append) as watch,
    ):
        before = session.run(INPUTS, "ia3_two")["logits"]
        add_adapter(bundle, {"ia3_two": swappable_bundle.adapters["houlsby_two"]}, force=True)
        watch.look()
        assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], before)
        with pytest.raises(InputError, match=r"manifest.json: expected the file with sha256"):
            session.load("ia3_two")
    assert ["expected the file with sha256" in str(error) for error in told] == [True]
    with AdapterSession(bundle, expect_sha256=digest(bundle / MANIFEST)) as session:
        assert not np.array_equal(session.run(INPUTS, "ia3_two")["logits"], before)


@pytest.mark.parametrize("wrong", ["", "abc", "0" * 63, "g" * 64, "A" * 64, "0" * 65])
def test_what_is_no_digest(bundle: Path, wrong: str) -> None:
    with pytest.raises(InputError, match="expect_sha256: expected 64 hexadecimal digits"):
        AdapterSession(bundle, expect_sha256=wrong)


def test_unread_files_cannot_be_pinned(bundle: Path) -> None:
    with pytest.raises(InputError, match="expected verify=True"):
        AdapterSession(bundle, expect_sha256=digest(bundle / MANIFEST), verify=False)


def test_the_command_and_inspect(bundle: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(bundle), "--json"])
    pin = json.loads(shown.stdout)["manifest_sha256"]
    assert pin == digest(bundle / MANIFEST)
    assert pin in CliRunner().invoke(main, ["inspect", str(bundle)], env={"COLUMNS": "200"}).stdout
    run = ["run", "--bundle", str(bundle), "--adapter", "ia3_two", "--text", "good", "--json", "--expect-sha256"]
    assert CliRunner().invoke(main, [*run, pin]).exit_code == 0
    refused = CliRunner().invoke(main, [*run, "0" * 64])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"error: {bundle / MANIFEST}: expected the file with sha256 {'0' * 64}, found {pin}\n"


def test_licenses_and_the_card(licensed_bundle: Exported, tmp_path: Path) -> None:
    """The card is not pinned, as nothing reads it. Nothing reads license files either, but the manifest lists them."""
    bundle = Path(shutil.copytree(licensed_bundle.bundle, tmp_path / "licensed"))
    pin = digest(bundle / MANIFEST)
    (bundle / "README.md").write_text("another one")
    AdapterSession(bundle, expect_sha256=pin).close()
    (bundle / "README.md").unlink()
    AdapterSession(bundle, expect_sha256=pin).close()
    license_file = bundle / "licenses" / "adapters" / "ia3_two" / "LICENSE"
    license_file.write_text("another one")
    # `add` may replace it at this moment.
    AdapterSession(bundle).close()
    with pytest.raises(InputError, match=r"ia3_two/LICENSE: expected the file that the bundle's manifest lists"):
        AdapterSession(bundle, expect_sha256=pin)
    (bundle / "licenses" / "base" / "LICENSE").write_text("another one")
    with pytest.raises(InputError, match=r"base/LICENSE: expected a file with sha256"):
        AdapterSession(bundle)
