"""Texts to prompts, and new tokens to text as they come, by the tokenizer in the bundle; no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapter_export.bounded.tokenizer import BoundedTokenizer
from adapter_export.errors import InputError
from adapter_export.runtime.text import read_tokenizer

# What a decoder shows for bytes that are no whole character (yet).
_BROKEN = "\ufffd"


class PromptTexts:
    """The bundle's tokenizer, for generating: prompts are neither padded nor cut."""

    def __init__(self, bundle: str | Path) -> None:
        """Raises InputError for a bundle without a readable tokenizer.json."""
        self._tokenizer = read_tokenizer(bundle)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a prompt. special: with those the tokenizer puts around a text; a chat template brings its own.

        Raises InputError for a text without tokens.
        """
        ids = self._tokenizer.encode(text, special)
        if not ids:
            raise InputError(f"text {text!r}: the tokenizer makes no token of it")
        return ids

    def stream(self, prompt: Sequence[int]) -> TextStream:
        """The text of what follows `prompt`."""
        return TextStream(self._tokenizer, prompt)

    def completion(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of `tokens` after `prompt`."""
        stream = self.stream(prompt)
        return "".join(stream.push(token) for token in tokens) + stream.rest()


class TextStream:
    """Tokens to text, token by token: never half a character, and in sum what they are after the prompt.

    A token's text depends on those before it (a space that starts a word is dropped at a text's start, some characters
    take several tokens), so a window that begins with the last tokens already told is decoded twice, with and without
    the new ones, and the difference told. tokenizers' own `DecodeStream` does the same, but raises where tokens form no
    valid text, as a model may write at any time, and keeps what is left at the end.
    """

    def __init__(self, tokenizer: BoundedTokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt)
        # Of the window: tokens whose text was told.
        self._told = len(self._window)

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is not whole."""
        self._window.append(token)
        new = self._new()
        if not new or new.endswith(_BROKEN):
            return ""
        self._window = self._window[self._told :]
        self._told = len(self._window)
        return new

    def rest(self) -> str:
        """What is left when no token will follow: bytes that never became a character, as replacement characters."""
        new = self._new()
        self._told = len(self._window)
        return new

    def _new(self) -> str:
        before, now = self._tokenizer.decode(self._window[: self._told], self._window, skip_special=True)
        return now[len(before) :]
