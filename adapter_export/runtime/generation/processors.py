"""Applies the rules of generation_config.json to logits: one function for each rule.

Each function takes the parameters of its rule and returns a processor. A processor maps (tokens of the row so far,
scores [vocabulary], float32) to new scores. A token is chosen by the final scores. Order and meaning of the rules are
those of transformers for a row that is generated alone; so padding is never penalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.runtime.generation.rules import Rules, Sequences

Processor = Callable[[Sequence[int], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What the rules need to know about a row.

    Attributes:
        written: Tokens of the decoder before the first new one.
        read: Tokens that the model reads: the prompt, or the input of the encoder; None if that is not text.
        eos: Tokens that end the row.
        limit: Largest number of new tokens.
    """

    written: Sequence[int]
    read: Sequence[int] | None
    eos: Sequence[int]
    limit: int


def processors_for(rules: Rules, row: Row) -> tuple[Processor, ...]:
    """Returns the processors of a row, in order; empty if no rule applies."""
    return tuple(_made(rules, row))


def processed(processors: Sequence[Processor], tokens: Sequence[int], logits: np.ndarray) -> np.ndarray:
    """Returns the scores of the next token.

    Args:
        processors: The processors of the row.
        tokens: Tokens of the row so far.
        logits: Logits [vocabulary].

    Returns:
        Scores [vocabulary], float32; the logits themselves if there are no processors.
    """
    if not processors:
        return logits
    scores = logits.astype(np.float32)
    # Logits may be NaN, which one of the processors removes. Scores of excluded tokens are -inf.
    with np.errstate(invalid="ignore", over="ignore"):
        for process in processors:
            scores = process(tokens, scores)
    return scores


def _made(rules: Rules, row: Row) -> Iterator[Processor]:
    yield from _of_content(rules, row)
    yield from _of_length(rules, row)


def _of_content(rules: Rules, row: Row) -> Iterator[Processor]:
    """Yields processors that depend on which tokens are read and written."""
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
    # A word that is only an end token is allowed.
    if words := tuple(word for word in rules.bad_words_ids if not (len(word) == 1 and word[0] in row.eos)):
        yield biased(words, (-np.inf,) * len(words))


def _of_length(rules: Rules, row: Row) -> Iterator[Processor]:
    """Yields processors that depend on the number of tokens of the row."""
    start = len(row.written)
    if minimum := rules.min_new_tokens + start if rules.min_new_tokens else rules.min_length:
        yield while_shorter(minimum, row.eos)
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
        # A forced first token is not counted as chosen.
        first = start if start > 1 or rules.forced_bos_token_id is None else start + 1
        yield lambda tokens, scores: without(scores, rules.begin_suppress_tokens) if len(tokens) == first else scores


def biased(sequences: Sequences, biases: Sequence[float]) -> Processor:
    """Adds the bias of a sequence to its last token if the row ends with the other tokens of the sequence."""

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        total = np.zeros_like(scores)
        for (*before, last), bias in zip(sequences, biases, strict=True):
            if not before or list(tokens[-len(before) :]) == before:
                total[last] += bias
        result: np.ndarray = scores + total
        return result

    return process


def penalized(scores: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Returns scores in which the score s of each seen token is replaced, see arXiv:1909.05858.

    A positive s becomes s / penalty, a negative s becomes s * penalty.
    """
    result: np.ndarray = scores.copy()
    # Some models read tokens that have no logits.
    places = [token for token in seen if token < len(scores)]
    own = result[places]
    result[places] = np.where(own < 0, own * penalty, own / penalty)
    return result


def favoured(read: Sequence[int], penalty: float) -> Processor:
    """Raises the scores of tokens that the model reads, by the reverse of `penalized`."""
    seen = sorted(set(read))
    return lambda tokens, scores: penalized(scores, seen, 1 / penalty)


def without_repeats(size: int) -> Processor:
    """Excludes tokens that would repeat a sequence of `size` tokens of the row."""
    return lambda tokens, scores: without(scores, _followers(tokens, tokens, size))


def without_repeats_of(read: Sequence[int], size: int) -> Processor:
    """Excludes tokens that would repeat a sequence of `size` tokens that the model reads."""
    return lambda tokens, scores: without(scores, _followers(read, tokens, size))


def while_shorter(minimum: int, eos: Sequence[int]) -> Processor:
    """Excludes end tokens while the row has fewer than `minimum` tokens, including those of the prompt."""
    return lambda tokens, scores: without(scores, eos) if len(tokens) < minimum else scores


def forced_at(length: int, forced: Sequence[int]) -> Processor:
    """Allows only the `forced` tokens when the row has exactly `length` tokens."""

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        if len(tokens) != length:
            return scores
        result = np.full_like(scores, -np.inf)
        result[list(forced)] = 0
        return result

    return process


def numbers_only(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Returns finite scores: 0 in place of NaN, the largest and smallest float32 in place of infinities."""
    result: np.ndarray = np.nan_to_num(scores, nan=0.0)
    return result


def pressed_to_end(begin: float, factor: float, eos: Sequence[int]) -> Processor:
    """Makes end tokens more likely with each token beyond `begin`.

    With n tokens beyond it, the score s of an end token is increased by |s| (factor^n - 1).
    """

    def process(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
        if len(tokens) <= begin:
            return scores
        result: np.ndarray = scores.copy()
        ends = [token for token in eos if token < len(scores) and np.isfinite(scores[token])]
        result[ends] += np.abs(scores[ends]) * np.float32(factor ** (len(tokens) - begin) - 1)
        return result

    return process


def without(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Returns scores in which these tokens are excluded: their score is -inf."""
    result: np.ndarray = scores.copy()
    result[[token for token in tokens if token < len(scores)]] = -np.inf
    return result


def _followers(text: Sequence[int], tokens: Sequence[int], size: int) -> list[int]:
    """Returns all tokens that follow, anywhere in `text`, the last `size` - 1 tokens of `tokens`."""
    if len(tokens) + 1 < size:
        return []
    last = list(tokens[len(tokens) + 1 - size :])
    return [text[end] for end in range(size - 1, len(text)) if list(text[end + 1 - size : end]) == last]
