"""Pickles are data: whatever one asks for, nothing is called, and it ends soon, in a bounded amount of memory."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from adapter_export.checkpoints.pickles import BadPickle, Call, Name, PersistentId, read_pickle


class Asked:
    """Pickled as a call."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return print, self.arguments


VALUES = [
    None, True, 0, -1, 255, 256, 65536, 1 << 40, -(1 << 70), 1.5, "", "é" * 300, (), (1,), (1, 2), (1, 2, 3),
    (1, 2, 3, 4), [], [1], [1, [2]], {}, {"a": {"b": (1, "c")}}, {1: "x"}, OrderedDict(a=1, b=OrderedDict()),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_data_is_read_as_python_reads_it(protocol: int) -> None:
    for value in (*VALUES, VALUES):
        content = io.BytesIO(pickle.dumps(value, protocol) + b"what follows")
        assert read_pickle(content) == value
        assert content.read() == b"what follows"
    shared = ["x"]
    first, second = read_pickle(io.BytesIO(pickle.dumps((shared, shared), protocol)))
    assert first is second


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_calls_are_markers(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_pickle(io.BytesIO(pickle.dumps(Asked("x", 1), protocol)))
    module = "__builtin__" if protocol == 2 else "builtins"
    assert found == Call(Name(module, "print"), ("x", 1))
    assert capsys.readouterr().out == ""


def test_references_are_markers() -> None:
    assert read_pickle(io.BytesIO(b"\x80\x02X\x01\x00\x00\x00aQ.")) == PersistentId("a")


def _laughs() -> bytes:
    """A tuple of tuples of ... of 2 ** 60 parts, as a key: to find its place would take that many steps."""
    nested = b"".join(b"q%ch%ch%c\x86" % (number, number, number) for number in range(60))
    return b"\x80\x02}K\x00" + nested + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02(t",
        b"\x80\x02a.",
        b"\x80\x02s.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01R.",
        b"\x80\x02K\x01b.",
        b"\x80\x02cos\nsystem\nK\x01R.",
        b"\x80\x02q\x00.",
        b"\x80\x04\x93.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"I" + b"1" * 10_000 + b"\n.",
        b"\x80\x02" + b"N" * 3_000_000 + b".",
        b"\x80\x02" + b"}" * 10 + b"]s.",
        _laughs(),
        b"\x80\x02\x82\x01.",
        b"\xff",
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(BadPickle) as caught:
        read_pickle(io.BytesIO(content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_number_of_a_memo_takes_no_memory() -> None:
    """Python's own makes a table of so many places: 34 GB."""
    content = io.BytesIO(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.".replace(b"0j", b"j"))
    assert read_pickle(content) == 7
