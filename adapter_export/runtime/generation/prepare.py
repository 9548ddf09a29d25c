"""Prepares a generation. Everything is checked before the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from adapter_export.bundle.graphs import ENCODER, PAST, PRESENT, is_past
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.generation.cache import CachedDecoder, Decoder, SharedCacheDecoder
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.decoder_inputs import (
    CrossFeeds,
    DecoderFeeds,
    Feeds,
    RightPaddedFeeds,
    padded_right,
)
from adapter_export.runtime.generation.processors import Processor, Row, processors_for
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.generation.settings import GenerationSettings
from adapter_export.runtime.generation.stream import Generation
from adapter_export.runtime.inputs import check_inputs

Prompt = Sequence[int] | np.ndarray


def generates(manifest: Manifest) -> bool:
    """Returns whether the bundle can generate, that is, whether its graph has a cache."""
    return any(map(is_past, manifest.inputs))


def check_generates(bundle: object, manifest: Manifest) -> None:
    """Raises InputError if the bundle, which the message names, cannot generate."""
    if not generates(manifest):
        raise InputError(
            f"bundle {bundle}: its graph has no key-value cache ({PAST}0.key, ...), which is needed to generate; "
            "export a causal-lm or a seq2seq-lm without --no-cache"
        )


def start(
    graphs: Mapping[str, BoundGraph],
    manifest: Manifest,
    config: GenerationConfig,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
) -> Generation:
    """Returns a generation that has not run yet.

    Args:
        graphs: The bundle's graphs by file name, with their adapters bound to them.
        manifest: The manifest of the bundle.
        config: What the bundle's files say about generating.
        prompts: Token ids of each row, or one array per row if the encoder does not read text.
        settings: What the caller asks for.

    Raises:
        InputError: The model cannot read a prompt, or a prompt does not fit in it.
    """
    if len(prompts) == 0:
        raise InputError("prompts: expected at least one, found none")
    vocabulary = manifest.outputs["logits"].shape[-1]
    stops = stop_tokens(config, settings, vocabulary)
    if not _is_token(config.pad, vocabulary):
        # Some models name a padding token outside of their vocabulary. Padding is masked, so any token works.
        config = replace(config, pad=0)
    generators = settings.generators(len(prompts))
    graph = graphs[manifest.model]
    feeds: Feeds
    read: Sequence[Sequence[int] | None]
    if (encoder := manifest.encoder) is not None:
        encoded, read = _encoder_inputs(manifest, config, prompts)
        written: list[Sequence[int]] = [_begin(config, settings, vocabulary)] * len(prompts)
        states = [name for name in encoder.outputs if name.startswith(PRESENT)]
        feeds = CrossFeeds(graphs[ENCODER], graph, encoded, states, written[0], manifest.inputs)
    else:
        if settings.prefix:
            raise InputError("prefix: expected none, as this model continues the prompt itself")
        written = [prompt_tokens(f"prompt {row}", prompt, vocabulary) for row, prompt in enumerate(prompts)]
        read = written
        if manifest.right_padded:
            feeds = RightPaddedFeeds(written, config.pad)
        else:
            feeds = DecoderFeeds(written, config.pad, manifest.inputs, manifest.reread_at)
    for row, tokens in enumerate(written):
        check_room(f"prompt {row}", len(tokens), settings.max_new_tokens, manifest.longest_text)
    if isinstance(vocabulary, int):
        config.rules.check(vocabulary)
    choosers = [
        RowChooser(row, settings, tokens, generator, row_processors(config, settings, tokens, own))
        for row, (tokens, own, generator) in enumerate(zip(written, read, generators, strict=True))
    ]
    info = manifest.graphs[manifest.model]
    decoder: Decoder
    if manifest.shares_cache and graph.device is Provider.CPU and isinstance(vocabulary, int):
        capacity = max(map(len, written)) + settings.max_new_tokens
        decoder = SharedCacheDecoder(graph, info, len(prompts), capacity)
    else:
        decoder = CachedDecoder(graph, info, len(prompts))
    return Generation(decoder, feeds, choosers, stops, config.pad, settings.max_new_tokens)


def stop_tokens(config: GenerationConfig, settings: GenerationSettings, vocabulary: int | str) -> frozenset[int]:
    """Returns the tokens that end a row.

    Args:
        config: What the bundle's files say about generating.
        settings: What the caller asks for.
        vocabulary: Number of tokens of the model, or the name of that dim.

    Raises:
        InputError: The caller's are not tokens of the model.
    """
    if bad := [token for token in settings.stop_tokens if not _is_token(token, vocabulary)]:
        raise InputError(f"stop_tokens: expected tokens from 0 to below {vocabulary}, found {bad[0]}")
    return frozenset((*settings.stop_tokens, *(() if settings.ignore_eos else config.eos)))


def row_processors(
    config: GenerationConfig, settings: GenerationSettings, written: Sequence[int], read: Sequence[int] | None
) -> tuple[Processor, ...]:
    """Returns the functions that change the logits of one row.

    The repetition penalty of the settings replaces that of the config. With `ignore_eos`, no rule delays or forces an
    end token.

    Args:
        config: What the bundle's files say about generating.
        settings: What the caller asks for.
        written: Tokens of the decoder before the first new one.
        read: Tokens that the model reads; None if it does not read text.
    """
    rules = config.rules
    if settings.repetition_penalty is not None:
        rules = replace(rules, repetition_penalty=settings.repetition_penalty)
    if settings.ignore_eos:
        rules = replace(rules, forced_eos_token_id=())
    eos = () if settings.ignore_eos else config.eos
    return processors_for(rules, Row(written, read, eos, settings.max_new_tokens))


def unread_in(config: GenerationConfig, settings: GenerationSettings) -> tuple[str, ...]:
    """Returns the fields of generation_config.json that are not read and would change the tokens."""
    if settings.temperature == 0:
        return config.unread
    drawing = {"do_sample", *config.unread_of_draws}
    given = {name for name in drawing if getattr(settings, name, None) is not None}
    named = dict.fromkeys((*config.unread, *config.unread_of_draws))
    return tuple(name for name in named if name not in {"do_sample", *given})


def _encoder_inputs(
    manifest: Manifest, config: GenerationConfig, prompts: Sequence[Prompt]
) -> tuple[dict[str, np.ndarray], Sequence[Sequence[int] | None]]:
    """Returns the encoder's inputs by name, and the tokens of each row (None if the encoder does not read text).

    The inputs are the padded token ids of texts, or one stacked array of another input (Whisper: input_features).
    """
    assert manifest.encoder is not None
    wanted = manifest.encoder.given
    if "input_ids" in wanted:
        vocabulary = manifest.outputs["logits"].shape[-1]
        rows = [prompt_tokens(f"prompt {row}", prompt, vocabulary) for row, prompt in enumerate(prompts)]
        for row, tokens in enumerate(rows):
            check_room(f"prompt {row}", len(tokens), 1, manifest.longest_text)
        encoded = padded_right(rows, config.pad)
        return {name: value for name, value in encoded.items() if name in wanted}, rows
    ((name, info),) = wanted.items()
    try:
        encoded = {name: np.stack([np.asarray(prompt, info.dtype) for prompt in prompts])}
    except ValueError as error:
        raise InputError(f"prompts: expected {name} {list(info.shape[1:])} each: {error}") from None
    check_inputs(encoded, wanted)
    return encoded, [None] * len(prompts)


def _begin(config: GenerationConfig, settings: GenerationSettings, vocabulary: int | str) -> list[int]:
    """Returns the tokens that every row of an encoder-decoder begins with: its start token and the caller's prefix."""
    if not config.begin:
        raise InputError("config.json: field 'decoder_start_token_id': expected a token id, found none")
    if bad := [token for token in settings.prefix if not _is_token(token, vocabulary)]:
        raise InputError(f"prefix: expected tokens from 0 to below {vocabulary}, found {bad[0]}")
    return [*config.begin, *settings.prefix]


def positions_taken(manifest: Manifest, config: GenerationConfig, prompt: int) -> int:
    """Returns how many positions of the decoder are used before the first new token.

    Args:
        manifest: The manifest of the bundle.
        config: What the bundle's files say about generating.
        prompt: Number of tokens of the prompt.
    """
    return prompt if manifest.encoder is None else len(config.begin)


def check_room(what: str, tokens: int, max_new_tokens: int, positions: int | None) -> None:
    """Checks that the model has enough positions. The last new token needs none, because it is never fed.

    Args:
        what: Name of the text in messages.
        tokens: Number of tokens of the text.
        max_new_tokens: Number of new tokens.
        positions: Number of positions of the model; None without a limit.

    Raises:
        InputError: There are too few positions.
    """
    if positions is not None and tokens + max_new_tokens - 1 > positions:
        raise InputError(
            f"{what}: {tokens} tokens and {max_new_tokens} new ones do not fit in the {positions} positions of this "
            "model"
        )


def prompt_tokens(what: str, prompt: Prompt, vocabulary: int | str) -> list[int]:
    """Returns the tokens of a prompt. A negative token is refused: it would be read from the end of the vocabulary.

    Args:
        what: Name of the prompt in messages.
        prompt: Its token ids.
        vocabulary: Number of tokens of the model, or the name of that dim.

    Raises:
        InputError: The prompt is not a list of the model's tokens.
    """
    try:
        found = np.asarray(prompt)
    except ValueError:  # lists of different lengths
        found = np.asarray(None)
    if found.shape == (0,):
        raise InputError(f"{what}: expected at least one token, found none")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{what}: expected a list of token ids, found {str(prompt)[:60]!r}")
    tokens = [int(token) for token in found]
    if bad := [token for token in tokens if not _is_token(token, vocabulary)]:
        raise InputError(f"{what}: expected tokens from 0 to below {vocabulary}, found {bad[0]}")
    return tokens


def _is_token(token: int, vocabulary: int | str) -> bool:
    return token >= 0 and (isinstance(vocabulary, str) or token < vocabulary)
