"""A mistake of ours is never told as the user's: whatever one of our readers raises that no file asked for ends with
exit 3, not as bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner

from adapter_export.bundle import adapter_file, adapter_format, manifest
from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.checkpoints import safetensors_file, safetensors_header, torch_file, weights
from adapter_export.checkpoints.adapterhub import reading as adapterhub
from adapter_export.checkpoints.peft import codec as peft_codec
from adapter_export.checkpoints.peft import config as peft_config
from adapter_export.checkpoints.peft import ia3 as peft_ia3
from adapter_export.checkpoints.peft import reading as peft
from adapter_export.cli import main
from adapter_export.inspection import onnx_files
from adapter_export.parity.recording.recorder import FORMAT, FORMAT_VERSION
from adapter_export.parity.references import records
from adapter_export.reading import files as reading
from adapter_export.reading import json_files, json_text, links
from adapter_export.reading import onnx_files as reading_onnx
from tests.bundles import Exported
from tests.merging.models import write_adapter, write_model


class Mistake(ValueError):
    """Of the kind that broken input has, too."""


class Wrong(KeyError):
    """Likewise."""


def mistaken(*_: object, **__: object) -> NoReturn:
    raise Mistake("a mistake in our own code")


def wrong(*_: object, **__: object) -> NoReturn:
    raise Wrong("a mistake in our own code")


def internal(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("internal error: ")
    assert "a mistake in our own code" in line


@pytest.fixture(params=[mistaken, wrong], ids=["value", "key"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Called as (module, name): what stands there raises."""
    return lambda module, name: monkeypatch.setattr(module, name, request.param)


MERGE: list[tuple[Any, str]] = [
    (json_text.json, "loads"),
    (json_text, "_integer"),
    (json_text, "_distinct"),
    (json_files, "parse"),
    (links, "_inside"),
    (reading, "_stat"),
    (safetensors_header, "_parse"),
    (safetensors_header, "_entry"),
    (safetensors_header, "_check_cover"),
    (safetensors_file, "read_bytes"),
    (weights, "shards"),
    (peft, "parse"),
    (peft, "_plain_names"),
    (peft, "resolve"),
    (peft_config, "field"),
    (peft_config, "_check_regex"),
    (peft_codec, "field"),
    (peft_ia3, "_at_site"),
]


@pytest.mark.parametrize(("module", "name"), MERGE)
def test_in_readers_of_checkpoints(module: Any, name: str, tmp_path: Path, broken: Callable[[Any, str], None]) -> None:
    write_model(tmp_path / "model", shards=2)
    write_adapter(tmp_path / "adapter", target_modules="k_proj|down_proj", feedforward_modules="down_proj")
    arguments = [f"--{name}={tmp_path / name}" for name in ("model", "adapter", "output")]
    broken(module, name)
    internal(["merge", *arguments])


@pytest.mark.parametrize("name", ["_view", "_array", "_storage", "_read_newer", "numpy_dtype", "_is_size"])
@pytest.mark.parametrize("older", [False, True])
def test_in_the_reader_of_bin_files(name: str, older: bool, tmp_path: Path, broken: Callable[[Any, str], None]) -> None:
    import torch
    from safetensors.torch import load_file

    if older and name == "_read_newer":
        name = "_read_older"
    write_model(tmp_path / "model")
    file = write_adapter(tmp_path / "adapter") / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"), _use_new_zipfile_serialization=not older)
    file.unlink()
    arguments = [f"--{name}={tmp_path / name}" for name in ("model", "adapter", "output")]
    broken(torch_file, name)
    internal(["merge", *arguments])


@pytest.mark.parametrize(
    ("module", "name"),
    [(adapterhub, "read"), (adapterhub, "read_tensors"), (adapterhub, "_resolve"), (adapterhub, "settings_of")],
)
def test_in_the_reader_of_the_other_format(
    module: Any,
    name: str,
    tmp_path: Path,
    swappable_bundle: Exported,
    classifier_checkpoints: dict[str, Path],
    broken: Callable[[Any, str], None],
) -> None:
    shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle")
    broken(module, name)
    internal(
        ["add", "--bundle", str(tmp_path / "bundle"), "--adapter", f"new={classifier_checkpoints['pfeiffer_five']}"]
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (manifest, "build"),
        (manifest, "_check"),
        (adapter_file, "parse_adapter"),
        (adapter_format, "_parameter"),
        (reading_onnx, "read_bytes"),
    ],
)
def test_in_readers_of_bundles(
    module: Any, name: str, swappable_bundle: Exported, broken: Callable[[Any, str], None]
) -> None:
    broken(module, name)
    internal(["run", "--bundle", str(swappable_bundle.bundle), "--adapter", "ia3_two", "--text", "a"])


@pytest.mark.parametrize(("module", "name"), [(adapter_format, "_parse"), (onnx_files, "parse_adapter_file")])
def test_in_what_inspect_reads(module: Any, name: str, tmp_path: Path, broken: Callable[[Any, str], None]) -> None:
    path = tmp_path / "a.onnx_adapter"
    write_adapter_file(path, {"x": np.ones(3, np.float32)}, "")
    broken(module, name)
    internal(["inspect", str(path)])


@pytest.mark.parametrize("name", ["_parse", "_read_meta", "field"])
def test_in_the_reader_of_records(
    name: str, tmp_path: Path, swappable_bundle: Exported, broken: Callable[[Any, str], None]
) -> None:
    record = tmp_path / "record.npz"
    np.savez(record, meta=json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, "cases": []}))
    broken(records, name)
    references = [
        f"--reference={info.name}={record}" for info in manifest.read_manifest(swappable_bundle.bundle).adapters
    ]
    internal(["parity", "--bundle", str(swappable_bundle.bundle), *references])


def test_a_library_that_gives_up_where_nobody_expects_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not exit 1, which means that parity failed."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def gives_up(*_: object) -> NoReturn:
        raise panic("a mistake in our own code")

    monkeypatch.setattr(json_text, "parse", gives_up)
    monkeypatch.setattr(json_files, "parse", gives_up)
    internal(["inspect", str(write_adapter(tmp_path / "adapter"))])
