"""Damaged and hostile base folders: one clear line, never a crash, nothing left behind, nothing read elsewhere."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.errors import AdapterExportError, InputError
from adapter_export.merging.merge import merge
from tests.merging.models import INDEX, write_adapter, write_model

SINGLE, RECEIPT = "model.safetensors", "adapter_export.json"
NAME = "model.layers.0.mlp.down_proj.weight"
OTHER = "model.layers.1.mlp.down_proj.weight"
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(text: str | bytes, data: bytes, length: int | None = None) -> bytes:
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def damage(raw: bytes) -> bytes:
        value, data = split(raw)
        change(value)
        return joined(json.dumps(value), data)

    return damage


def entry(**fields: Any) -> Callable[[bytes], bytes]:
    return header(lambda value: value[NAME].update(fields))


def text(change: Callable[[str], str | bytes], **options: int) -> Callable[[bytes], bytes]:
    return lambda raw: joined(change(json.dumps(split(raw)[0])), split(raw)[1], **options)


def overlap(value: dict[str, Any]) -> None:
    value[NAME]["data_offsets"] = value[OTHER]["data_offsets"]


def longer(value: dict[str, Any]) -> None:
    """It claims the first bytes of the next one, too."""
    begin, end = value[NAME]["data_offsets"]
    value[NAME] = {"dtype": "F32", "shape": [8, 13], "data_offsets": [begin, end + 32]}


def shifted(value: dict[str, Any]) -> None:
    begin, end = value[NAME]["data_offsets"]
    value[NAME]["data_offsets"] = [begin + 4, end + 4]


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "expected at least 8 bytes, found 0"),
    "seven bytes": (lambda raw: raw[:7], "expected at least 8 bytes, found 7"),
    "cut in the header": (lambda raw: raw[:100], r"a header of [\d,]+ bytes in a file of 100"),
    "cut in the data": (lambda raw: raw[:-1], r"expected [\d,]+ bytes of data by its header, found"),
    "longer than it says": (lambda raw: raw + b"\0", r"expected [\d,]+ bytes of data by its header, found"),
    "huge header": (text(lambda t: t, length=1 << 63), "a header of 9,223,372,036,854,775,808 bytes"),
    "header beyond the limit": (text(lambda t: t, length=100_000_001), "a header of 100,000,001 bytes"),
    "no JSON": (text(lambda t: t[:-1]), "header: "),
    "not UTF-8": (text(lambda t: t.encode() + b"\xff"), "header: 'utf-8' codec"),
    "a list": (text(lambda t: "[]"), "expected a JSON object, found list"),
    "deep": (text(lambda t: "[" * 100_000), "header: "),
    "a number too long": (text(lambda t: '{"a":' + "9" * 10_000 + "}"), "header: |expected an object"),
    "a name twice": (text(lambda t: t.replace(OTHER, NAME)), f"field '{NAME}' twice in one object"),
    "a field twice": (
        text(lambda t: t.replace('"dtype"', '"dtype": "F32", "dtype"', 1)),
        "field 'dtype' twice in one object",
    ),
    "a name of two lines": (
        header(lambda value: value.update({"a\nb": value.pop(NAME)})),
        r"'a\\nb': expected a print",
    ),
    "half a character": (header(lambda value: value.update({"\ud800": value.pop(NAME)})), "half of a surrogate pair"),
    "an entry that is none": (header(lambda value: value.update({NAME: 5})), "expected an object, found int"),
    "metadata of numbers": (header(lambda value: value.update(__metadata__={"a": 1})), "field '__metadata__'"),
    "unknown dtype": (entry(dtype="F37"), "field 'dtype': expected one of BF16, "),
    "dtype of no kind": (entry(dtype=["F32"]), "field 'dtype'"),
    "another dtype": (entry(dtype="F16"), "field 'data_offsets': expected as many bytes as F16"),
    "a dtype as wide": (entry(dtype="I32"), "is quantized"),
    "no shape": (entry(shape=None), "field 'shape'"),
    "negative size": (entry(shape=[-8, -12]), "field 'shape'"),
    "size of no kind": (entry(shape=[8, 12.0]), "field 'shape'"),
    "true size": (entry(shape=[96, True]), "field 'shape'"),
    "huge size": (entry(shape=[1 << 62, 1 << 62]), "as many bytes as F32"),
    "a size that overflows": (entry(shape=[1 << 63, 2]), "field 'shape'"),
    "many sizes": (entry(shape=[1] * 65), "field 'shape': expected a list of at most 64"),
    "another shape": (entry(shape=[12, 8]), "expected shape"),
    "a vector": (entry(shape=[96]), "module|expected"),
    "flat": (entry(shape=[8, 12, 1]), "expected"),
    "scalar offsets": (entry(data_offsets=5), "field 'data_offsets'"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), "field 'data_offsets'"),
    "offsets backwards": (entry(data_offsets=[384, 0]), "field 'data_offsets'"),
    "offsets beyond the file": (entry(data_offsets=[1 << 40, (1 << 40) + 384]), "leaves a gap after"),
    "a tensor on another": (header(overlap), "leaves a gap after"),
    "an overlap": (header(longer), "overlaps"),
    "shifted": (header(shifted), "leaves a gap|overlaps"),
    "a tensor missing": (header(lambda value: value.pop(NAME)), "leaves a gap|expected"),
}


def weight_map(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / INDEX
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    return damage


def content(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def shard_as(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / FIRST).unlink()
        make(folder / FIRST)

    return damage


def leads(target: str) -> Callable[[Path], None]:
    return weight_map(lambda where: where.update({NAME: target}))


def twice(folder: Path) -> None:
    """A tensor in both shards."""
    shutil.copyfile(folder / FIRST, folder / SECOND)


def both_in_second(folder: Path) -> None:
    weight_map(lambda where: where.update(dict.fromkeys(where, SECOND)))(folder)


NOT_A_NAME = "expected the name of a .safetensors file in this folder"
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "index: a path upwards": (leads("../../x.safetensors"), NOT_A_NAME),
    "index: a path downwards": (leads("sub/x.safetensors"), NOT_A_NAME),
    "index: an absolute path": (leads("/etc/x.safetensors"), NOT_A_NAME),
    "index: a path of Windows": (leads("..\\x.safetensors"), NOT_A_NAME),
    "index: a drive": (leads("C:x.safetensors"), NOT_A_NAME),
    "index: a NUL": (leads("x\0.safetensors"), NOT_A_NAME),
    "index: another file": (leads("config.json"), NOT_A_NAME),
    "index: dots": (leads(".."), NOT_A_NAME),
    "index: a hidden file": (leads(".hidden.safetensors"), NOT_A_NAME),
    "index: no text": (weight_map(lambda where: where.update({NAME: 5})), NOT_A_NAME),
    "index: no JSON": (content(INDEX, "{"), f"{INDEX}: expected JSON"),
    "index: a list": (content(INDEX, "[]"), "expected a JSON object, found list"),
    "index: nothing": (content(INDEX, "{}"), "field 'weight_map' is missing"),
    "index: a map of no kind": (content(INDEX, '{"weight_map": []}'), "field 'weight_map': expected dict"),
    "index: an empty map": (content(INDEX, '{"weight_map": {}}'), "expected tensors, found none"),
    "index: a missing shard": (leads("model-7.safetensors"), "'model-7.safetensors' is not in the folder"),
    "index: an unknown tensor": (weight_map(lambda where: where.update(ghost=FIRST)), "'ghost' is not in model-00001"),
    "index: the wrong shard": (both_in_second, "is not in model-00002"),
    "a tensor in two shards": (twice, "is in model-00001-of-00002.safetensors as well"),
    "a shard that is a folder": (shard_as(Path.mkdir), "expected a regular file"),
    "a shard that is a pipe": (shard_as(os.mkfifo), "expected a regular file"),
    "no weights": (lambda folder: [path.unlink() for path in folder.glob("model*")], "found none"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "config: no model type": (content("config.json", "{}"), "field 'model_type'"),
    "config: a list": (content("config.json", "[]"), "expected a JSON object"),
    "receipt: no list": (content(RECEIPT, '{"merged": 5}'), "field 'merged'"),
    "receipt: no objects": (content(RECEIPT, '{"merged": [5]}'), "field 'merged'"),
}


def refused(folder: Path, error: pytest.ExceptionInfo[AdapterExportError], match: str) -> None:
    message = str(error.value)
    assert re.search(match, message), message
    assert "\n" not in message
    assert len(message) < 1000
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "model"]


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, tmp_path: Path) -> None:
    damage, match = FILES[case]
    file = write_model(tmp_path / "model") / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError) as error:
        merge(tmp_path / "model", write_adapter(tmp_path / "adapter"), tmp_path / "out")
    refused(tmp_path, error, match)
    # The file is named, or the module for which its shape is none.
    assert re.search(rf"{SINGLE}|layers\.0\.mlp\.down_proj", str(error.value))


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case: str, tmp_path: Path) -> None:
    damage, match = FOLDERS[case]
    damage(write_model(tmp_path / "model", shards=2))
    with pytest.raises(InputError) as error:
        merge(tmp_path / "model", write_adapter(tmp_path / "adapter"), tmp_path / "out")
    refused(tmp_path, error, match)
    assert str(tmp_path / "model") in str(error.value)


# Bytes that mean something in JSON, or make a number longer.
_TELLING = b'0123456789-.eE"\\{}[],: \x00\xff'


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """A copy with a few bytes changed, most of them in the header; or cut, or with a piece doubled."""
    end = 8 + int.from_bytes(raw[:8], "little") if raw[:1] != b"{" else len(raw)
    content = bytearray(raw)
    match rng.randrange(6):
        case 0:
            del content[rng.randrange(len(content)) :]
        case 1:
            at = rng.randrange(end)
            content[at:at] = content[at : at + rng.randrange(1, 40)]
        case 2:
            at = rng.randrange(end)
            del content[at : at + rng.randrange(1, 40)]
        case 3:
            content[: min(8, len(content))] = struct.pack(
                "<Q", rng.choice((0, 1, end, end - 7, 1 << 32, (1 << 64) - 1))
            )
        case _:
            for _ in range(rng.choice((1, 1, 2, 5))):
                content[rng.randrange(8, end)] = rng.choice(_TELLING)
    return bytes(content)


@pytest.mark.parametrize("name", [FIRST, INDEX, "config.json"])
def test_mutations(name: str, tmp_path: Path) -> None:
    """Whatever is changed: a merge that is complete, or an error in one line with nothing left behind."""
    rng = random.Random(name)
    model = write_model(tmp_path / "model", shards=2)
    adapter = write_adapter(tmp_path / "adapter")
    good = (model / name).read_bytes()
    survived = 0
    for number in range(300):
        (model / name).write_bytes(mutated(good, rng))
        try:
            merge(model, adapter, tmp_path / "out")
        except AdapterExportError as refusal:
            lines = str(refusal).splitlines()
        else:
            survived += 1
            lines = [(tmp_path / "out" / RECEIPT).read_text()]
            shutil.rmtree(tmp_path / "out")
        assert len(lines) == 1, number
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "model"], number
    assert survived < 200
