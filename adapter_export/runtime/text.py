"""Turns texts into inputs of a bundle and outputs into answers. Uses the bundle's tokenizer files, not transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bounded.tokenizer import BoundedTokenizer
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.problem_types import MULTI, SINGLE
from adapter_export.errors import InputError
from adapter_export.reading.fields import field
from adapter_export.reading.files import present, read_bytes
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.shown import shortened

# Ten times the largest file in use.
_MAX_TOKENIZER_BYTES = 512 << 20
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# transformers writes 1e30 for "no limit".
_NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class EncodedTexts:
    """A batch of encoded texts.

    Attributes:
        inputs: Inputs for `AdapterSession.run`, by name.
        mask: Boolean mask [texts, tokens]; False at padding.
        truncated: For each text, whether it was cut.
    """

    inputs: dict[str, np.ndarray]
    mask: np.ndarray
    truncated: tuple[bool, ...]


class TextEncoder:
    """The bundle's tokenizer, with the padding and truncation that the graph needs.

    Settings for padding and truncation in tokenizer.json are ignored. Texts are padded on the right. Positions are then
    the same as in the text alone, and no token attends to padding.

    Attributes:
        pad_id: The padding token. None if the model has none; then only texts of equal length can share a batch.
        max_length: Number of tokens at which texts are cut; None if they are not cut.
    """

    def __init__(self, bundle: str | Path, manifest: Manifest) -> None:
        """Reads the tokenizer.

        Args:
            bundle: Folder of the bundle.
            manifest: Its manifest.

        Raises:
            InputError: The bundle has no tokenizer.json or a broken one, or its graph needs inputs other than text.
        """
        bundle = Path(bundle)
        wanted = tuple(manifest.graphs[manifest.model].given)
        if "input_ids" not in wanted or set(wanted) - set(_TEXT_INPUTS):
            raise InputError(f"bundle {bundle}: takes {', '.join(wanted)}, which no text gives")
        self._tokenizer = read_tokenizer(bundle)
        self._inputs = wanted
        path = bundle / "tokenizer_config.json"
        settings = optional_json(path)
        config = optional_json(bundle / "config.json")
        text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
        assert isinstance(text, dict)
        # A model whose tokenizer returns no token types gets type 0 for all tokens, whatever tokenizer.json says.
        self._types = "token_type_ids" in (field(settings, path, "model_input_names", list, None) or _TEXT_INPUTS)
        self._pad_type = field(settings, path, "pad_token_type_id", int, None) or 0
        if not 0 <= self._pad_type < _NO_LIMIT:
            found = shortened(self._pad_type)
            raise InputError(f"{path}: field 'pad_token_type_id': expected a token type, found {found}")
        self.pad_id = self._pad_id(bundle, text, settings) if "attention_mask" in wanted else None
        self.max_length = truncation_length(manifest.longest_text, settings)
        self._side = field(settings, path, "truncation_side", str, "right")
        if self._side not in ("left", "right"):
            raise InputError(f"{path}: field 'truncation_side': expected left or right, found {shortened(self._side)}")

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encodes texts as one batch.

        Args:
            texts: The texts of the batch.

        Returns:
            The encoded texts.

        Raises:
            InputError: A text has no tokens, the tokenizer cannot read it, or texts have different lengths and the
                model has no padding token.
        """
        cut = None if self.max_length is None else (self.max_length, self._side)
        encoded = self._tokenizer.encode_batch(texts, cut=cut)
        lengths = [len(ids) for ids in encoded.ids]
        for text, length in zip(texts, lengths, strict=True):
            if not length:
                raise InputError(f"text {text!r}: the tokenizer makes no token of it")
        if len({*lengths}) > 1 and self.pad_id is None:
            raise InputError("texts of different lengths in one batch: this model has no padding token")
        types = encoded.types if self._types else [[0] * length for length in lengths]
        mask = np.arange(max(lengths, default=0)) < np.array(lengths)[:, None]
        arrays = {
            "input_ids": _padded(encoded.ids, mask, self.pad_id or 0),
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": _padded(types, mask, self._pad_type),
        }
        return EncodedTexts({name: arrays[name] for name in self._inputs}, mask, tuple(encoded.cut))

    def decode(self, token: int) -> str:
        """Returns the text of one token."""
        return self._tokenizer.decode([token], skip_special=False)[0]

    def _pad_id(self, bundle: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
        """Returns the padding token: that of config.json or, if it has none, that of the tokenizer."""
        # The graph of a decoder compares with the token of config.json to find the last token of each text.
        found, known = config.get("pad_token_id"), config.get("vocab_size")
        most = known if isinstance(known, int) else _NO_LIMIT
        if found is not None and (type(found) is not int or found >= min(most, _NO_LIMIT)):
            raise InputError(
                f"{bundle / 'config.json'}: field 'pad_token_id': expected one of the model's {shortened(known)} "
                f"tokens, found {shortened(found)}"
            )
        # Negative ids, as in old configs, mean that there is none.
        if found is not None and found >= 0:
            return int(found)
        token = settings.get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.id_of(token) if isinstance(token, str) else None


def read_tokenizer(bundle: str | Path) -> BoundedTokenizer:
    """Returns the bundle's tokenizer, without the padding and truncation that its file may set.

    Raises:
        InputError: The bundle has no tokenizer.json, or a broken one.
    """
    bundle = Path(bundle)
    path = bundle / "tokenizer.json"
    if not present(path):
        raise InputError(f"bundle {bundle}: expected tokenizer.json to encode texts with, found none")
    # Whether special tokens in a text are encoded as ordinary text is not stored in tokenizer.json.
    spell_special = optional_json(bundle / "tokenizer_config.json").get("split_special_tokens") is True
    return BoundedTokenizer(path, read_bytes(path, _MAX_TOKENIZER_BYTES), spell_special)


def _padded(rows: Sequence[Sequence[int]], mask: np.ndarray, value: int) -> np.ndarray:
    """Returns the rows as one array, filled with `value` on the right, where the mask is False."""
    array = np.full(mask.shape, value, np.int64)
    array[mask] = [item for row in rows for item in row]
    return array


def probabilities(logits: np.ndarray, *, problem_type: str = SINGLE) -> np.ndarray:
    """Returns the probabilities of classes in float64.

    Args:
        logits: Logits of any shape; the last axis holds the classes.
        problem_type: One of the constants in `checkpoints.problem_types`. For one of several classes, the result is the
            softmax over the last axis; for independent classes, the sigmoid.

    Returns:
        An array of the same shape.

    Raises:
        InputError: The problem type is a regression, whose outputs are values.
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
    """Returns the mean over the tokens that are no padding.

    Args:
        hidden: Hidden states [batch, tokens, d].
        mask: Mask [batch, tokens]; False or 0 at padding.

    Returns:
        Array [batch, d].
    """
    weights = mask[:, :, None].astype(np.float64)
    result: np.ndarray = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return result


def at_last_token(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns each row's values at its last token that is no padding.

    Args:
        logits: Values [batch, tokens, n].
        mask: Mask [batch, tokens]; False or 0 at padding.

    Returns:
        Array [batch, n].
    """
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    result: np.ndarray = logits[np.arange(len(logits)), last]
    return result


def truncation_length(longest_text: int | None, settings: Mapping[str, Any]) -> int | None:
    """Returns the number of tokens at which texts are cut; None if they are not.

    Args:
        longest_text: The most tokens that the model takes; None without a limit.
        settings: The content of tokenizer_config.json.
    """
    limits = [settings.get("model_max_length"), longest_text]
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(known) if known else None
