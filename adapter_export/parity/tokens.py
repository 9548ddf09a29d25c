"""Whether texts become the same tokens in the bundle as in training: its tokenizer against transformers' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapter_export.bundle.manifest import ENCODER, Manifest
from adapter_export.checkpoints.files import read_json
from adapter_export.errors import InputError
from adapter_export.parity.judge import Verdict
from adapter_export.parity.report import Check
from adapter_export.reading.files import present
from adapter_export.runtime.generation.chat import render_chat
from adapter_export.runtime.generation.start import generates
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.text import TextEncoder, longest_text, read_tokenizer
from adapter_export.tokenizer import has_tokenizer, load_tokenizer, samples_for

_NAME = "tokens"
# What is asked of a chat template: some refuse a system's words, or two of a user's.
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello, how are you?"}],
    [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": " What is 2 + 2?\n"},
        {"role": "assistant", "content": "4, é 你好 <|im_end|>"},
        {"role": "user", "content": "And 3 + 3?"},
    ],
)
# A row of tokens by the names that graphs have for them; None: the text has no tokens.
Rows = dict[str, list[int]] | None


def check_tokens(model: Path, bundle: Path, manifest: Manifest) -> Check:
    """Real sentences and, where a bundle generates, conversations: the ids, the types, and where they are cut."""
    if not present(bundle / "tokenizer.json"):
        reason = "the bundle has no tokenizer, and takes token ids alone"
        return Check(_NAME, Verdict.PASS, reason if has_tokenizer(model) else f"{reason}; the model has none either")
    try:
        wanted = load_tokenizer(model)
        served = _Served(bundle, manifest)
    except InputError as error:
        return Check(_NAME, Verdict.INCONCLUSIVE, f"nothing to compare: {error}")
    texts = samples_for(wanted)
    if served.cuts:
        limit = longest_text(read_json(model / "config.json"), {"model_max_length": wanted.model_max_length})
        if limit != served.max_length:
            shown = [value or "no number of" for value in (limit, served.max_length)]
            return Check(_NAME, Verdict.FAIL, f"expected texts to be cut at {shown[0]} tokens, found {shown[1]}")
    for text in texts:
        if (expected := _expected(wanted, text, served)) != (found := served.text(text)):
            return Check(_NAME, Verdict.FAIL, _difference(repr(text), expected, found))
    told = [] if served.prompts is None else list(_conversations(wanted, bundle, served.prompts))
    for what, one, other in told:
        if one != other:
            return Check(_NAME, Verdict.FAIL, _difference(what, _rows(one), _rows(other)))
    chats = f" and {len(told)} conversations" if told else ""
    return Check(_NAME, Verdict.PASS, f"{len(texts)} texts{chats} become the tokens that transformers makes of them")


class _Served:
    """The bundle's side. prompts: of one that generates. cuts: whether texts are cut, and max_length: where, None for
    nowhere. names: of
    what a text becomes."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.max_length: int | None = None
        self.cuts = False
        self.names: Sequence[str] = ("input_ids",)
        self.prompts: PromptTexts | None = None
        self._encoder: TextEncoder | None = None
        if generates(manifest):
            self.prompts = PromptTexts(bundle)
        elif "input_ids" in manifest.inputs and ENCODER not in manifest.graphs:
            try:
                self._encoder = TextEncoder(bundle, manifest)
            except InputError:  # the graph takes more than texts
                self._plain = read_tokenizer(bundle)
            else:
                self.max_length, self.cuts = self._encoder.max_length, True
                self.names = list(manifest.graphs[manifest.model].given)
        else:
            self._plain = read_tokenizer(bundle)

    def text(self, text: str) -> Rows:
        try:
            if self._encoder is not None:
                return {name: rows[0].tolist() for name, rows in self._encoder.encode([text]).inputs.items()}
            ids = self._plain.encode(text) if self.prompts is None else self.prompts.encode(text)
        except InputError:  # no tokens
            return None
        return {"input_ids": ids} if ids else None


def _expected(tokenizer: Any, text: str, served: _Served) -> Rows:
    cut = {} if served.max_length is None else {"truncation": True, "max_length": served.max_length}
    encoded = tokenizer(text, verbose=False, **cut)
    ids = list(encoded["input_ids"])
    if not ids:
        return None
    # A model that is not given types takes 0 for all.
    zeros = [0] * len(ids)
    known = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": encoded.get("token_type_ids", zeros)}
    return {name: known[name] for name in served.names}


def _conversations(
    tokenizer: Any, bundle: Path, prompts: PromptTexts
) -> Iterator[tuple[str, list[int] | None, list[int] | None]]:
    """Each with its tokens on both sides; None where the template refuses it."""
    if not tokenizer.chat_template:
        return
    for messages in _CONVERSATIONS:
        wanted: list[int] | None = None
        found: list[int] | None = None
        try:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            wanted = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception:  # whatever the template makes Python raise
            wanted = None
        try:
            found = prompts.encode(render_chat(bundle, messages), special=False)
        except InputError:
            found = None
        yield f"a conversation of {len(messages)} messages", wanted, found


def _rows(ids: list[int] | None) -> Rows:
    return None if ids is None else {"input_ids": ids}


def _difference(what: str, expected: Rows, found: Rows) -> str:
    """The first difference, in one line."""
    shown = what if len(what) <= 60 else f"{what[:57]}..."
    if expected is None or found is None:
        sides = [f"{len(side['input_ids'])} tokens" if side else "none" for side in (expected, found)]
        return f"{shown}: expected {sides[0]}, as transformers makes, found {sides[1]}"
    name = next(name for name in expected if expected[name] != found.get(name))
    one, other = expected[name], found.get(name, [])
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    sides = [str(side[place]) if place < len(side) else "the end" for side in (one, other)]
    return f"{shown}: {name} {place}: expected {sides[0]}, as transformers makes, found {sides[1]}"
