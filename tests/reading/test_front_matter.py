"""The YAML block of a README.md: the fields that are asked for, and nothing that costs much time or memory."""

from __future__ import annotations

import time

import pytest

from adapter_export.reading.front_matter import BrokenFrontMatter, front_matter

NAMES = ("license", "license_name", "base_model")


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        ("license: 'mit' # as usual", {"license": "mit"}),
        ('license : "a: b"', {"license": "a: b"}),
        ("license:\n- mit\n- gpl-3.0", {"license": ["mit", "gpl-3.0"]}),
        ("license: [mit, gpl-3.0]", {"license": ["mit", "gpl-3.0"]}),
        ("license: no\nbase_model: 1.0", {"license": "no", "base_model": "1.0"}),
        ("license: other\nlicense_name: one\nlanguage: en", {"license": "other", "license_name": "one"}),
        ("language: en\n", {}),
        ("license:", {"license": ""}),
        # What is not asked for may be anything, also no YAML.
        ("model-index:\n- name: x\n  license: wrong\nlicense: mit\ntags: [", {"license": "mit"}),
        ("widget: |\n  license: wrong\n\n  text\nlicense: >-\n  two\n  lines", {"license": "two lines"}),
    ],
)
def test_fields(block: str, expected: dict[str, object]) -> None:
    for end in ("\n", "\r\n"):
        text = f"---\n{block}\n---\n# Title\nlicense: below\n".replace("\n", end)
        assert front_matter(text.encode(), NAMES) == expected
        assert front_matter(b"\xef\xbb\xbf" + text.encode(), NAMES) == expected


@pytest.mark.parametrize("text", ["", "# Title\n---\nlicense: mit\n---\n", "----\nlicense: mit\n---\n", "text"])
def test_a_file_without_a_block(text: str) -> None:
    assert front_matter(text.encode(), NAMES) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"---\nlicense: mit\n", "expected a second line '---' at its end, found none"),
        (b"---\nlicense: \xff\n---\n", "expected UTF-8, found: invalid start byte"),
        (b"---\nlicense: [mit\n---\n", "no YAML: "),
        (b"---\nlicense: {a: b}\n---\n", "field 'license': expected a text or a list of texts"),
        (b"---\nlicense: [[mit]]\n---\n", "field 'license': expected a text or a list of texts"),
        (b"---\nlicense: *a\n---\n", "no YAML: found undefined alias"),
        (b"---\nlicense: " + b"[" * 5000 + b"\n---\n", "no YAML: "),
        (b"---\nlicense: " + b"a" * 20000 + b"\n---\n", "more than 16 KiB in license, license_name, base_model"),
    ],
)
def test_a_broken_block(data: bytes, message: str) -> None:
    with pytest.raises(BrokenFrontMatter) as error:
        front_matter(data, NAMES)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_texts_that_would_grow_do_not() -> None:
    """Each line doubles the one before it: 2**200 values, if they were copied."""
    lines = ["base_model:", " - &a0 [x]", *(f" - &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 200))]
    merges = [
        "license: {x: &a0 {k: v}",
        *(f"  , y{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 200)),
        "  }",
    ]
    for block in (lines, merges):
        start = time.monotonic()
        with pytest.raises(BrokenFrontMatter, match="expected a text or a list of texts"):
            front_matter("\n".join(["---", *block, "---", ""]).encode(), NAMES)
        assert time.monotonic() - start < 5


def test_a_long_block_takes_little_time() -> None:
    """Model cards with thousands of results are in use."""
    results = "model-index:\n- results:\n" + "  - {value: 1.0, name: some metric of some dataset}\n" * 20000
    start = time.monotonic()
    assert front_matter(f"---\n{results}license: mit\n---\n".encode(), NAMES) == {"license": "mit"}
    assert time.monotonic() - start < 2
