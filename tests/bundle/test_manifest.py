"""Manifests: what is written is read, and everything else is one error that names the field."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_export.bundle.manifest import (
    AdapterInfo,
    AdapterTensorInfo,
    GraphInfo,
    Manifest,
    SiteInfo,
    SiteRole,
    TensorInfo,
    adapter_path,
    read_manifest,
    write_manifest,
)
from adapter_export.bundle.modes import Mode
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs.ownership import MANIFEST


def manifest() -> Manifest:
    digest = "0" * 64
    return Manifest(
        project_version="1.0",
        mode=Mode.SWAPPABLE,
        task="text-classification",
        dtype=DType.FLOAT32,
        opset=20,
        base=ModelInfo(
            "bert", "BertModel", "bert", False, 8, {"layer": 8}, {"layer": 8}, ("classifier",), sha256=digest
        ),
        graphs={
            "model.onnx": GraphInfo(
                {"input_ids": TensorInfo(DType.INT64, ("batch", "sequence"))},
                {"logits": TensorInfo(DType.FLOAT32, ("batch", 3))},
            )
        },
        sites=(
            SiteInfo(
                "layer",
                "output",
                SiteRole.ADAPTER,
                "IA3",
                "ia3",
                "ia3",
                {"layer.ia3.l": AdapterTensorInfo(DType.FLOAT32, (8,), 1.0)},
            ),
            SiteInfo(
                "classifier",
                "replace",
                SiteRole.HEAD,
                "Head",
                "head",
                None,
                {"c.head.bias": AdapterTensorInfo(DType.FLOAT32, ("n",), None)},
            ),
        ),
        adapters=(
            AdapterInfo("one", "ia3", "peft", digest, 8, ("no", "yes"), file=adapter_path("one")),
            AdapterInfo("two", "ia3", "peft", digest, 8, file=adapter_path("two")),
        ),
        files={"model.onnx": digest, adapter_path("one"): digest, adapter_path("two"): digest},
        labels=None,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_manifest(tmp_path, manifest())
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_manifest(folder) == manifest()
    assert set(manifest().tensors) == {"layer.ia3.l", "c.head.bias"}


def test_an_adapter_is_added_or_takes_the_place_of_its_name() -> None:
    new = AdapterInfo("one", "bottleneck", "adapterhub", "1" * 64, 9, file="adapters/one@11.onnx_adapter")
    changed = manifest().with_adapter(new)
    assert [info.name for info in changed.adapters] == ["one", "two"]
    assert changed.adapter("one") == new
    assert set(changed.files) == {"model.onnx", "adapters/one@11.onnx_adapter", adapter_path("two")}
    third = AdapterInfo("three", "ia3", "peft", "2" * 64, 9, file=adapter_path("three"))
    assert [info.name for info in changed.with_adapter(third).adapters] == ["one", "two", "three"]
    with pytest.raises(InputError, match=r"adapter 'four': not in the bundle \(it has: one, two\)"):
        changed.adapter("four")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        read_manifest(tmp_path / "nope")
    with pytest.raises(InputError, match=r"expected manifest\.json, found none; the folder is not a bundle"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(format_version=3),
            "'format_version': expected 1 to 2, found 3; a newer adapter-exp",
        ),
        (lambda m: m.update(format_version=True), "field 'format_version': expected 1 to 2, found True$"),
        (lambda m: m.pop("format_version"), "field 'format_version': expected 1 to 2, found None$"),
        (lambda m: m.pop("sites"), "field 'sites' is missing"),
        (lambda m: m.update(new=1), "field 'new' is not known"),
        (lambda m: m["base"].update(hidden_size="8"), "field 'base.hidden_size': expected int, found str"),
        (lambda m: m["base"].update(hidden_size=True), "field 'base.hidden_size': expected int, found bool"),
        (lambda m: m["sites"][1].pop("port"), r"field 'sites\[1\].port' is missing"),
        (
            lambda m: m["graphs"]["model.onnx"]["inputs"]["input_ids"].update(shape="ab"),
            "field 'graphs.model.onnx.inputs.input_ids.shape': expected list, found",
        ),
        (lambda m: m.update(bind="output"), "field 'bind': expected one of initializer, input, found 'output'"),
        (lambda m: m["graphs"].clear(), "field 'graphs': expected model.onnx, or encoder_model.onnx and decoder_model"),
        (lambda m: m["files"].pop("model.onnx"), "field 'files': expected 'model.onnx' among them"),
        (lambda m: m["adapters"][0].update(name="../one"), "adapter name '../one'"),
        (lambda m: m["adapters"][1].update(name="one"), "field 'adapters': a name is there twice"),
        (lambda m: m["adapters"][0].update(file="../one"), "adapter 'one': field 'file': expected .*, found '../one'"),
        (lambda m: m["adapters"][0].update(file="/one"), "field 'file': expected 'adapters/one.onnx_adapter', found"),
        (lambda m: m["adapters"][0].update(file="tokenizer.json"), "field 'file': expected .*, found 'tokenizer.json'"),
        (lambda m: m["adapters"][0].update(file=adapter_path("two")), "field 'file': expected .*two.onnx_adapter'"),
        (lambda m: m["adapters"][0].update(file="adapters/one@x.onnx_adapter"), "field 'file': expected .*, found"),
        (
            lambda m: m["files"].update({"manifest.json": "0" * 64}),
            "field 'files': expected other files",
        ),
        (lambda m: m["files"].update({"a\nb": "0" * 64}), "expected a path inside"),
        (lambda m: m["files"].update({"\x1b[2J": "0" * 64}), "expected a path inside"),
        (lambda m: m["files"].update({"a/../../b": "0" * 64}), "path 'a/../../b': expected a path inside"),
        (lambda m: m["files"].update({"c:\\b": "0" * 64}), "expected a path inside"),
        (lambda m: m["files"].update({"": "0" * 64}), "expected a path inside"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    value = json.loads((folder / MANIFEST).read_text())
    change(value)
    (folder / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as raised:
        read_manifest(folder)
    assert str(raised.value).startswith(str(folder / MANIFEST))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m, odd: m.update(slots=odd), "slots"),
        (lambda m, odd: m.update(opset=odd), "opset"),
        (lambda m, odd: m.update(positions=odd), "positions"),
        (lambda m, odd: m["base"].update(hidden_size=odd), "base.hidden_size"),
        (lambda m, odd: m["base"]["modules"].update(layer=odd), "base.modules.layer"),
        (lambda m, odd: m["sites"][0]["tensors"]["layer.ia3.l"].update(default=odd), "sites[0].tensors"),
        (lambda m, odd: m["sites"][0]["tensors"]["layer.ia3.l"]["shape"].append(odd), "sites[0].tensors"),
        (lambda m, odd: m["adapters"][0].update(slot=odd), "adapters[0].slot"),
    ],
)
@pytest.mark.parametrize("odd", [-(10**60), 10**60, float("nan"), float("inf")])
def test_numbers_out_of_all_proportion(folder: Path, change: Callable[[Any, Any], Any], field: str, odd: Any) -> None:
    value = json.loads((folder / MANIFEST).read_text())
    change(value, odd)
    (folder / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(InputError, match=rf"field '{re.escape(field)}.*': expected ") as caught:
        read_manifest(folder)
    assert len(str(caught.value)) < 1000


def test_whatever_stands_in_a_field_it_is_read_or_refused(folder: Path) -> None:
    good = json.loads((folder / MANIFEST).read_text())
    refused = read = 0
    for place in places(good):
        for value in (None, True, -1, 1.5, 10**400, 1e30, float("nan"), "x", "\x00", [], {}, [None], {"x": None}, ...):
            changed = copy.deepcopy(good)
            target = changed
            for key in place[:-1]:
                target = target[key]
            if value is ...:
                del target[place[-1]]
            else:
                target[place[-1]] = value
            (folder / MANIFEST).write_text(json.dumps(changed))
            try:
                read_manifest(folder)
                read += 1
            except InputError:
                refused += 1
    assert refused > 300
    assert read > 50


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: expected"):
        read_manifest(folder)
