"""Running whole texts through a graph with a key-value cache, as generation does: a prompt, single tokens, and more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.export.stages import is_cache
from adapter_export.runtime.session import AdapterSession

# Single tokens between what begins a text and what ends it: each kind of step follows each other kind.
_SINGLE = 2


def run_whole(session: AdapterSession, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
    """The graph's outputs for whole inputs. Of one with a cache those without the cache, computed step by step: they
    must equal one forward over everything."""
    if not any(map(is_cache, session.manifest.inputs)):
        return session.run(inputs, adapter)
    cache = _empty(session.manifest, len(inputs["input_ids"]))
    found: dict[str, list[np.ndarray]] = {}
    start = 0
    for size in steps(inputs["input_ids"].shape[1]):
        end = start + size
        new = {
            name: value[:, :end] if name == "attention_mask" else value[:, start:end] for name, value in inputs.items()
        }
        outputs = session.run({**new, **cache}, adapter)
        cache = {name: outputs.pop(name.replace("past_key_values", "present")) for name in cache}
        for name, value in outputs.items():
            found.setdefault(name, []).append(value)
        start = end
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def steps(length: int) -> list[int]:
    """Sizes of the steps for a text of `length` tokens: about half of it, single tokens, and the rest."""
    first = max(1, length // 2)
    singles = min(_SINGLE, length - first)
    rest = length - first - singles
    return [first, *[1] * singles, *([rest] if rest else [])]


def _empty(manifest: Manifest, batch: int) -> dict[str, np.ndarray]:
    """A cache of nothing yet."""
    sizes = {"batch": batch, "past_sequence": 0}
    return {
        name: np.zeros([dim if isinstance(dim, int) else sizes[dim] for dim in info.shape], info.dtype)
        for name, info in manifest.inputs.items()
        if is_cache(name)
    }
