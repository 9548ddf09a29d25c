"""Adapter folders whose files are missing, damaged, or hold what they should not."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.modelinfo import ModelInfo

CONFIG, SIDECAR = "adapter_config.json", "adapter_export.json"

# See the fixtures of this folder.
Good = Callable[[str], Path]
Refused = Callable[..., str]


def header(text: bytes, length: int | None = None) -> bytes:
    """A safetensors file with this header and eight bytes of data."""
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


def edit_tensors(file: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


class TestFolders:
    def test_missing(self, info: ModelInfo, tmp_path: Path, refused: Refused) -> None:
        assert refused(tmp_path / "none", info).endswith("none: expected a folder, found nothing")

    def test_a_file(self, info: ModelInfo, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "file").touch()
        assert refused(tmp_path / "file", info).endswith("file: expected a folder, found a file")

    def test_empty(self, info: ModelInfo, tmp_path: Path, refused: Refused) -> None:
        assert refused(tmp_path, info).endswith("adapter_config.json: no such file")

    def test_without_weights(self, kind: Any, good: Good, refused: Refused) -> None:
        folder = good(kind.name)
        (folder / kind.weights).unlink()
        assert f"expected {kind.weights} or " in refused(folder)

    def test_of_another_kind(self, kind: Any, good: Good, refused: Refused) -> None:
        folder = good(kind.name)
        (folder / CONFIG).write_bytes(b'{"config": 3}')
        assert "expected field 'peft_type' (PEFT) or 'config' (AdapterHub), found neither" in refused(folder)


@pytest.mark.parametrize("name", [CONFIG, SIDECAR, "head_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON, found: Expecting value"),
        (b'{"peft_type": "IA3"', "expected JSON, found: Expecting ',' delimiter"),
        (b"\xff\xfe{}", "expected UTF-8, found: "),
        (b"[1]", "expected a JSON object, found list"),
        (b"[" * 200_000, "expected JSON, found: "),
        (b'{"a": {"peft_type": "IA3", "peft_type": "LORA"}}', "expected JSON, found: field 'peft_type' twice in one"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "expected JSON, found: a number of 10,000 digits"),
    ],
    ids=["empty", "truncated", "not-utf8", "list", "nested", "twice", "long-number"],
)
def test_json_that_is_none(name: str, content: bytes, message: str, good: Good, refused: Refused) -> None:
    folder = good("adapterhub")
    (folder / name).write_bytes(content)
    assert f"{folder / name}: {message}" in refused(folder)


def test_a_json_file_that_is_far_too_large_is_not_read(good: Good, refused: Refused) -> None:
    folder = good("peft")
    os.truncate(folder / CONFIG, 1 << 30)
    assert "adapter_config.json: expected a file of at most 64 MiB, found 1,073,741,824 bytes" in refused(folder)


@pytest.mark.parametrize("name", [CONFIG, "weights"])
def test_a_folder_in_place_of_a_file(name: str, kind: Any, good: Good, refused: Refused) -> None:
    folder = good(kind.name)
    path = folder / (kind.weights if name == "weights" else name)
    path.unlink()
    path.mkdir()
    assert f"{path}: expected a regular file, found a folder" in refused(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:-1],
        lambda content: content[:200],
        lambda content: content + b"surplus",
        lambda content: os.urandom(len(content)),
        lambda content: struct.pack("<Q", 1 << 62) + content[8:],
        lambda content: header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}'),
        lambda content: header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}'),
        lambda content: header(b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 8]}}'),
        lambda content: header(b'{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}'),
        lambda content: header(b'{"a": {"dtype": "F32"}}'),
        lambda content: header(b"[]"),
        lambda content: header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
                               b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
        lambda content: header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
                               b'"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'),
    ],
    ids=["empty", "five-bytes", "one-byte-short", "cut-header", "too-long", "noise", "huge-header", "shape-lies",
         "offsets-lie", "huge-shape", "unknown-dtype", "no-shape", "no-object", "twice", "overlap"],
)  # fmt: skip
def test_safetensors_that_are_none(damage: Callable[[bytes], bytes], kind: Any, good: Good, refused: Refused) -> None:
    folder = good(kind.name)
    path = folder / kind.weights
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path}: not a readable safetensors file: " in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.astype(np.int64), "expected floating point, found int64"),
        (lambda tensor: tensor > 0, "expected floating point, found bool"),
        (lambda tensor: np.where(tensor == tensor.max(), np.nan, tensor), "expected finite values, found NaN"),
        (lambda tensor: np.where(tensor == tensor.max(), np.inf, tensor), "expected finite values, found NaN"),
        (lambda tensor: tensor[:-1], "expected shape ({0}) for this base model, found ({1})"),
        (lambda tensor: tensor[None], "expected shape ({0}) for this base model, found ({1})"),
        (lambda tensor: np.float32(1), "expected shape ({0}) for this base model, found ({1})"),
    ],
    ids=["int", "bool", "nan", "inf", "too-short", "rank", "scalar"],
)  # fmt: skip
def test_tensors_that_do_not_fit(
    change: Callable[[np.ndarray], Any], message: str, kind: Any, good: Good, refused: Refused
) -> None:
    folder = good(kind.name)
    shapes: list[str] = []

    def replace(tensors: dict[str, np.ndarray]) -> None:
        old = tensors[kind.tensor]
        tensors[kind.tensor] = np.asarray(change(old))
        shapes.extend(", ".join(map(str, shape)) for shape in (old.shape, tensors[kind.tensor].shape))

    edit_tensors(folder / kind.weights, replace)
    found = refused(folder)
    if "shape" not in message:
        assert f"{folder / kind.weights}: tensor {kind.tensor!r}: {message}" in found
    elif kind.name == "peft":
        assert kind.tensor.removeprefix("base_model.model.") in found
        expected, given = shapes
        assert message.format(expected, given + ("," if given and "," not in given else "")) in found
    else:
        # The width is the adapter's own, so a narrower matrix is found where the next tensor does not fit it.
        assert "tensor 'encoder.layer.1.output.adapters.*.adapter_" in found
        assert "expected shape (" in found


def test_tensors_of_eight_bits_are_refused(kind: Any, good: Good, refused: Refused) -> None:
    folder = good(kind.name)
    surplus = np.ones((2, 2)).astype(ml_dtypes.float8_e4m3fn)
    edit_tensors(folder / kind.weights, lambda tensors: tensors.update(surplus=surplus))
    message = refused(folder)
    assert (
        f"{folder / kind.weights}: tensor 'surplus': expected floating point of 16 to 64 bits, found F8_E4M3" in message
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_point_is_read(dtype: Any, info: ModelInfo, kind: Any, good: Good) -> None:
    folder = good(kind.name)
    before = load_adapter(folder, info)
    edit_tensors(
        folder / kind.weights, lambda tensors: tensors.update({k: t.astype(dtype) for k, t in tensors.items()})
    )
    after = load_adapter(folder, info)
    for site, site_adapter in before.sites.items():
        for name, tensor in site_adapter.tensors.items():
            found = after.sites[site].tensors[name]
            assert found.dtype == (np.float64 if dtype is np.float64 else np.float32)
            np.testing.assert_array_equal(found, tensor.astype(dtype).astype(found.dtype))


def test_safetensors_are_preferred_over_bin(info: ModelInfo, kind: Any, good: Good) -> None:
    folder = good(kind.name)
    (folder / kind.bin).write_bytes(b"never read")
    load_adapter(folder, info)


def test_a_checkpoint_for_another_architecture_is_refused(
    kind: Any, good: Good, tiny_info: Callable[..., ModelInfo], refused: Refused
) -> None:
    other = tiny_info("gpt2", "text-classification")
    message = refused(good(kind.name), other)
    assert (
        "is not in the gpt2 model" if kind.name == "peft" else "'model_type': expected 'gpt2', found 'bert'"
    ) in message


def test_a_copy_of_a_folder_without_our_file_still_loads(
    info: ModelInfo, kind: Any, good: Good, tmp_path: Path
) -> None:
    folder = shutil.copytree(good(kind.name), tmp_path / "copy")
    (folder / SIDECAR).unlink()
    adapter = load_adapter(folder, info)
    assert adapter.base_sha256 is None
    assert adapter.labels == (None if kind.name == "peft" else ("no", "yes"))
    assert adapter.num_labels == 2
