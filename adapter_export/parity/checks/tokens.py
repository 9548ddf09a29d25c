"""Checks that a bundle turns texts into the same tokens as in training: its tokenizer against transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapter_export.architectures.positions import longest_text_of
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.models.tokenizer import has_tokenizer, load_tokenizer, samples_for
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import ParityCheck
from adapter_export.reading.files import present
from adapter_export.reading.json_files import read_json
from adapter_export.runtime.generation.chat import render_chat
from adapter_export.runtime.generation.prepare import generates
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.text import TextEncoder, read_tokenizer, truncation_length

_NAME = "tokens"
# Conversations for chat templates. Some templates reject a system message, or more than one user message.
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello, how are you?"}],
    [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": " What is 2 + 2?\n"},
        {"role": "assistant", "content": "4, é 你好 <|im_end|>"},
        {"role": "user", "content": "And 3 + 3?"},
    ],
)
# The inputs of a graph for one text: lists of integers, one per token, by input name. None if the text has no tokens.
Encoding = dict[str, list[int]] | None


def check_tokens(model: Path, bundle: Path, manifest: Manifest) -> ParityCheck:
    """Compares token ids, token types and truncation, for real texts and, if the bundle generates, for conversations.

    Args:
        model: Folder of the base model.
        bundle: Folder of the bundle.
        manifest: Its manifest.
    """
    if not present(bundle / "tokenizer.json"):
        reason = "the bundle has no tokenizer, and takes token ids alone"
        return ParityCheck(
            _NAME, Verdict.PASS, reason if has_tokenizer(model) else f"{reason}; the model has none either"
        )
    try:
        tokenizer = load_tokenizer(model)
        encoder = _BundleEncoder(bundle, manifest)
    except InputError as error:
        return ParityCheck(_NAME, Verdict.INCONCLUSIVE, f"nothing to compare: {error}")
    texts = samples_for(tokenizer)
    if encoder.truncates:
        limit = truncation_length(
            longest_text_of(read_json(model / "config.json")), {"model_max_length": tokenizer.model_max_length}
        )
        if limit != encoder.max_length:
            shown = [value or "no number of" for value in (limit, encoder.max_length)]
            return ParityCheck(_NAME, Verdict.FAIL, f"expected texts to be cut at {shown[0]} tokens, found {shown[1]}")
    for text in texts:
        if (expected := _expected_encoding(tokenizer, text, encoder)) != (actual := encoder.encode(text)):
            return ParityCheck(_NAME, Verdict.FAIL, _difference(repr(text), expected, actual))
    conversations = [] if encoder.prompts is None else list(_conversations(tokenizer, bundle, encoder.prompts))
    for title, expected_ids, actual_ids in conversations:
        if expected_ids != actual_ids:
            return ParityCheck(_NAME, Verdict.FAIL, _difference(title, _encoding(expected_ids), _encoding(actual_ids)))
    chats = f" and {len(conversations)} conversations" if conversations else ""
    return ParityCheck(
        _NAME, Verdict.PASS, f"{len(texts)} texts{chats} become the tokens that transformers makes of them"
    )


class _BundleEncoder:
    """Encodes texts with the tokenizer of a bundle.

    Attributes:
        max_length: Number of tokens at which texts are truncated; None if they are not.
        truncates: Whether the bundle truncates texts by a limit of its own, which is compared.
        names: Names of the inputs that a text becomes.
        prompts: Encoder of prompts; None for a bundle that does not generate.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.max_length: int | None = None
        self.truncates = False
        self.names: Sequence[str] = ("input_ids",)
        self.prompts: PromptTexts | None = None
        self._encoder: TextEncoder | None = None
        if generates(manifest):
            self.prompts = PromptTexts(bundle)
        elif "input_ids" in manifest.inputs and manifest.encoder is None:
            try:
                self._encoder = TextEncoder(bundle, manifest)
            except InputError:  # the graph has inputs that are not texts
                self._plain = read_tokenizer(bundle)
            else:
                self.max_length, self.truncates = self._encoder.max_length, True
                self.names = list(manifest.graphs[manifest.model].given)
        else:
            self._plain = read_tokenizer(bundle)

    def encode(self, text: str) -> Encoding:
        try:
            if self._encoder is not None:
                return {name: rows[0].tolist() for name, rows in self._encoder.encode([text]).inputs.items()}
            ids = self._plain.encode(text) if self.prompts is None else self.prompts.encode(text)
        except InputError:  # no tokens
            return None
        return {"input_ids": ids} if ids else None


def _expected_encoding(tokenizer: Any, text: str, encoder: _BundleEncoder) -> Encoding:
    """Encodes a text with transformers, truncated like the bundle does."""
    options = {} if encoder.max_length is None else {"truncation": True, "max_length": encoder.max_length}
    encoded = tokenizer(text, verbose=False, **options)
    ids = list(encoded["input_ids"])
    if not ids:
        return None
    # A model without given token types uses 0 for all tokens.
    zeros = [0] * len(ids)
    known = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": encoded.get("token_type_ids", zeros)}
    return {name: known[name] for name in encoder.names}


def _conversations(
    tokenizer: Any, bundle: Path, prompts: PromptTexts
) -> Iterator[tuple[str, list[int] | None, list[int] | None]]:
    """Yields a title, the expected token ids and the actual ones of each conversation.

    The token ids are None if the chat template rejects the conversation.
    """
    if not tokenizer.chat_template:
        return
    for messages in _CONVERSATIONS:
        expected: list[int] | None = None
        actual: list[int] | None = None
        try:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            expected = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception:  # a template may raise any exception
            expected = None
        try:
            actual = prompts.encode(render_chat(bundle, messages), special=False)
        except InputError:
            actual = None
        yield f"a conversation of {len(messages)} messages", expected, actual


def _encoding(ids: list[int] | None) -> Encoding:
    return None if ids is None else {"input_ids": ids}


def _difference(title: str, expected: Encoding, actual: Encoding) -> str:
    """Describes the first difference in one line."""
    shown = title if len(title) <= 60 else f"{title[:57]}..."
    if expected is None or actual is None:
        texts = [f"{len(side['input_ids'])} tokens" if side else "none" for side in (expected, actual)]
        return f"{shown}: expected {texts[0]}, as transformers makes, found {texts[1]}"
    name = next(name for name in expected if expected[name] != actual.get(name))
    left, right = expected[name], actual.get(name, [])
    shorter = min(len(left), len(right))
    index = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), shorter)
    values = [str(side[index]) if index < len(side) else "the end" for side in (left, right)]
    return f"{shown}: {name} {index}: expected {values[0]}, as transformers makes, found {values[1]}"
