"""Checks of a bundle as a whole: its files, its labels, and that no run affects a later one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.parity.bundle_runner import BundleRunner
from adapter_export.parity.cases import ParityCase, TextLimits, image_cases, text_cases
from adapter_export.parity.checks.bundle import check_files, check_labels, check_repeats, check_rows, repeat_case
from adapter_export.parity.criteria.judge import Verdict
from tests.bundles import Exported


@pytest.fixture
def copied(swappable_bundle: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "copy"))


def test_files_as_the_manifest_has_them(swappable_bundle: Exported) -> None:
    assert check_files(read_manifest(swappable_bundle.bundle), swappable_bundle.bundle).verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["model.onnx", "adapters/ia3_two.onnx_adapter", "tokenizer.json"])
def test_a_flipped_bit_is_found(name: str, copied: Path) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    check = check_files(read_manifest(copied), copied)
    assert check.verdict is Verdict.FAIL
    assert check.detail.startswith(f"{copied / name}: sha256 ")


def test_a_stale_file_is_found(copied: Path) -> None:
    shutil.copyfile(copied / "adapters/houlsby_two.onnx_adapter", copied / "adapters/houlsby_four.onnx_adapter")
    assert "houlsby_four.onnx_adapter: sha256" in check_files(read_manifest(copied), copied).detail


def test_a_missing_file_is_found(copied: Path) -> None:
    (copied / "config.json").unlink()
    check = check_files(read_manifest(copied), copied)
    assert check.verdict is Verdict.FAIL
    assert check.detail.endswith("config.json: named by the manifest, but missing")


def test_a_manifest_that_contradicts_itself(copied: Path) -> None:
    manifest = read_manifest(copied)
    first, *others = manifest.adapters
    assert first.file is not None
    for wrong in (
        replace(manifest, adapters=(replace(first, sha256="0" * 64), *others)),
        replace(manifest, files={name: digest for name, digest in manifest.files.items() if name != first.file}),
    ):
        assert check_files(wrong, copied).verdict is Verdict.FAIL


@pytest.fixture
def loaded(swappable_bundle: Exported) -> tuple[Manifest, dict[str, Adapter]]:
    manifest = read_manifest(swappable_bundle.bundle)
    return manifest, {name: load_adapter(path, manifest.base) for name, path in swappable_bundle.adapters.items()}


def test_labels(loaded: tuple[Manifest, dict[str, Adapter]]) -> None:
    manifest, adapters = loaded
    assert check_labels(manifest, adapters, {}).verdict is Verdict.PASS
    first, *others = manifest.adapters
    assert first.labels == ("no", "yes")
    for labels, found in ((("yes", "no"), "yes, no"), (None, "none")):
        wrong = replace(manifest, adapters=(replace(first, labels=labels), *others))
        check = check_labels(wrong, adapters, {})
        assert check.verdict is Verdict.FAIL
        assert check.detail == f"adapter ia3_two: expected no, yes by the checkpoint, found {found}"


def test_an_adapter_without_a_head_has_no_labels_to_check(loaded: tuple[Manifest, dict[str, Adapter]]) -> None:
    manifest, adapters = loaded
    bare = {name: replace(adapter, head={}, labels=None) for name, adapter in adapters.items()}
    assert check_labels(manifest, bare, {}).verdict is Verdict.PASS


def test_the_repeated_case_has_rows_and_padding() -> None:
    assert repeat_case(text_cases(TextLimits(50, 0, 2, 64, 32))) == ParityCase(3, 9, "left")
    assert repeat_case(image_cases()) == ParityCase(3)


class Forgetful(BundleRunner):
    """A runner whose runs affect later ones: it adds the number of runs since the last one of `adapter` to its outputs.

    A broken one raises instead.
    """

    def __init__(self, leak: float, broken: bool = False) -> None:
        self.leak, self.broken, self.names = leak, broken, list[str | None]()

    @property
    def has_off_state(self) -> bool:
        return True

    def on(self, inputs: Mapping[str, np.ndarray], adapter: str) -> dict[str, np.ndarray]:
        return self.off(inputs, adapter)

    def off(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        if self.broken:
            raise InputError("no such shape")
        self.names.append(adapter)
        return {"logits": np.float32([len(self.names) * self.leak])}


def test_every_adapter_is_run_again_after_another_and_after_none() -> None:
    runner = Forgetful(leak=0)
    assert check_repeats(runner, {}, ["a", "b"]).verdict is Verdict.PASS
    assert runner.names == ["a", "b", None, "a", "b", "a", None, "b"]


@pytest.mark.parametrize(
    ("runner", "detail"),
    [
        (Forgetful(leak=1e-7), "adapter a: other bits after another adapter ran"),
        (Forgetful(leak=0, broken=True), "adapter a: did not run: no such shape"),
    ],
)
def test_different_bits_after_another_adapter_fail(runner: BundleRunner, detail: str) -> None:
    check = check_repeats(runner, {}, ["a", "b"])
    assert (check.verdict, check.detail) == (Verdict.FAIL, detail)


class Mixing:
    """A runner that returns the number of tokens of each row, plus a share of that of the longest row."""

    def __init__(self, share: float) -> None:
        self._share = share

    def on(self, inputs: Mapping[str, np.ndarray], adapter: str) -> dict[str, np.ndarray]:
        ids = inputs["input_ids"].astype(np.float32)
        kept = inputs["attention_mask"].sum(axis=1).max()
        return {"logits": ids[:, :1] + self._share * kept, "last_hidden_state": np.stack([ids, ids + 1], axis=-1)}


def test_a_row_that_depends_on_other_rows_fails(swappable_bundle: Exported) -> None:
    """A graph whose rows depend on the length of the longest row fails, as that of LongRoPE did."""
    inputs = {
        "input_ids": np.array([[5, 6, 7], [8, 9, 0]], np.int64),
        "attention_mask": np.array([[1, 1, 1], [1, 1, 0]], np.int64),
    }
    manifest = read_manifest(swappable_bundle.bundle)
    nothing = check_rows(manifest, cast("BundleRunner", Mixing(-np.inf)), inputs, ["one"])
    assert nothing.verdict is Verdict.PASS, "what is no number is judged elsewhere"
    right = check_rows(manifest, cast("BundleRunner", Mixing(0.0)), inputs, ["one"])
    assert right.verdict is Verdict.PASS
    wrong = check_rows(manifest, cast("BundleRunner", Mixing(0.1)), inputs, ["one"])
    assert wrong.verdict is Verdict.FAIL
    assert "row 1 of a batch is " in wrong.detail
    assert "from the same row alone, logits" in wrong.detail
