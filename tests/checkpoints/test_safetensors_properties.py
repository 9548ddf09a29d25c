"""Our reader of safetensors and the library's own, each an oracle for the other."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from adapter_export.checkpoints.safetensors_file import read_safetensors
from adapter_export.checkpoints.safetensors_header import arranged, encode_header, read_header
from adapter_export.errors import InputError
from tests.fuzz import mutators
from tests.strategies import BFLOAT16, arrays, damaged, file_of, printable, same, texts

Tensors = dict[str, np.ndarray]
tensors = st.dictionaries(printable.filter(lambda name: name != "__metadata__"), arrays(), max_size=4)
VALID = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}, {"format": "pt"})


@given(tensors, st.dictionaries(texts, texts, max_size=2))
def test_what_the_library_writes_is_read(state: Tensors, metadata: dict[str, str]) -> None:
    with file_of(save(state, metadata or None), "a.safetensors") as path:
        found, header = read_safetensors(path), read_header(path)
    assert found.keys() == state.keys()
    assert all(same(found[name], state[name]) for name in state)
    assert header.metadata == metadata


@given(
    st.dictionaries(printable.filter(lambda name: name != "__metadata__"), arrays(("<f4", "<f8", "<f2")), max_size=4)
)
def test_what_we_write_the_library_reads(state: Tensors) -> None:
    names = {"float16": "F16", "float32": "F32", "float64": "F64"}
    entries = arranged((name, names[array.dtype.name], array.shape, array.nbytes) for name, array in state.items())
    data = encode_header(entries, {"format": "pt"}) + b"".join(state[name].tobytes() for name in entries)
    found = load(data)
    assert all(same(found[name], state[name]) for name in state)


@given(arrays((BFLOAT16,)))
def test_bfloat16(array: np.ndarray) -> None:
    """Which the library writes by way of PyTorch alone."""
    import torch
    from safetensors.torch import save as save_torch

    written = save_torch({"a": torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)})
    with file_of(written, "a.safetensors") as path:
        assert same(read_safetensors(path)["a"], array)


def _ours(data: bytes) -> Tensors | str:
    with file_of(data, "a.safetensors") as path:
        try:
            return read_safetensors(path)
        except InputError as error:
            return str(error)


def _theirs(data: bytes) -> Tensors | str:
    try:
        return load(data)
    except Exception as error:  # the library's own, and what numpy makes of odd dtypes
        return f"{type(error).__name__}: {error}"


# What the library takes and we do not, each by what we say of it.
STRICTER = (
    "twice in one object",  # of two entries of one name, readers take different ones
    "expected a printable name",  # names are printed
    "expected texts by name",  # metadata
    "expected floating point of 16 to 64 bits",  # dtypes that numpy has not
    "expected a list of at most 64 sizes",
    "sizes that a tensor can have",
    "header: 'utf-8' codec",
)


@given(damaged(VALID, mutators.of_safetensors))
def test_both_accept_the_same(data: bytes) -> None:
    ours, theirs = _ours(data), _theirs(data)
    if isinstance(ours, dict):
        assert isinstance(theirs, dict), theirs
        assert ours.keys() == theirs.keys()
        assert all(same(ours[name], theirs[name]) for name in ours)
    elif isinstance(theirs, dict):
        assert any(reason in ours for reason in STRICTER), ours


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
         "twice in one object"),
        ('{"a\\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "expected a printable name"),
    ],
)  # fmt: skip
def test_where_we_are_stricter(header: str, reason: str) -> None:
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(4)
    assert isinstance(_theirs(data), dict)
    assert reason in str(_ours(data))


@given(st.recursive(st.integers() | texts | st.none(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_headers_of_anything(value: Any) -> None:
    text = json.dumps(value).encode()
    data = struct.pack("<Q", len(text)) + text
    if isinstance(_ours(data), dict):
        safetensors.deserialize(data)
