"""Tokenizers in the child process: what the library says, and no more time and memory than a real one takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from adapter_export.bounded import tokenizer as module
from adapter_export.bounded.tokenizer import BoundedTokenizer
from adapter_export.errors import InputError

PATH = Path("tokenizer.json")
TEXTS = ["the night", "a", "", "one <end> night \u65e5", "the the the the the the"]


def words() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(("[UNK]", "the", "night", "a", "one", "b"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def bounded(tokenizer: Tokenizer, **options: Any) -> BoundedTokenizer:
    return BoundedTokenizer(PATH, tokenizer.to_str().encode(), **options)


@pytest.fixture
def few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 2.0)
    monkeypatch.setattr(module.keeper, "memory", 1 << 30)
    module.keeper.end()


def test_as_the_library_does() -> None:
    library = words()
    own = bounded(library)
    assert own.encode_batch(TEXTS).ids == [encoding.ids for encoding in library.encode_batch(TEXTS)]
    assert own.encode("the night") == library.encode("the night").ids
    assert own.id_of("night") == 2
    assert own.id_of("day") is None
    ids = library.encode("one <end> night").ids
    assert own.decode(ids, [1], skip_special=True) == [library.decode(ids), "the"]
    assert own.decode(ids, skip_special=False) == [library.decode(ids, skip_special_tokens=False)]
    spelled = bounded(library, spell_special=True)
    library.encode_special_tokens = True
    assert spelled.encode("<end>") == library.encode("<end>").ids != own.encode("<end>")


@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_only_where_asked(side: str) -> None:
    library = words()
    # What the file asks for does not count.
    library.enable_truncation(1)
    library.enable_padding(length=9)
    own = bounded(library)
    assert [len(ids) for ids in own.encode_batch(TEXTS).ids] == [2, 1, 0, 4, 6]
    encoded = own.encode_batch(TEXTS, cut=(3, side))
    library.no_padding()
    library.enable_truncation(3, direction=side)
    assert encoded.ids == [encoding.ids for encoding in library.encode_batch(TEXTS)]
    assert encoded.cut == [False, False, False, True, True]
    assert [len(ids) for ids in own.encode_batch(TEXTS).ids] == [2, 1, 0, 4, 6]


def test_more_tokenizers_than_are_kept() -> None:
    several = []
    for number in range(7):
        tokenizer = words()
        tokenizer.add_tokens([f"extra{number}"])
        several.append(bounded(tokenizer))
    for _ in range(2):
        for number, own in enumerate(several):
            assert own.id_of(f"extra{number}") == 7
            assert own.id_of(f"extra{number + 1}") is None
    module.keeper.end()
    assert several[3].encode("the extra3") == [1, 7]


def _doubling(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 60)


def _never_ends(tokenizer: Tokenizer) -> None:
    # The library itself gives up here: it panics.
    from tokenizers import Regex

    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?:a|a|b)*[bc]!"), "isolated")


@pytest.mark.usefixtures("few_seconds")
@pytest.mark.parametrize("change", [_doubling, _never_ends])
def test_one_that_runs_away(change: Callable[[Tokenizer], None]) -> None:
    tokenizer = words()
    change(tokenizer)
    own = bounded(tokenizer)
    with pytest.raises(InputError, match=r"^tokenizer.json: the tokenizer (takes more than|fails: )"):
        own.encode("a" * 5000 + "c")
    assert bounded(words()).encode("the") == [1]


def _panics() -> bytes:
    value = json.loads(words().to_str())
    value["model"] = {"type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0]], "byte_fallback": False}
    return json.dumps(value).encode()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model": null}', _panics()])
def test_what_is_no_tokenizer(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^tokenizer.json: not a readable tokenizer: .") as caught:
        BoundedTokenizer(PATH, data)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_text_that_is_none() -> None:
    with pytest.raises(InputError, match="the tokenizer fails"):
        bounded(words()).encode("\ud800")
