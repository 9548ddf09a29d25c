"""Turns texts into prompts and new tokens into text, with the bundle's tokenizer and without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapter_export.bounded.tokenizer import BoundedTokenizer
from adapter_export.errors import InputError
from adapter_export.runtime.text import read_tokenizer

# The tokenizer decodes an incomplete character to this replacement character.
_INCOMPLETE = "\ufffd"


class PromptTexts:
    """The bundle's tokenizer, for generating. Prompts are neither padded nor cut."""

    def __init__(self, bundle: str | Path) -> None:
        """Reads the tokenizer.

        Args:
            bundle: Folder of the bundle.

        Raises:
            InputError: The bundle has no tokenizer.json, or a broken one.
        """
        self._tokenizer = read_tokenizer(bundle)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Returns the token ids of a prompt.

        Args:
            text: The prompt.
            special: Whether to add the special tokens that the tokenizer puts around a text. The text of a chat
                template contains them already.

        Raises:
            InputError: The text has no tokens.
        """
        ids = self._tokenizer.encode(text, special)
        if not ids:
            raise InputError(f"text {text!r}: the tokenizer makes no token of it")
        return ids

    def stream(self, prompt: Sequence[int]) -> TextStream:
        """Returns a stream that turns new tokens into text.

        Args:
            prompt: Token ids of the prompt that the new tokens follow.
        """
        return TextStream(self._tokenizer, prompt)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """Returns the text of each token by itself, special tokens included.

        Args:
            tokens: Token ids.
        """
        return self._tokenizer.decode(*[[token] for token in tokens], skip_special=False)

    def completion(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Returns the text of new tokens.

        Args:
            prompt: Token ids of the prompt that the new tokens follow.
            tokens: Token ids of the new tokens.
        """
        stream = self.stream(prompt)
        return "".join(stream.push(token) for token in tokens) + stream.rest()


class TextStream:
    """Turns new tokens into text, token by token. It returns only complete characters.

    The returned parts together are the text of the tokens after the prompt. The text of a token depends on the tokens
    before it: a space at the start of a text is dropped, and some characters consist of several tokens. Therefore a
    window of tokens, which begins with the last ones whose text was returned, is decoded twice, with and without the
    new tokens. The difference is returned. `DecodeStream` of the library tokenizers does the same. But it raises an
    error if the tokens form no valid text, which a model may write at any time, and it does not return the rest at the
    end.
    """

    def __init__(self, tokenizer: BoundedTokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt)
        # Number of tokens of the window whose text was returned.
        self._returned = len(self._window)

    def push(self, token: int) -> str:
        """Adds a token, and returns the text that is complete now; empty while a character is incomplete."""
        self._window.append(token)
        new = self._new()
        if not new or new.endswith(_INCOMPLETE):
            return ""
        self._window = self._window[self._returned :]
        self._returned = len(self._window)
        return new

    def rest(self) -> str:
        """Returns the text that is left after the last token: incomplete characters, as replacement characters."""
        new = self._new()
        self._returned = len(self._window)
        return new

    def _new(self) -> str:
        """Returns the text of the window's new tokens."""
        before, now = self._tokenizer.decode(self._window[: self._returned], self._window, skip_special=True)
        return now[len(before) :]
