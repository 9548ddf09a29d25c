"""A tokenizer of a model or a bundle, under limits: its file is a program of normalizers and expressions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed, Keeper
from adapter_export.errors import InputError

# The largest in use load in two seconds on a slow machine, and read some MB of text a second.
_SECONDS, _BYTES_A_SECOND = 20.0, 100_000
keeper = Keeper(memory=4 << 30)


@dataclass(frozen=True)
class Encoded:
    """By text: ids of tokens, their types, and whether the text was cut."""

    ids: list[list[int]]
    types: list[list[int]]
    cut: list[bool]


class BoundedTokenizer:
    """A tokenizer.json, which a child process reads and applies. The padding and truncation its file may ask for do not
    count. Every method raises InputError where the tokenizer fails, or takes more time or memory than a real one."""

    def __init__(self, path: Path, data: bytes, spell_special: bool = False) -> None:
        """path: for messages. spell_special: texts cannot spell special tokens."""
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
        """Tokens of one text. add_special: with those that the tokenizer puts around a text."""
        return self.encode_batch([text], add_special).ids[0]

    def encode_batch(
        self, texts: Sequence[str], add_special: bool = True, cut: tuple[int, str] | None = None
    ) -> Encoded:
        """cut: the most tokens of a text, and the side where what is more is cut off (`left` or `right`)."""
        request = {"kind": "encode", "texts": list(texts), "add_special": add_special, "cut": cut}
        answer = self._ask(request, sum(map(len, texts)))
        return Encoded(answer["ids"], answer["types"], answer["cut"])

    def decode(self, *tokens: Sequence[int], skip_special: bool) -> list[str]:
        """The text of each of some lists of tokens."""
        request = {"kind": "decode", "tokens": [list(row) for row in tokens], "skip_special": skip_special}
        texts: list[str] = self._ask(request, sum(map(len, tokens)))["texts"]
        return texts

    def id_of(self, token: str) -> int | None:
        """The number of a token, None where the tokenizer has none of that name."""
        found: int | None = self._ask({"kind": "id", "token": token}, len(token))["id"]
        return found

    def _ask(self, request: dict[str, Any], length: int) -> dict[str, Any]:
        request["key"] = self._key
        seconds = _seconds(length)
        try:
            answer = keeper.ask(request, seconds)
            if "missing" in answer:
                # Another child, or one that has had several tokenizers since.
                keeper.ask(self._file, _seconds(self._bytes))
                answer = keeper.ask(request, seconds)
        except Failed as error:
            raise InputError(f"{self._path}: the tokenizer fails: {str(error)[:300]}") from None
        except Exceeded as error:
            raise InputError(f"{self._path}: the tokenizer {error}") from None
        return answer


def _seconds(length: int) -> float:
    return _SECONDS + length / _BYTES_A_SECOND
