"""What `torch.save` writes is read without torch, bit by bit; `torch.load(weights_only=True)` is the other witness."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapter_export.checkpoints.pickles import BadPickle, read_pickle
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.errors import InputError
from tests.fuzz import mutators
from tests.strategies import arrays, damaged, file_of, printable, same, texts

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def saved(state: Any, newer: bool = True) -> bytes:
    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=newer)
    return content.getvalue()


VALID = saved({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.nn.Parameter(torch.ones(2))})
OLDER = saved({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2).half()}, newer=False)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A tensor, or a part of one, its axes in any order."""
    tensor = torch.from_numpy(draw(arrays()).copy())
    if draw(st.booleans()) and tensor.ndim:
        tensor = tensor[draw(st.integers(0, tensor.shape[0])) :]
    tensor = tensor.permute(draw(st.permutations(range(tensor.ndim))))
    return torch.nn.Parameter(tensor) if tensor.is_floating_point() and draw(st.booleans()) else tensor


@given(st.dictionaries(printable, views(), max_size=4), st.booleans())
def test_what_torch_writes_is_read(state: dict[str, torch.Tensor], newer: bool) -> None:
    with file_of(saved(state, newer), "a.bin") as path:
        found = read_torch_file(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert same(found[name], np.ascontiguousarray(tensor.detach().numpy()).reshape(tuple(tensor.shape)))


@given(damaged(VALID, mutators.of_archive) | damaged(VALID) | damaged(OLDER) | st.binary())
def test_what_we_read_torch_reads_the_same(data: bytes) -> None:
    """Torch is not asked about the rest: it takes more kinds of things, and crashes on some of them."""
    with file_of(data, "a.bin") as path:
        try:
            found = read_torch_file(path)
        except (NotTensors, InputError):
            return
    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # stricter where we take a file that it wrote, or might have
        return
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert same(found[name], np.ascontiguousarray(tensor.detach().numpy()).reshape(tuple(tensor.shape)))


@given(plain_values, st.sampled_from([2, 4, 5]))
def test_pickles_of_plain_values(value: Any, protocol: int) -> None:
    content = io.BytesIO(pickle.dumps(value, protocol) + b"behind")
    assert read_pickle(content) == value
    assert content.read() == b"behind"


@given(damaged(pickle.dumps({"a": [1, 2.5, ("b", None)], "c": {"d": True}}, 2)) | st.binary())
def test_damaged_pickles_end_in_one_error(data: bytes) -> None:
    with contextlib.suppress(BadPickle):
        repr(read_pickle(io.BytesIO(data)))
