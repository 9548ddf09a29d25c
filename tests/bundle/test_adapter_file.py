"""Writing and reading adapter files, on a full disk too; and what fits a graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_file import (
    adapter_tensors,
    check_tensors,
    fingerprint,
    read_adapter_file,
    write_adapter_file,
)
from adapter_export.bundle.manifest import TensorInfo
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter, HeadLayer
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.ia3 import IA3Operator
from adapter_export.reading.hashes import sha256
from adapter_export.sites import Port, Site

BASE = "80000001" + "0" * 56


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {f"layer.{i}.ia3.l": rng.normal(size=5).astype("f4") for i in range(4)}


def test_written_and_read(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx_adapter"
    # Not contiguous, as transposed weights are.
    tensors["m"] = np.arange(6, dtype="f4").reshape(2, 3).T
    write_adapter_file(path, tensors, BASE)
    found = read_adapter_file(path, BASE, sha256(path))
    assert set(found) == set(tensors)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    # The values are memory of this object.
    file = ort.AdapterFormat.read_adapter(str(path))
    theirs = file.get_parameters()
    assert all(np.array_equal(theirs[name].numpy(), tensors[name]) for name in tensors)


def test_one_changed_bit_fails_the_digest(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx_adapter"
    write_adapter_file(path, tensors, BASE)
    digest = sha256(path)
    good = path.read_bytes()
    place = good.index(tensors["layer.2.ia3.l"].tobytes())
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert not np.array_equal(read_adapter_file(path)["layer.2.ia3.l"], tensors["layer.2.ia3.l"])
    with pytest.raises(InputError, match=r"a\.onnx_adapter: expected a file with sha256 .{12}\.\.\., found"):
        read_adapter_file(path, BASE, digest)


def test_the_base_model_is_told_apart(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx_adapter"
    write_adapter_file(path, tensors, BASE)
    assert fingerprint(BASE) == 1
    with pytest.raises(InputError, match=r"another base model \(fingerprint 0x00000001, expected 0x00000002\)"):
        read_adapter_file(path, "00000002" + "0" * 56)
    write_adapter_file(path, tensors, "")
    assert len(read_adapter_file(path, BASE)) == 4


@pytest.mark.parametrize("content", [None, b"", b"nothing of the kind", "folder"])
def test_what_is_no_adapter_file(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx_adapter"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(
        InputError,
        match=r"a\.onnx_adapter: (no such file|expected a regular file|not a readable \.onnx_adapter file: )",
    ):
        read_adapter_file(path)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by setrlimit")
@pytest.mark.parametrize("limit", [0, 100, 4000, 20000])
def test_a_full_disk_is_noticed(limit: int, tmp_path: Path) -> None:
    """ONNX Runtime's own writer reports nothing."""
    code = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from adapter_export.bundle.adapter_file import write_adapter_file
tensors = {{f"l{{i}}": np.arange(1000, dtype="f4") for i in range(6)}}
path = Path({str(tmp_path / "a.onnx_adapter")!r})
write_adapter_file(path, tensors, "")
path.unlink()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_adapter_file(path, tensors, "")
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a.onnx_adapter: could not be written whole" in done.stdout


def test_tensors_of_an_adapter_by_their_names_in_the_graph() -> None:
    ones = np.ones(3, np.float32)
    adapter = Adapter(
        "ia3",
        {
            Site("layer.0.key", Port.OUTPUT): SiteAdapter(IA3Operator(), {"l": ones}),
            Site("layer.0.ffn", Port.INPUT): SiteAdapter(IA3Operator(), {"l": 2 * ones}),
        },
        {
            "classifier.dense": HeadLayer(np.ones((3, 3)), np.ones(3)),
            "classifier.out": HeadLayer(np.ones((2, 3)), None),
            LM_HEAD: HeadLayer(np.ones((9, 3)), None),
        },
    )
    tensors = adapter_tensors(adapter)
    assert set(tensors) == {
        "layer.0.key.ia3.l",
        "layer.0.ffn.input.ia3.l",
        "classifier.dense.head.weight",
        "classifier.dense.head.bias",
        "classifier.out.head.weight",
        "classifier.out.head.bias",
    }
    assert tensors["classifier.out.head.bias"].tolist() == [0, 0]
    assert tensors["layer.0.ffn.input.ia3.l"].tolist() == [2, 2, 2]


EXPECTED = {
    "a.x.down": TensorInfo(DType.FLOAT32, (4, "a.width")),
    "a.x.up": TensorInfo(DType.FLOAT32, ("a.width", 4)),
    "b.x.down": TensorInfo(DType.FLOAT32, (4, "b.width")),
    "b.x.up": TensorInfo(DType.FLOAT32, ("b.width", 4)),
}


def adapter_of(a: int, b: int) -> dict[str, np.ndarray]:
    shapes = {"a.x.down": (4, a), "a.x.up": (a, 4), "b.x.down": (4, b), "b.x.up": (b, 4)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_sites_may_differ_in_width_and_be_left_out() -> None:
    check_tensors("it", adapter_of(2, 5), EXPECTED)
    check_tensors("it", {name: t for name, t in adapter_of(2, 5).items() if name[0] == "b"}, EXPECTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"c.x.up": np.ones(2)}), "it: tensor 'c.x.up': the graph has no such tensor"),
        (lambda t: t.update({"a.x.up": np.ones((2, 4))}), "it: tensor 'a.x.up': expected float32, found float64"),
        (lambda t: t.update({"a.x.up": np.ones((3, 4), "f4")}), r"'a.x.up': expected shape \[2, 4\], found \[3, 4\]"),
        (lambda t: t.update({"a.x.up": np.ones((2, 3), "f4")}), r"'a.x.up': expected shape \[2, 4\], found \[2, 3\]"),
        (lambda t: t.update({"a.x.up": np.ones(2, "f4")}), r"'a.x.up': expected shape \[2, 4\], found \[2\]"),
        (lambda t: t.update(adapter_of(0, 1)), r"'a.x.down': expected shape \[4, 'a.width'\], found \[4, 0\]"),
        (lambda t: t["b.x.up"].fill(np.inf), "'b.x.up': expected finite values, found NaN or infinity"),
        (lambda t: t.pop("b.x.down"), "tensor 'b.x.down' is missing"),
    ],
)
def test_what_does_not_fit(change: Callable[[dict[str, np.ndarray]], Any], message: str) -> None:
    tensors = adapter_of(2, 5)
    change(tensors)
    with pytest.raises(InputError, match=message):
        check_tensors("it", tensors, EXPECTED)
