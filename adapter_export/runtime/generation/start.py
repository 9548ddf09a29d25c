"""Beginning a generation: everything is checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.runtime.generation.bound import PAST, BoundGraph, CachedDecoder
from adapter_export.runtime.generation.choose import RowChooser
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.kinds import DecoderFeeds
from adapter_export.runtime.generation.settings import Settings
from adapter_export.runtime.generation.stream import Generation

if TYPE_CHECKING:
    import onnxruntime as ort

Prompt = Sequence[int] | np.ndarray


def generates(manifest: Manifest) -> bool:
    """Whether the bundle's graphs keep a cache between steps."""
    return any(name.startswith(PAST) for name in manifest.inputs)


def check_generates(bundle: object, manifest: Manifest) -> None:
    """Raise InputError unless the bundle generates."""
    if not generates(manifest):
        raise InputError(
            f"bundle {bundle}: its graph has no key-value cache ({PAST}0.key, ...), which generating needs; export a "
            "causal-lm without --no-cache"
        )


def start(
    sessions: Mapping[str, ort.InferenceSession],
    manifest: Manifest,
    config: GenerationConfig,
    device: str,
    tensors: Mapping[str, np.ndarray],
    prompts: Sequence[Prompt],
    settings: Settings,
) -> Generation:
    """A generation that has not run yet. tensors: of the adapter, by name.

    Raises InputError for prompts that are no token ids of this model, or do not fit in it.
    """
    vocabulary = manifest.outputs["logits"].shape[-1]
    rows = [_checked(row, prompt, vocabulary) for row, prompt in enumerate(prompts)]
    if not rows:
        raise InputError("prompts: expected at least one, found none")
    for row, prompt in enumerate(rows):
        check_room(f"prompt {row}", len(prompt), settings.max_new_tokens, config.max_positions)
    if bad := [token for token in settings.stop_tokens if not _is_token(token, vocabulary)]:
        raise InputError(f"stop_tokens: expected tokens from 0 to below {vocabulary}, found {bad[0]}")
    generators = settings.generators(len(rows))
    choosers = [RowChooser(row, settings, rows[row], generators[row]) for row in range(len(rows))]
    stops = {*settings.stop_tokens, *(() if settings.ignore_eos else config.eos)}
    graph = BoundGraph(sessions[manifest.model], device, tensors)
    decoder = CachedDecoder(graph, manifest.graphs[manifest.model], len(rows))
    feeds = DecoderFeeds(rows, config.pad, manifest.inputs)
    return Generation(decoder, feeds, choosers, stops, config.pad, settings.max_new_tokens)


def check_room(what: str, tokens: int, max_new_tokens: int, positions: int | None) -> None:
    """Raise InputError when the model has too few positions; the last new token is never fed, and needs none."""
    if positions is not None and tokens + max_new_tokens - 1 > positions:
        raise InputError(
            f"{what}: {tokens} tokens and {max_new_tokens} new ones do not fit in the {positions} positions of this "
            "model"
        )


def _checked(row: int, prompt: Prompt, vocabulary: int | str) -> list[int]:
    """The prompt's tokens: a negative one would be read from the vocabulary's end, without a word."""
    try:
        found = np.asarray(prompt)
    except ValueError:  # lists of different lengths
        found = np.asarray(None)
    if found.shape == (0,):
        raise InputError(f"prompt {row}: expected at least one token, found none")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"prompt {row}: expected a list of token ids, found {str(prompt)[:60]!r}")
    tokens = [int(token) for token in found]
    if bad := [token for token in tokens if not _is_token(token, vocabulary)]:
        raise InputError(f"prompt {row}: expected tokens from 0 to below {vocabulary}, found {bad[0]}")
    return tokens


def _is_token(token: int, vocabulary: int | str) -> bool:
    return token >= 0 and (isinstance(vocabulary, str) or token < vocabulary)
