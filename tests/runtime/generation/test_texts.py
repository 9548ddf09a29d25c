"""Text of tokens as they come, with tokenizers of three kinds, against decoding all at once."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from adapter_export.bounded.tokenizer import BoundedTokenizer
from adapter_export.bundle.manifest import adapter_path, read_manifest, write_manifest
from adapter_export.errors import InputError
from adapter_export.runtime.generation.texts import PromptTexts, TextStream
from tests.bundles import Exported


def bytes_tokenizer() -> Tokenizer:
    """A token a byte, as GPT-2 writes what it has no other token for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def pieces_tokenizer() -> Tokenizer:
    """Words that hold the space before them, and bytes, as LLaMA's."""
    words = ["<unk>", "\u2581the", "\u2581night", "s", "\u2581"]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def bounded(tokenizer: Tokenizer) -> BoundedTokenizer:
    return BoundedTokenizer(Path("tokenizer.json"), tokenizer.to_str().encode())


def pushed(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> list[str]:
    stream = TextStream(bounded(tokenizer), prompt)
    return [*(stream.push(token) for token in tokens), stream.rest()]


@pytest.mark.parametrize("prompt", ["", "say: "])
def test_no_half_character_is_told(prompt: str) -> None:
    tokenizer = bytes_tokenizer()
    text = "na\u00efve \u65e5\u672c \U0001f468\u200d\U0001f469 e\u0301!"
    tokens = tokenizer.encode(text).ids
    pieces = pushed(tokenizer, tokenizer.encode(prompt).ids, tokens)
    assert "".join(pieces) == text
    assert len(tokens) == len(text.encode())
    # A character at a time, each when its last byte is there.
    assert [piece for piece in pieces if piece] == list(text)
    assert pieces[:4] == ["n", "a", "", "\u00ef"]


def test_bytes_that_never_become_a_character() -> None:
    tokenizer = bytes_tokenizer()
    cut = tokenizer.encode("ab\u65e5").ids[:-1]
    assert pushed(tokenizer, [], cut) == ["a", "b", "", "", "\ufffd"]
    # In the middle: told as soon as something whole follows.
    assert "".join(pushed(tokenizer, [], [*cut, *tokenizer.encode("c").ids])) == "ab\ufffdc"
    stream = TextStream(bounded(tokenizer), [])
    stream.push(cut[0])
    assert (stream.rest(), stream.rest()) == ("", "")


def test_a_word_after_the_prompt_keeps_its_space() -> None:
    tokenizer = pieces_tokenizer()
    the, night, plural = (tokenizer.token_to_id(word) for word in ("\u2581the", "\u2581night", "s"))
    assert pushed(tokenizer, [the], [night, plural, the]) == [" night", "s", " the", ""]
    assert pushed(tokenizer, [], [night, plural, the]) == ["night", "s", " the", ""]


def test_special_tokens_are_not_told() -> None:
    tokenizer = bytes_tokenizer()
    end = tokenizer.token_to_id("<end>")
    assert pushed(tokenizer, [end], [*tokenizer.encode("a").ids, end, *tokenizer.encode("b").ids]) == ["a", "", "b", ""]


def test_valid_text_of_random_pieces_is_told_whole() -> None:
    tokenizer = pieces_tokenizer()
    rng = np.random.default_rng(0)
    letters = ([tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in c.encode()] for c in "a\u00e9\u65e5")
    words = [[1], [2], [3], *letters]
    for _ in range(200):
        chosen = [words[i] for i in rng.integers(0, len(words), 12)]
        prompt, tokens = (list(chain.from_iterable(part)) for part in (chosen[:4], chosen[4:]))
        told = "".join(pushed(tokenizer, prompt, tokens))
        assert tokenizer.decode(prompt) + told == tokenizer.decode(prompt + tokens)


def test_any_bytes_at_all_are_told() -> None:
    """Most of them no valid text: nothing raises, and every valid character is told."""
    tokenizer = bytes_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(300):
        tokens = rng.integers(0, 256, rng.integers(0, 12)).tolist()
        told, whole = "".join(pushed(tokenizer, [], tokens)), tokenizer.decode(tokens)
        assert told.replace("\ufffd", "") == whole.replace("\ufffd", "")
        pieces = rng.integers(0, 261, 12).tolist()
        pushed(pieces_tokenizer(), pieces[:4], pieces[4:])


def test_prompts_are_neither_padded_nor_cut(llama_bundle: Exported) -> None:
    texts = PromptTexts(llama_bundle.bundle)
    assert len(texts.encode("good " * 500)) == 500
    assert texts.encode("good day") == texts.encode("good day", special=False)
    assert texts.completion(texts.encode("a good"), texts.encode("day for")) == " day for"
    with pytest.raises(InputError, match="text '': the tokenizer makes no token of it"):
        texts.encode("")


def test_a_bundle_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected tokenizer.json to encode texts with, found none"):
        PromptTexts(tmp_path)


def test_the_first_example_of_the_documentation(llama_bundle: Exported, tmp_path: Path, monkeypatch: Any) -> None:
    """A path may be a string or a Path. It names its adapter `poems`."""
    page = (Path(__file__).parents[3] / "docs" / "generation.md").read_text(encoding="utf-8")
    (code, *_) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    bundle = Path(shutil.copytree(llama_bundle.bundle, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    poems = replace(manifest.adapter("ia3"), name="poems", file=adapter_path("poems"))
    (bundle / adapter_path("ia3")).rename(bundle / adapter_path("poems"))
    write_manifest(bundle, replace(manifest, adapters=(), files=manifest.files).with_adapter(poems))
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('"poems", max_new_tokens=64', '"poems", max_new_tokens=6'), "generation.md", "exec"), {})
