"""What property tests draw from, and files for what they drew."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tests.fuzz import mutators

# Texts that any reader takes: without halves of characters.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Names that may stand in a line.
printable = texts.filter(lambda text: bool(text) and text.isprintable())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@st.composite
def arrays(draw: st.DrawFn, dtypes: tuple[Any, ...] = DTYPES) -> np.ndarray:
    """Any bits of a dtype in up to three axes, some of them empty."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    data = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype).reshape(shape)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal bit by bit, dtype and shape included."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@st.composite
def damaged(draw: st.DrawFn, valid: bytes, mutate: mutators.Mutator = mutators.plain) -> bytes:
    """`valid` after one to three changes."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(rng.randrange(1, 4)):
        valid = mutate(valid, 1 << 16, rng, mutators.scramble(rng))
    return valid


@contextmanager
def file_of(data: bytes, name: str) -> Iterator[Path]:
    """A file with these bytes; examples of one test share no folder."""
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / name).write_bytes(data)
        yield path
