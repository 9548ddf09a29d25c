"""README.md of a bundle: what it says, that the hub can read it, and that texts of others stay texts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from adapter_export.bundle.card import card, write_card
from adapter_export.bundle.manifest import read_manifest
from tests.bundles import Exported

# What a stranger's text may try: to end the cell, the line and the block, to be a link, a picture, HTML or a terminal
# sequence.
EVIL = "a|b\n---\nlicense: mit\n# Title [x](http://e) ![y](z) <script> `c` **b** \x1b[2J\u202e www.e.org $m$ \ufffe"


def block(text: str) -> Mapping[str, Any]:
    """The front matter, as the hub's own library reads it."""
    data: dict[str, Any] = ModelCard(text).data.to_dict()
    assert data == yaml.safe_load(text.split("---\n")[1])
    return data


def cells(text: str, first: str) -> list[str]:
    """The row of a table that begins with this cell, split as Markdown splits it."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]


def test_what_it_says(licensed_bundle: Exported) -> None:
    manifest = read_manifest(licensed_bundle.bundle)
    text = (licensed_bundle.bundle / "README.md").read_text()
    assert text == card(manifest)
    assert block(text) == {
        "license": "other",
        "license_name": "base-model-and-adapters",
        "base_model": "org/name",
        "library_name": "onnxruntime",
        "tags": ["adapter-export", "onnx", "bottleneck", "ia3"],
    }
    two, houlsby = (manifest.adapter(name) for name in ("ia3_two", "houlsby_two"))
    assert cells(text, "ia3\\_two") == ["ia3\\_two", "ia3", "no, yes", "mit", "a folder", two.sha256]
    assert cells(text, "houlsby\\_two") == [
        "houlsby\\_two", "bottleneck", "off, on", "not stated", "a folder", houlsby.sha256
    ]  # fmt: skip
    assert "License of the base model: apache-2.0. " in text
    assert cells(text, "task") == ["task", "text-classification"]
    assert "| `model.onnx` | input | input\\_ids | int64 | batch x sequence |" in text
    assert "| `model.onnx` | output | logits | float32 | batch x num\\_labels |" in text
    assert "Its mode is *swappable*" in text
    assert f"Made by adapter-export {manifest.project_version}" in text
    assert "in the folder `licenses`, unchanged" in text


def test_licenses_of_the_bundle(licensed_bundle: Exported) -> None:
    manifest = read_manifest(licensed_bundle.bundle)
    assert (manifest.base_license, manifest.base_name, manifest.base_source) == ("apache-2.0", "org/name", None)
    assert [info.license for info in manifest.adapters] == ["mit", None]
    for path, data in {
        "licenses/base/LICENSE": b"of base\r\n",
        "licenses/base/NOTICE": b"n",
        "licenses/adapters/ia3_two/LICENSE": b"of ia3_two\n",
        "licenses/adapters/houlsby_two/LICENSE": b"of houlsby_two\n",
    }.items():
        assert (licensed_bundle.bundle / path).read_bytes() == data
        assert path in manifest.files
    assert "README.md" not in manifest.files
    assert manifest.card


@pytest.mark.parametrize(
    "fixture",
    ["swappable_bundle", "bank_bundle", "embedded_bundle", "merged_bundle", "features_bundle", "llama_bundle"],
)
def test_its_program_runs(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(fixture).bundle
    text = (bundle / "README.md").read_text()
    assert block(text)["license"] == "unknown"
    assert "in the folder `licenses`" not in text
    run(text, bundle)


def run(text: str, bundle: Path) -> None:
    program = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in program.splitlines() if line]) <= 7
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=bundle, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_program_without_a_tokenizer(swappable_bundle: Exported) -> None:
    manifest = read_manifest(swappable_bundle.bundle)
    files = {name: digest for name, digest in manifest.files.items() if name != "tokenizer.json"}
    run(card(replace(manifest, files=files)), swappable_bundle.bundle)
    run(card(replace(manifest, files=files, adapters=())), swappable_bundle.bundle)


def test_texts_of_others(licensed_bundle: Exported) -> None:
    before = read_manifest(licensed_bundle.bundle)
    first = replace(before.adapters[0], labels=(EVIL, "x"), license=EVIL, source=EVIL, method=EVIL)
    evil = replace(
        before,
        adapters=(first, *before.adapters[1:]),
        base=replace(before.base, architecture=EVIL, model_type=EVIL),
        base_source=EVIL, base_license=EVIL, base_name=EVIL, project_version=EVIL,
    )  # fmt: skip
    text = card(evil)
    assert len(cells(text, "ia3\\_two")) == 6
    found, plain = block(text), card(before)
    assert set(found) == {"license", "license_name", "base_model", "library_name", "tags"}
    # The same lines and no others: the text adds none, and begins none.
    assert len(text.splitlines()) == len(plain.splitlines())
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        line for line in plain.splitlines() if line.startswith("#")
    ][1:]
    body = text.split("---\n", 2)[2]
    for markup in (r"\]\(http", r"(?<!\\)<script", " `c`", r"\*\*b", "\x1b", "\u202e", r"www\.e", "http://"):
        assert re.search(markup, body) is None, markup


def test_many_labels(swappable_bundle: Exported) -> None:
    manifest = read_manifest(swappable_bundle.bundle)
    first = replace(manifest.adapters[0], labels=tuple(f"label {number}" for number in range(1000)))
    text = card(replace(manifest, adapters=(first,)))
    assert cells(text, "ia3\\_two")[2] == ", ".join(f"label {number}" for number in range(10)) + ", and 990 more"


def test_writing_it(swappable_bundle: Exported, tmp_path: Path) -> None:
    manifest = read_manifest(swappable_bundle.bundle)
    write_card(tmp_path, manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_bytes() == (swappable_bundle.bundle / "README.md").read_bytes()
