"""Bundles of older versions of the format: `tests/goldens/bundles/version-N`, by the program of that version.

Beside each lies what it computed then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adapter_export import AdapterSession, add_adapter
from adapter_export.bundle.manifest import FORMAT_VERSION, read_manifest
from adapter_export.bundle.versions import upgraded
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.typed import WrongField

GOLDENS = Path(__file__).parents[1] / "goldens" / "bundles"
VERSIONS = sorted(folder.name for folder in GOLDENS.iterdir())
every_bundle = pytest.mark.parametrize(
    ("version", "mode"), [(version, mode) for version in VERSIONS for mode in ("swappable", "bank")]
)


def test_there_is_a_golden_of_every_version_before_this_one() -> None:
    assert [f"version-{number}" for number in range(1, FORMAT_VERSION)] == VERSIONS


@every_bundle
def test_it_answers_as_it_did(version: str, mode: str) -> None:
    golden = np.load(GOLDENS / version / "io.npz")
    inputs = {name.removeprefix("input."): golden[name] for name in golden.files if name.startswith("input.")}
    with AdapterSession(GOLDENS / version / mode) as session:
        for adapter in (None, "ia3", "houlsby"):
            rows = {"adapters": [adapter] * len(inputs["input_ids"])} if mode == "bank" else {"adapter": adapter}
            found = session.run(inputs, **rows)["logits"]
            # The graph is the same; the processor may be another.
            np.testing.assert_allclose(found, golden[f"{mode}.{adapter or 'base'}"], rtol=1e-5, atol=1e-5)


@every_bundle
def test_an_adapter_is_added_and_makes_it_one_of_today(version: str, mode: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(GOLDENS / version / mode, bundle)
    before = read_manifest(bundle)
    after = add_adapter(bundle, {"later": GOLDENS / version / "later"})
    assert json.loads((bundle / MANIFEST).read_text())["format_version"] == FORMAT_VERSION
    assert read_manifest(bundle) == after
    assert after.sites == before.sites
    with AdapterSession(bundle) as session:
        assert session.adapters == ("ia3", "houlsby", "later")


def test_what_version_2_has_at_each_site(tmp_path: Path) -> None:
    tensor = {"dtype": "float32", "shape": [8]}
    site = {"module": "m", "method": "ia3", "tensors": {"m.ia3.l": tensor}, "default": 1.0}
    head = {"module": "c", "method": "head", "tensors": {"c.head.bias": tensor}, "default": None}
    (tmp_path / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 64}')
    new = upgraded({"format_version": 1, "sites": [site, head]}, 2, tmp_path)
    assert new == {
        "format_version": 2,
        "longest_text": 64,
        "sites": [
            {
                "module": "m",
                "role": "adapter",
                "method": "ia3",
                "op_name": "ia3",
                "tensors": {"m.ia3.l": {**tensor, "default": 1.0}},
            },
            {
                "module": "c",
                "role": "head",
                "method": None,
                "op_name": "head",
                "tensors": {"c.head.bias": {**tensor, "default": None}},
            },
        ],
    }


@pytest.mark.parametrize("sites", [None, 3, [3], [{"tensors": 3, "default": 1}], [{"tensors": {"a": 3}, "default": 1}]])
def test_what_is_broken_stays_broken(sites: object, tmp_path: Path) -> None:
    new = upgraded({"format_version": 1, "sites": sites}, 2, tmp_path)
    assert new["format_version"] == 2
    assert "default" not in str(new["sites"]) or sites == [{"tensors": 3, "default": 1}]


@pytest.mark.parametrize("version", [0, 3, -1, True, 1.0, "1", None, 10**40])
def test_another_version_is_refused(version: object, tmp_path: Path) -> None:
    with pytest.raises(WrongField, match="field 'format_version': expected 1 to 2, found"):
        upgraded({"format_version": version}, 2, tmp_path)
