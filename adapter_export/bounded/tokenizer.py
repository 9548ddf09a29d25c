"""Runs a tokenizer of a model or a bundle with limits: its file is a program of normalizers and regular expressions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed, Keeper
from adapter_export.errors import InputError

# On a slow machine, the largest tokenizers in use load in two seconds, and encode some MB of text a second.
_SECONDS, _BYTES_A_SECOND = 20.0, 100_000
keeper = Keeper(memory=4 << 30)


@dataclass(frozen=True)
class Encoded:
    """Encoded texts.

    Attributes:
        ids: Token ids, by text.
        types: Token type ids, by text.
        cut: Whether the text was cut, by text.
    """

    ids: list[list[int]]
    types: list[list[int]]
    cut: list[bool]


class BoundedTokenizer:
    """A tokenizer.json, which a child process reads and applies, without the padding and truncation that it may state.

    All methods raise InputError if the tokenizer fails, or takes more time or memory than any real one.
    """

    def __init__(self, path: Path, data: bytes, spell_special: bool = False) -> None:
        """Keeps the tokenizer for the child process.

        Args:
            path: The file, for error messages.
            data: Its content.
            spell_special: If true, special tokens that are written in a text are encoded like any other text.
        """
        self._path = path
        self._key = hashlib.sha256(data).hexdigest() + str(spell_special)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a readable tokenizer: expected UTF-8, found {error.reason}") from None
        self._bytes = len(data)
        self._file = {"kind": "tokenizer", "key": self._key, "text": text, "spell_special": spell_special}
        try:
            keeper.ask(self._file, _seconds(self._bytes))
        except Failed as error:
            raise InputError(f"{path}: not a readable tokenizer: {str(error)[:300]}") from None
        except Exceeded as error:
            raise InputError(f"{path}: reading this tokenizer {error}") from None

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Returns the tokens of one text.

        Args:
            text: The text.
            add_special: Whether to add the special tokens that the tokenizer puts around a text.
        """
        return self.encode_batch([text], add_special).ids[0]

    def encode_batch(
        self, texts: Sequence[str], add_special: bool = True, cut: tuple[int, str] | None = None
    ) -> Encoded:
        """Encodes texts.

        Args:
            texts: The texts.
            add_special: Whether to add the special tokens that the tokenizer puts around a text.
            cut: The most tokens of a text, and the side on which longer texts are cut (`left` or `right`); None: not
                cut.
        """
        request = {"kind": "encode", "texts": list(texts), "add_special": add_special, "cut": cut}
        answer = self._ask(request, sum(map(len, texts)))
        return Encoded(answer["ids"], answer["types"], answer["cut"])

    def decode(self, *tokens: Sequence[int], skip_special: bool) -> list[str]:
        """Returns the text of each list of tokens. skip_special: whether to leave special tokens out."""
        request = {"kind": "decode", "tokens": [list(row) for row in tokens], "skip_special": skip_special}
        texts: list[str] = self._ask(request, sum(map(len, tokens)))["texts"]
        return texts

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token; None if the tokenizer does not have it."""
        found: int | None = self._ask({"kind": "id", "token": token}, len(token))["id"]
        return found

    def _ask(self, request: dict[str, Any], length: int) -> dict[str, Any]:
        request["key"] = self._key
        seconds = _seconds(length)
        try:
            answer = keeper.ask(request, seconds)
            if "missing" in answer:
                # This is a new child, or one that has dropped this tokenizer for others.
                keeper.ask(self._file, _seconds(self._bytes))
                answer = keeper.ask(request, seconds)
        except Failed as error:
            raise InputError(f"{self._path}: the tokenizer fails: {str(error)[:300]}") from None
        except Exceeded as error:
            raise InputError(f"{self._path}: the tokenizer {error}") from None
        return answer


def _seconds(length: int) -> float:
    return _SECONDS + length / _BYTES_A_SECOND
