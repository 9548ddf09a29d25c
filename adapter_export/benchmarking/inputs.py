"""Makes random inputs for a bundle's graphs, of any batch size and length, from its manifest and its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.errors import InputError
from adapter_export.reading.json_files import read_json
from adapter_export.runtime.generation.config import read_generation_config
from adapter_export.runtime.generation.prepare import Prompt

_CONFIG = "config.json"
_SEED = 0
# The share of padding in the last row of a batch. The first row has none.
_PADDED = 0.25


class InputMaker:
    """Makes inputs for a bundle's graphs. They are the same at every call.

    Token ids of texts are from the complete vocabulary without the padding token. If the model has an end token, each
    text ends with it. The share of padding grows from row to row, up to a quarter of the last row.

    Attributes:
        takes_lengths: Whether the inputs have a length.
        config: What the bundle's files say about generating.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Reads the sizes of the model.

        Args:
            bundle: Folder of the bundle.
            manifest: Its manifest.

        Raises:
            InputError: The graph takes texts, and config.json does not say how large the vocabulary is.
        """
        self._manifest = manifest
        self._inputs = (manifest.encoder or manifest.graphs[manifest.model]).given
        self.takes_lengths = any("sequence" in str(dim) for info in self._inputs.values() for dim in info.shape)
        self.config = read_generation_config(bundle)
        self._vocabulary = _vocabulary(bundle) if self.takes_lengths else 0

    @property
    def longest(self) -> int | None:
        """Number of tokens of the longest text that the model has positions for; None if it is not known."""
        return self._manifest.longest_text if self.takes_lengths else None

    def tokens(self, batch: int, length: int) -> int:
        """Returns how many tokens of a batch are no padding."""
        return int(_lengths(batch, length).sum())

    def inputs(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Returns the inputs of one run by name. Raises InputError for an input of an unknown kind."""
        return {name: self._input(name, info, batch, length) for name, info in self._inputs.items()}

    def prompts(self, batch: int, length: int) -> list[Prompt]:
        """Returns prompts for `AdapterSession.generate`: lists of token ids, or arrays of another encoder input."""
        if "input_ids" in self._inputs:
            kept = _lengths(batch, length)
            return [row[:end].tolist() for row, end in zip(self._ids(batch, length), kept, strict=True)]
        ((name, info),) = self._inputs.items()
        return list(self._input(name, info, batch, length))

    def _input(self, name: str, info: TensorInfo, batch: int, length: int) -> np.ndarray:
        mask = np.arange(length) < _lengths(batch, length)[:, None]
        made: np.ndarray
        if name == "input_ids":
            made = self._ids(batch, length)
        elif name == "decoder_input_ids":
            made = self._ids(batch, length)[:, :-1] if length > 1 else self._ids(batch, length)
        elif name == "attention_mask":
            made = mask
        elif name == "token_type_ids":
            made = np.zeros_like(mask)
        elif name == "position_ids":
            made = np.maximum(mask.cumsum(axis=1) - 1, 0)
        elif np.issubdtype(np.dtype(info.dtype), np.floating) and all(isinstance(dim, int) for dim in info.shape[1:]):
            made = np.random.default_rng(_SEED).standard_normal((batch, *(int(dim) for dim in info.shape[1:])))
        else:
            raise InputError(
                f"graph input {name!r} {list(info.shape)} of {info.dtype}: no way to make one is known here"
            )
        return np.ascontiguousarray(made.astype(info.dtype))

    def _ids(self, batch: int, length: int) -> np.ndarray:
        special = {self.config.pad, *self.config.eos}
        plain = [token for token in range(min(self._vocabulary, len(special) + 2)) if token not in special] or [0]
        ids = np.random.default_rng(_SEED).integers(0, self._vocabulary, (batch, length))
        ids[np.isin(ids, list(special))] = plain[0]
        kept = _lengths(batch, length)
        if self.config.eos:
            ids[np.arange(batch), kept - 1] = self.config.eos[0]
        ids[np.arange(length) >= kept[:, None]] = self.config.pad
        return ids


def _lengths(batch: int, length: int) -> np.ndarray:
    """Returns how many tokens of each row are no padding, int64 [batch]."""
    lost = np.arange(batch) * _PADDED * length / max(1, batch - 1)
    kept: np.ndarray = np.maximum(1, length - lost.astype(np.int64))
    return kept


def _vocabulary(bundle: Path) -> int:
    path = bundle / _CONFIG
    config: Mapping[str, Any] = read_json(path)
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("vocab_size")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{path}: field 'vocab_size': expected a whole number above 0, found {found!r}")
    return found
