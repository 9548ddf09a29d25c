"""Whose names the classes have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.checkpoints.labels import check_given, class_names, has_own_head, named, parse_labels
from adapter_export.errors import InputError


def adapter(count: int, labels: tuple[str, ...] | None = None) -> Adapter:
    head = {"classifier": HeadLayer(np.ones((count, 4), np.float32), None)} if count else {}
    return Adapter("ia3", {}, head, labels)


def test_the_checkpoint_s_names_come_first() -> None:
    found = named("a", adapter(2, ("no", "yes")), ("left", "right"), None)
    assert (found.label_names, found.labels_given, found.notes) == (("no", "yes"), False, ())


def test_the_base_model_s_are_taken_where_their_number_fits() -> None:
    assert named("a", adapter(2), ("left", "right"), None).label_names == ("left", "right")
    assert named("a", adapter(2), None, None).label_names == ("LABEL_0", "LABEL_1")
    other = named("a", adapter(3), ("left", "right"), None)
    assert other.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "the base model's are 2, not 3" in other.notes[0]
    # Without a head, the base model's own answers, under its own names.
    assert named("a", adapter(0), ("left", "right"), None).labels is None


def test_the_user_s_win_with_a_note() -> None:
    given = named("a", adapter(2, ("no", "yes")), None, ("bad", "good"))
    assert (given.label_names, given.labels_given) == (("bad", "good"), True)
    assert given.notes == ("--labels wins over the names that the checkpoint has (no, yes)",)
    assert named("a", adapter(2, ("no", "yes")), None, ("no", "yes")).notes == ()
    assert named("a", adapter(2), ("left", "right"), ("bad", "good")).notes == ()


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (2, ("a", "b", "c"), "3 label names for a head of 2"),
        (2, ("a",), "1 label names for a head of 2"),
        (2, ("a", "a"), "expected different names, found 'a' twice"),
        (2, ("a", " "), "expected a name for every class, found none for class 1"),
        (0, ("a", "b"), "expected none, as the adapter brings no task head, found 2"),
    ],
)
def test_names_that_do_not_fit(count: int, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^folder: --labels: {re.escape(message)}$"):
        named("folder", adapter(count), None, labels)
    if count:
        with pytest.raises(InputError, match=f"^folder: {re.escape(message)}$"):
            named("folder", adapter(count, labels), None, None)


def test_the_command_line(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\ufeffso so\nvery good\r\nbad, very\n", encoding="utf-8")
    assert parse_labels(["a=x, y", f"b=@{names}"], ["a", "b"]) == {
        "a": ("x", "y"),
        "b": ("so so", "very good", "bad, very"),
    }
    assert parse_labels(["x,y"], ["a"]) == {"a": ("x", "y")}
    assert parse_labels([f"@{names}"], ["a"])["a"][0] == "so so"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x,y"], r"--labels 'x,y': expected NAME=A,B,\.\.\. or NAME=@FILE"),
        (["c=x,y"], r"--labels 'c': expected one of the adapters \(a, b\)"),
        (["a=x,y", "a=x,z"], "--labels a: given twice"),
        (["a=@missing.txt"], "--labels: a file with a name a line: missing.txt: no such file"),
        (["a=@."], "a file with a name a line: .: expected a regular file, found a folder"),
    ],
)
def test_the_command_line_refuses(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_labels(texts, ["a", "b"])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(InputError, match="names: expected UTF-8, found: "):
        parse_labels([f"a=@{tmp_path / 'names'}"], ["a"])


def test_names_from_python() -> None:
    check_given({"a": ["x", "y"]}, ["a", "b"])
    with pytest.raises(InputError, match="labels 'c': expected one of the adapters"):
        check_given({"c": ["x"]}, ["a"])
    with pytest.raises(InputError, match="labels 'a': expected a list of names, found 'xy'"):
        check_given({"a": "xy"}, ["a"])


@pytest.mark.parametrize(
    ("id2label", "names"),
    [
        ({"0": "no", "1": "yes"}, ("no", "yes")),
        ({"1": "yes", "0": "no"}, ("no", "yes")),
        ({str(i): f"c{i}" for i in range(11)}, tuple(f"c{i}" for i in range(11))),
        ({"0": "LABEL_0", "1": "LABEL_1"}, None),
        ({"0": "no", "2": "yes"}, None),
        ({"0": "no", "1": 7}, None),
        ([], None),
        (None, None),
    ],
)
def test_names_of_a_model(id2label: object, names: tuple[str, ...] | None) -> None:
    assert class_names({"id2label": id2label}) == names


@pytest.mark.parametrize(
    ("architecture", "own"),
    [
        ("BertForSequenceClassification", True),
        ("BertModel", True),
        ("BertForMaskedLM", True),
        ("BertForTokenClassification", False),
        ("BertForMultipleChoice", False),
        ("ViTForImageClassification", False),
    ],
)
def test_whose_head_a_base_model_has(architecture: str, own: bool) -> None:
    assert has_own_head({"architectures": [architecture]}, "text-classification") is own
