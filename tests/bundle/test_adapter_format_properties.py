"""Our reader of `.onnx_adapter` files against ONNX Runtime's writer and reader."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_export.bundle.adapter_file import fingerprint, write_adapter_file
from adapter_export.bundle.adapter_format import BrokenAdapter, parse_adapter
from tests.strategies import BFLOAT16, arrays, damaged, same, texts

# Numbers that ONNX Runtime takes from numpy, but for those that it does not read back: without values, or axes.
filled = arrays(("float16", "float32", "float64", "int8", "uint8", "int32", "int64", BFLOAT16)).filter(
    lambda array: array.ndim > 0 and array.size > 0
)
states = st.dictionaries(texts.filter(lambda name: bool(name) and "\0" not in name), filled, min_size=1, max_size=4)


def written(state: dict[str, np.ndarray], base: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx_adapter"
        write_adapter_file(path, state, base)
        return path.read_bytes()


def without_axes() -> bytes:
    """As ONNX Runtime's writer takes it from numpy, and its reader refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx_adapter"
        file = ort.AdapterFormat()
        file.set_parameters({"a": ort.OrtValue.ortvalue_from_numpy(np.array(1, np.float32))})
        file.export_adapter(str(path))
        return path.read_bytes()


VALID = written({"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.ones(3, np.float16)})


@given(states, st.text("0123456789abcdef", min_size=8, max_size=64))
def test_what_onnx_runtime_writes_is_read(state: dict[str, np.ndarray], base: str) -> None:
    data = written(state, base)
    content = parse_adapter(data)
    found = content.tensors(data)
    assert content.model_version == fingerprint(base)
    assert found.keys() == state.keys()
    assert all(same(found[name], state[name]) for name in state)


@given(damaged(VALID) | st.binary(max_size=200).map(lambda data: data[:4] + b"TORT" + data[4:]))
def test_damaged_ones_end_in_one_error_or_in_tensors(data: bytes) -> None:
    try:
        content = parse_adapter(data)
    except BrokenAdapter:
        return
    for name, tensor in content.tensors(data).items():
        assert name
        assert tensor.tobytes() is not None


@given(states)
def test_onnx_runtime_reads_them_too(state: dict[str, np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx_adapter"
        path.write_bytes(written(state))
        # The values are memory of this object.
        file = ort.AdapterFormat.read_adapter(str(path))
        parameters = file.get_parameters()
    assert parameters.keys() == state.keys()
    for name, value in parameters.items():
        if state[name].dtype != BFLOAT16:  # which it gives to numpy in no form
            assert same(value.numpy(), state[name])


def test_the_one_difference(tmp_path: Path) -> None:
    """A tensor without axes: ONNX Runtime writes it, and then refuses the file. We write none."""
    (path := tmp_path / "a.onnx_adapter").write_bytes(without_axes())
    # 1.23, the last release for Python 3.10, reads it.
    if not ort.__version__.startswith("1.23."):
        with pytest.raises(RuntimeError, match="dims is missing or empty"):
            ort.AdapterFormat.read_adapter(str(path))
    assert parse_adapter(path.read_bytes()).places["a"].shape == ()
    write_adapter_file(path, {"a": np.array(1, np.float32)}, "")
    file = ort.AdapterFormat.read_adapter(str(path))
    assert file.get_parameters()["a"].shape() == [1]
