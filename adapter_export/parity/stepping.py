"""Decoding whole texts with a cache, as generation does: a prompt, single tokens, and more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.runtime.generation.bound import CachedDecoder

# Single tokens between what begins a text and what ends it: each kind of step follows each other kind.
_SINGLE = 2


def logits_in_steps(decoder: CachedDecoder, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits [rows, tokens, n] of whole inputs [rows, tokens], computed step by step; a step's mask is that of all
    tokens so far."""
    found, start = [], 0
    for size in steps(inputs["input_ids"].shape[1]):
        end = start + size
        new = {
            name: value[:, :end] if name == "attention_mask" else value[:, start:end] for name, value in inputs.items()
        }
        found.append(decoder.logits(new).copy())
        start = end
    return np.concatenate(found, axis=1)


def steps(length: int) -> list[int]:
    """Sizes of the steps for a text of `length` tokens: about half of it, single tokens, and the rest."""
    first = max(1, length // 2)
    singles = min(_SINGLE, length - first)
    rest = length - first - singles
    return [first, *[1] * singles, *([rest] if rest else [])]
