"""Arrays of records: what numpy writes is read, and any damage ends in one kind of error."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adapter_export.errors import InputError
from adapter_export.parity.references.npy_file import NotArray, parse_npy
from adapter_export.parity.references.records import Record, read_record
from tests.fuzz import mutators
from tests.fuzz.seeds import CORPUS
from tests.strategies import arrays, damaged, file_of, same, texts

VALID = (CORPUS / "record" / "seed-one").read_bytes()


def written(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@given(arrays(), st.booleans())
def test_arrays(array: np.ndarray, by_columns: bool) -> None:
    array = np.asfortranarray(array) if by_columns else array
    assert same(parse_npy(written(array)), np.load(io.BytesIO(written(array))))


@given(texts.filter(lambda text: not text.endswith("\0")))
def test_texts(text: str) -> None:
    assert str(parse_npy(written(np.array(text)))) == text


@given(damaged(written(np.arange(6.0).reshape(2, 3))) | damaged(written(np.array("text"))))
def test_what_is_read_numpy_reads_the_same(data: bytes) -> None:
    try:
        found = parse_npy(data)
    except NotArray:
        return
    assert same(found, np.load(io.BytesIO(data), allow_pickle=False))
    str(found)


@given(damaged(VALID, mutators.of_archive) | damaged(VALID))
def test_damaged_records_end_in_one_line(data: bytes) -> None:
    with file_of(data, "a.npz") as path:
        try:
            found: Record | str = read_record(path, "a")
        except InputError as error:
            found = str(error)
    assert isinstance(found, Record) or len(found.splitlines()) == 1
