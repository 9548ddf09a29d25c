"""Logits to the scores that a token is chosen by, as generation_config.json says: one rule, one function.

Each takes what it is made of and gives a function from (tokens of the row so far, scores [vocabulary]) to new scores,
float32. The order and the meaning are transformers', of a row that is generated alone: no padding is ever penalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.runtime.generation.rules import GenerationRules, Sequences

Processor = Callable[[Sequence[int], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """written: the decoder's tokens before the first new one. read: tokens that the model reads: the prompt, or what
    the encoder is given; None where that is no text. eos: tokens that end it. limit: new tokens at most."""

    written: Sequence[int]
    read: Sequence[int] | None
    eos: Sequence[int]
    limit: int


def processors_for(rules: GenerationRules, row: Row) -> tuple[Processor, ...]:
    """What changes the scores of this row, in order; empty where nothing does."""
    return tuple(_made(rules, row))


def processed(processors: Sequence[Processor], tokens: Sequence[int], logits: np.ndarray) -> np.ndarray:
    """The scores of the next token after `tokens`."""
    if not processors:
        return logits
    scores = logits.astype(np.float32)
    # A processor may meet logits that are no numbers, which one of them removes, and scores of tokens that are out.
    with np.errstate(invalid="ignore", over="ignore"):
        for process in processors:
            scores = process(tokens, scores)
    return scores


def _made(rules: GenerationRules, row: Row) -> Iterator[Processor]:
    yield from _of_content(rules, row)
    yield from _of_length(rules, row)


def _of_content(rules: GenerationRules, row: Row) -> Iterator[Processor]:
    """Those that look at what is read and written."""
    if rules.sequence_bias:
        yield biased(rules.sequence_bias, rules.biases)
    if rules.encoder_repetition_penalty != 1 and row.read is not None:
        yield favoured(row.read, rules.encoder_repetition_penalty)
    if rules.repetition_penalty != 1:
        yield lambda tokens, scores: penalized(scores, sorted(set(tokens)), rules.repetition_penalty)
    if rules.no_repeat_ngram_size:
        yield without_repeats(rules.no_repeat_ngram_size)
    if rules.encoder_no_repeat_ngram_size and row.read is not None:
        yield without_repeats_of(row.read, rules.encoder_no_repeat_ngram_size)
    # A word that is an end alone is no bad one.
    if words := tuple(word for word in rules.bad_words_ids if not (len(word) == 1 and word[0] in row.eos)):
        yield biased(words, (-np.inf,) * len(words))


def _of_length(rules: GenerationRules, row: Row) -> Iterator[Processor]:
    """Those that look at how long the row is."""
    start = len(row.written)
    if least := rules.min_new_tokens + start if rules.min_new_tokens else rules.min_length:
        yield while_shorter(least, row.eos)
    if rules.forced_bos_token_id is not None:
        yield forced_at(1, (rules.forced_bos_token_id,))
    if rules.forced_eos_token_id:
        yield forced_at(start + row.limit - 1, rules.forced_eos_token_id)
    if rules.remove_invalid_values:
        yield numbers_only
    if rules.exponential_decay_length_penalty is not None and row.eos:
        begin, factor = rules.exponential_decay_length_penalty
        yield pressed_to_end(start + begin, factor, row.eos)
    if rules.suppress_tokens:
        yield lambda tokens, scores: without(scores, rules.suppress_tokens)
    if rules.begin_suppress_tokens:
        # A forced token before it is not the first that is chosen.
        first = start if start > 1 or rules.forced_bos_token_id is None else start + 1
        yield lambda tokens, scores: without(scores, rules.begin_suppress_tokens) if len(tokens) == first else scores


def biased(sequences: Sequences, biases: Sequence[float]) -> Processor:
    """Adds a sequence's bias to its last token where the row ends in the tokens before it."""

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        total = np.zeros_like(scores)
        for (*before, last), bias in zip(sequences, biases, strict=True):
            if not before or list(tokens[-len(before) :]) == before:
                total[last] += bias
        result: np.ndarray = scores + total
        return result

    return process


def penalized(scores: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Scores of seen tokens s become s / penalty where positive, s * penalty where negative (arXiv:1909.05858)."""
    result: np.ndarray = scores.copy()
    # A vocabulary may have tokens that are read and never written.
    places = [token for token in seen if token < len(scores)]
    own = result[places]
    result[places] = np.where(own < 0, own * penalty, own / penalty)
    return result


def favoured(read: Sequence[int], penalty: float) -> Processor:
    """The reverse of `penalized`, for what the model reads."""
    seen = sorted(set(read))
    return lambda tokens, scores: penalized(scores, seen, 1 / penalty)


def without_repeats(size: int) -> Processor:
    """No `size` tokens in a row are written twice."""
    return lambda tokens, scores: without(scores, _followers(tokens, tokens, size))


def without_repeats_of(read: Sequence[int], size: int) -> Processor:
    """No `size` tokens in a row of what is read are written."""
    return lambda tokens, scores: without(scores, _followers(read, tokens, size))


def while_shorter(least: int, eos: Sequence[int]) -> Processor:
    """No end before there are so many tokens, those of the prompt included."""
    return lambda tokens, scores: without(scores, eos) if len(tokens) < least else scores


def forced_at(length: int, forced: Sequence[int]) -> Processor:
    """These alone where the row has so many tokens."""

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        if len(tokens) != length:
            return scores
        result = np.full_like(scores, -np.inf)
        result[list(forced)] = 0
        return result

    return process


def numbers_only(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Finite scores: 0 for what is no number, the largest and smallest for infinities."""
    result: np.ndarray = np.nan_to_num(scores, nan=0.0)
    return result


def pressed_to_end(begin: float, factor: float, eos: Sequence[int]) -> Processor:
    """Ends become more likely with each token after `begin`: their score s is |s| (factor^n - 1) more."""

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        if len(tokens) <= begin:
            return scores
        result: np.ndarray = scores.copy()
        ends = [token for token in eos if token < len(scores) and np.isfinite(scores[token])]
        result[ends] += np.abs(scores[ends]) * np.float32(factor ** (len(tokens) - begin) - 1)
        return result

    return process


def without(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """None of these."""
    result: np.ndarray = scores.copy()
    result[[token for token in tokens if token < len(scores)]] = -np.inf
    return result


def _followers(text: Sequence[int], tokens: Sequence[int], size: int) -> list[int]:
    """What follows, anywhere in `text`, the last `size` - 1 of `tokens`."""
    if len(tokens) + 1 < size:
        return []
    last = list(tokens[len(tokens) + 1 - size :])
    return [text[end] for end in range(size - 1, len(text)) if list(text[end + 1 - size : end]) == last]
