"""README.md, the license files and the licenses in the receipt of a merged model, over one merge and several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard

from adapter_export import inspect, merge, plan_merge
from adapter_export.cli import main
from adapter_export.merging.card import Origin, card
from adapter_export.outputs.ownership import first_foreign
from tests.merging.models import write_adapter, write_model


def readme(folder: Path, block: str) -> Path:
    (folder / "README.md").write_text(f"---\n{block}\n---\n# Card of {folder.name}\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = readme(write_model(tmp_path / "model"), "license: apache-2.0\nbase_model: org/older")
    (folder / "LICENSE").write_bytes(b"of the base\r\n")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = readme(write_adapter(tmp_path / "one"), "license: apache-2.0\nbase_model: org/name")
    (folder / "NOTICE").write_bytes(b"of one\n")
    return folder


def receipt(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_export.json").read_text())
    return found


def licenses(folder: Path) -> dict[str, str]:
    root = folder / "licenses"
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def block(folder: Path) -> dict[str, Any]:
    """The front matter, as the hub's own library reads it."""
    data: dict[str, Any] = ModelCard.load(folder / "README.md").data.to_dict()
    return data


def test_one_merge(model: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = merge(model, adapter, out)
    assert block(out) == {
        "license": "apache-2.0",
        "base_model": "org/name",
        "library_name": "transformers",
        "tags": ["adapter-export", "merged-adapter", "ia3"],
    }
    (entry,) = receipt(out)["merged"]
    assert (entry["adapter_license"], entry["base_license"]) == ("apache-2.0", "apache-2.0")
    text = (out / "README.md").read_text()
    digest, base = entry["adapter_sha256"], entry["base_sha256"]
    assert f"| one | ia3 | none | apache-2.0 | a folder | {digest} | float32 | adapter-export 0.1.0 |" in text
    assert f"| sha256 of its weights | {base} |" in text
    assert "License of the base model: apache-2.0. " in text
    assert "Its own model card is `README.base.md`, unchanged." in text
    assert (out / "README.base.md").read_bytes() == (model / "README.md").read_bytes()
    assert (out / "LICENSE").read_bytes() == (out / "licenses/base/LICENSE").read_bytes() == b"of the base\r\n"
    assert licenses(out) == {"base/LICENSE": "of the base\n", "adapters/one/NOTICE": "of one\n"}
    assert {"README.md", "README.base.md", "licenses/adapters/one/NOTICE"} <= set(receipt(out)["files"])
    assert first_foreign(out) is None
    assert result.left_out == ()
    (merged,) = inspect(out).merged  # type: ignore[attr-defined]
    assert (merged.adapter_license, merged.base_license) == ("apache-2.0", "apache-2.0")


def test_nothing_stated(tmp_path: Path) -> None:
    merge(write_model(tmp_path / "model"), write_adapter(tmp_path / "one"), tmp_path / "out")
    assert block(tmp_path / "out")["license"] == "unknown"
    (entry,) = receipt(tmp_path / "out")["merged"]
    assert (entry["adapter_license"], entry["base_license"]) == (None, None)
    assert not (tmp_path / "out" / "licenses").exists()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## The base model" not in text
    assert "in the folder `licenses`" not in text


def test_a_second_merge_keeps_what_the_first_one_wrote(model: Path, adapter: Path, tmp_path: Path) -> None:
    merge(model, adapter, tmp_path / "first")
    # The same name, and another license.
    second = readme(write_adapter(tmp_path / "other" / "one", seed=2), "license: mit")
    (second / "LICENSE").write_text("of two\n")
    result = merge(tmp_path / "first", second, tmp_path / "second")
    out = tmp_path / "second"
    assert [one["adapter_license"] for one in receipt(out)["merged"]] == ["apache-2.0", "mit"]
    assert [one["base_license"] for one in receipt(out)["merged"]] == ["apache-2.0", "apache-2.0"]
    assert licenses(out) == {
        "base/LICENSE": "of the base\n",
        "adapters/one/NOTICE": "of one\n",
        "adapters/one-2/LICENSE": "of two\n",
    }
    assert (block(out)["license"], block(out)["base_model"]) == ("other", "org/name")
    text = (out / "README.md").read_text()
    assert text.count("| one | ia3 |") == 2
    assert "Its own model card is `README.base.md`, unchanged." in text
    assert (out / "README.base.md").read_bytes() == (model / "README.md").read_bytes()
    assert not list(out.glob("README.base.*.md"))
    assert result.left_out == ()
    assert first_foreign(out) is None
    # The base model is still that of the first merge, whatever the folder says since.
    (out / "LICENSE").write_text("another one")
    merge(out, write_adapter(tmp_path / "three", seed=3), tmp_path / "third")
    assert [one["base_license"] for one in receipt(tmp_path / "third")["merged"]] == ["apache-2.0"] * 3
    assert licenses(tmp_path / "third") == licenses(out)


def test_two_adapters_of_one_name(tmp_path: Path) -> None:
    paths = [write_adapter(tmp_path / name / "Same", seed) for seed, name in enumerate("ab")]
    for path in paths:
        (path / "LICENSE").write_text(path.parent.name)
    merge(write_model(tmp_path / "model"), paths, tmp_path / "out")
    assert licenses(tmp_path / "out") == {"adapters/Same/LICENSE": "a", "adapters/Same-2/LICENSE": "b"}


def test_a_name_that_is_not_valid_everywhere(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / ".a|b ")
    (path / "LICENSE").write_text("a")
    merge(write_model(tmp_path / "model"), path, tmp_path / "out")
    assert licenses(tmp_path / "out") == {"adapters/adapter/LICENSE": "a"}
    assert "| .a\\|b | ia3 |" in (tmp_path / "out" / "README.md").read_text()


def test_the_name_of_the_base_models_card(model: Path, adapter: Path, tmp_path: Path) -> None:
    """A file of that name may be there already, and the file system may not tell upper from lower case."""
    (model / "README.md").rename(model / "readme.md")
    (model / "README.BASE.md").write_text("mine")
    merge(model, adapter, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").glob("[Rr][Ee][Aa][Dd]*")}
    assert names == {"README.md", "README.BASE.md", "README.base.2.md"}
    assert (tmp_path / "out" / "README.base.2.md").read_bytes() == (model / "readme.md").read_bytes()
    assert "`README.base.2.md`, unchanged" in (tmp_path / "out" / "README.md").read_text()


def test_a_receipt_of_an_older_version(adapter: Path, tmp_path: Path) -> None:
    """README.md was the base model's own then, and the receipt had no licenses."""
    model = readme(write_model(tmp_path / "model"), "license: mit")
    (model / "adapter_export.json").write_text(json.dumps({"merged": [{"name": "x"}], "files": ["README.md"]}))
    merge(model, adapter, tmp_path / "out")
    assert (tmp_path / "out" / "README.base.md").read_bytes() == (model / "README.md").read_bytes()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| x | not known | none | not stated | a folder | not known | not known |" in text


def test_texts_of_others() -> None:
    evil = "a|b\n---\n# Title [x](http://e) <b> \x1b \u202e"
    names = ("name", "method", "adapter_license", "adapter_source", "adapter_sha256", "base_sha256", "project_version")
    entry = {**dict.fromkeys(names, evil), "head": [evil], "dtype": [evil]}
    text = card(Origin(evil, evil, evil, {}, {}), [entry, {"name": 3, "head": 4}], evil, has_files=False)
    plain = card(Origin("mit", None, "a/b", {}, {}), [{}, {}], "X", has_files=False)
    # A list of tags and a name of the license are lines of their own.
    assert len(text.splitlines()) == len(plain.splitlines()) + 2
    assert yaml.safe_load(text.split("---\n")[1]) == ModelCard(text).data.to_dict()
    body = text.split("---\n", 2)[2]
    assert body.isascii()
    assert "<b>" not in body.replace("\\<", "")
    assert "\x1b" not in body
    (row,) = [line for line in body.splitlines() if line.startswith("| a\\|b") and "adapter-export" in line]
    assert row.replace("\\|", "").count("|") == 9


def test_a_dry_run(model: Path, adapter: Path, tmp_path: Path) -> None:
    plan = plan_merge(model, adapter, tmp_path / "out")
    assert (plan.base_license, plan.adapters[0].license) == ("apache-2.0", "apache-2.0")
    (adapter / "LICENSE").write_bytes(b"\0")
    (adapter / "README.md").unlink()
    given = ["merge", "--model", str(model), "--adapter", str(adapter), "--output", str(tmp_path / "out"), "--dry-run"]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, given)
    assert shown.exit_code == 0, shown.output
    assert "base model: license apache-2.0" in shown.stdout
    (line,) = [line for line in shown.stdout.splitlines() if line.strip().startswith("one: ia3 (peft), ")]
    assert line.rstrip().endswith(", license not stated")
    assert f"note: {adapter / 'LICENSE'}: this license file is not copied: it is no text" in shown.stdout
    assert not (tmp_path / "out").exists()
