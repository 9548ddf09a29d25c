"""Applies tokenizers in the child process. Each is kept by a key that the parent chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How many are kept. If one has been dropped, the parent sends it again.
_KEPT = 4


class Tokenizers:
    """Answers requests about texts and tokens."""

    def __init__(self) -> None:
        self._kept: dict[str, Tokenizer] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the answer to a request."""
        key = request["key"]
        if request["kind"] == "tokenizer":
            self._kept[key] = _read(request["text"], request["spell_special"])
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
            return {}
        if key not in self._kept:
            return {"missing": True}
        tokenizer = self._kept[key]
        match request["kind"]:
            case "encode":
                return _encode(tokenizer, request)
            case "decode":
                return {"texts": [tokenizer.decode(tokens, skip_special_tokens=request["skip_special"])
                                  for tokens in request["tokens"]]}  # fmt: skip
            case _:
                return {"id": tokenizer.token_to_id(request["token"])}


def _read(text: str, spell_special: bool) -> Tokenizer:
    """Returns the tokenizer without the padding and truncation that its file may state."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = spell_special
    return tokenizer


def _encode(tokenizer: Tokenizer, request: Mapping[str, Any]) -> dict[str, Any]:
    tokenizer.no_truncation()
    if (cut := request["cut"]) is not None:
        tokenizer.enable_truncation(cut[0], direction=cut[1])
    rows = tokenizer.encode_batch(request["texts"], add_special_tokens=request["add_special"])
    return {
        "ids": [row.ids for row in rows],
        "types": [row.type_ids for row in rows],
        "cut": [bool(row.overflowing) for row in rows],
    }
