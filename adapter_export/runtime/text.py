"""Texts to a bundle's inputs and its outputs to answers, by the tokenizer files in the bundle; no transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.architectures.facts import facts
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.files import optional_json
from adapter_export.checkpoints.problem_types import MULTI, SINGLE
from adapter_export.errors import InputError
from adapter_export.reading.files import present, read_bytes
from adapter_export.reading.panics import is_panic, unprinted

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Ten times the largest in use.
_MAX_TOKENIZER_BYTES = 512 << 20
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# transformers writes 1e30 for "no limit".
_NO_LIMIT = 1 << 30
# Position tables of these keep rows for padding: their first position is pad_token_id + 1.
_OFFSET_MODELS = ("roberta", "xlm-roberta", "mpnet", "camembert")


@dataclass(frozen=True)
class EncodedTexts:
    """inputs: for `AdapterSession.run`. mask: [texts, tokens], False at padding. truncated: which texts were cut."""

    inputs: dict[str, np.ndarray]
    mask: np.ndarray
    truncated: tuple[bool, ...]


class TextEncoder:
    """The bundle's tokenizer, with padding and truncation as the graph needs them, whatever its file says.

    Padding goes on the right: a position is then counted as in the text alone, and no token attends to padding behind
    it. pad_id: None when the model has no padding token; then only texts of equal length can share a batch.
    max_length: longest sequence the model takes, None without a limit.
    """

    def __init__(self, bundle: str | Path, manifest: Manifest) -> None:
        """Raises InputError for a bundle without a tokenizer.json, or whose graph takes more than text."""
        bundle = Path(bundle)
        wanted = tuple(manifest.graphs[manifest.model].given)
        if "input_ids" not in wanted or set(wanted) - set(_TEXT_INPUTS):
            raise InputError(f"bundle {bundle}: takes {', '.join(wanted)}, which no text gives")
        self._tokenizer = read_tokenizer(bundle)
        self._inputs = wanted
        settings = optional_json(bundle / "tokenizer_config.json")
        config = optional_json(bundle / "config.json")
        text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
        assert isinstance(text, dict)
        # Models that are not given types take 0 for all, whatever the tokenizer's own are.
        self._types = "token_type_ids" in (settings.get("model_input_names") or _TEXT_INPUTS)
        self.pad_id = self._pad_id(bundle, text, settings) if "attention_mask" in wanted else None
        self.max_length = longest_text(config, settings)
        if self.max_length is not None:
            self._tokenizer.enable_truncation(self.max_length, direction=str(settings.get("truncation_side", "right")))
        if self.pad_id is not None:
            self._tokenizer.enable_padding(
                direction="right", pad_id=self.pad_id, pad_type_id=int(settings.get("pad_token_type_id") or 0)
            )

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """One batch of all texts. Raises InputError for a text without tokens, and for padding without a token."""
        encodings = self._tokenizer.encode_batch(list(texts))
        mask = [encoding.attention_mask for encoding in encodings]
        for text, row in zip(texts, mask, strict=True):
            if not any(row):
                raise InputError(f"text {text!r}: the tokenizer makes no token of it")
        if len({len(row) for row in mask}) > 1:
            raise InputError("texts of different lengths in one batch: this model has no padding token")
        arrays = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": mask,
            "token_type_ids": [encoding.type_ids if self._types else [0] * len(encoding) for encoding in encodings],
        }
        return EncodedTexts(
            {name: np.array(arrays[name], np.int64) for name in self._inputs},
            np.array(mask, bool),
            tuple(bool(encoding.overflowing) for encoding in encodings),
        )

    def decode(self, token: int) -> str:
        """The text of one token."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def _pad_id(self, bundle: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
        # The config's comes first: a decoder's graph looks for it to find each text's last token.
        found, known = config.get("pad_token_id"), config.get("vocab_size")
        if found is not None and (type(found) is not int or (isinstance(known, int) and found >= known)):
            raise InputError(
                f"{bundle / 'config.json'}: field 'pad_token_id': expected one of the model's {known} tokens, "
                f"found {found!r}"
            )
        # Negative ids, a habit of old configs, mean none.
        if found is not None and found >= 0:
            return int(found)
        token = settings.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return None if found is None else int(found)


def read_tokenizer(bundle: str | Path) -> Tokenizer:
    """The bundle's tokenizer, without the padding and truncation its file may ask for; raises InputError."""
    from tokenizers import Tokenizer

    bundle = Path(bundle)
    path = bundle / "tokenizer.json"
    if not present(path):
        raise InputError(f"bundle {bundle}: expected tokenizer.json to encode texts with, found none")
    data = read_bytes(path, _MAX_TOKENIZER_BYTES)
    try:
        with unprinted():
            tokenizer = Tokenizer.from_buffer(data)
    except BaseException as error:  # tokenizers raises plain Exception, and panics
        if isinstance(error, Exception) or is_panic(error):
            raise InputError(f"{path}: not a readable tokenizer: {' '.join(str(error).split())[:300]}") from None
        raise
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # Whether texts may spell special tokens is no part of its file.
    tokenizer.encode_special_tokens = (
        optional_json(bundle / "tokenizer_config.json").get("split_special_tokens") is True
    )
    return tokenizer


def probabilities(logits: np.ndarray, problem_type: str = SINGLE) -> np.ndarray:
    """Probabilities of classes, in float64: softmax over the last axis where one of them holds, sigmoid where each
    holds or not.

    problem_type: see `checkpoints.problem_types`. Raises InputError for a regression, whose outputs are values.
    """
    if problem_type == MULTI:
        # exp of minus the absolute value never overflows.
        small = np.exp(-np.abs(logits.astype(np.float64)))
        sigmoid: np.ndarray = np.where(logits < 0, small, 1.0) / (1 + small)
        return sigmoid
    if problem_type != SINGLE:
        raise InputError(
            f"problem type {problem_type!r}: expected {SINGLE} or {MULTI}, whose outputs are probabilities"
        )
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponents = np.exp(shifted)
    result: np.ndarray = exponents / exponents.sum(axis=-1, keepdims=True)
    return result


def mean_pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the tokens that are no padding: hidden (B, T, d), mask (B, T) -> (B, d)."""
    weights = mask[:, :, None].astype(np.float64)
    result: np.ndarray = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return result


def at_last_token(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each row's values at its last token that is no padding: logits (B, T, n), mask (B, T) -> (B, n)."""
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    result: np.ndarray = logits[np.arange(len(logits)), last]
    return result


def longest_text(config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
    """The most tokens a model with this config takes of a text, by its positions and its tokenizer's settings; None
    without a limit."""
    nested = config.get("text_config")
    config = nested if isinstance(nested, dict) else config
    limits = [settings.get("model_max_length")]
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and not facts(str(config.get("model_type"))).relative:
        reserved = int(config.get("pad_token_id") or 0) + 1 if config.get("model_type") in _OFFSET_MODELS else 0
        limits.append(positions - reserved)
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(known) if known else None
