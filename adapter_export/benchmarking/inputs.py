"""Random inputs for a bundle's graphs, of any batch and length, made from its manifest and its config."""

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
# The last row of a batch has this share of it as padding, the first none.
_PADDED = 0.25


class InputMaker:
    """Inputs that a bundle's graphs take, the same at every call.

    Texts: token ids of the whole vocabulary but padding's, each text ended by the model's end token where it has one;
    rows padded more and more, to a quarter of the last one.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Raises InputError for a bundle of texts without a config that tells the vocabulary."""
        self._manifest = manifest
        self._inputs = (manifest.encoder or manifest.graphs[manifest.model]).given
        self.takes_lengths = any("sequence" in str(dim) for info in self._inputs.values() for dim in info.shape)
        self.config = read_generation_config(bundle)
        self._vocabulary = _vocabulary(bundle) if self.takes_lengths else 0

    @property
    def longest(self) -> int | None:
        """The longest text that the model has positions for; None where nothing tells."""
        return self._manifest.longest_text if self.takes_lengths else None

    def tokens(self, batch: int, length: int) -> int:
        """How many tokens of a batch are no padding."""
        return int(_lengths(batch, length).sum())

    def inputs(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """What the graph takes in one run. Raises InputError for an input that no rule here makes."""
        return {name: self._input(name, info, batch, length) for name, info in self._inputs.items()}

    def prompts(self, batch: int, length: int) -> list[Prompt]:
        """What `AdapterSession.generate` takes: lists of token ids, or arrays of what else an encoder reads."""
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
    """How many tokens of each row are no padding."""
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
