"""Reads and checks the rules of generation_config.json for choosing tokens, except those for drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened

# Several sequences of token ids.
Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GenerationRules:
    """The rules. Names and meaning are those of transformers; rules with their default values change nothing.

    Attributes:
        sequence_bias: The sequences of the field `sequence_bias`.
        biases: The bias of each of these sequences.
        encoder_repetition_penalty: Raises the scores of tokens that the model reads, see `processors.favoured`.
        repetition_penalty: Lowers the scores of tokens that the row contains, see `processors.penalized`.
        no_repeat_ngram_size: Length of the sequences that the row must not repeat; 0 for no rule.
        encoder_no_repeat_ngram_size: Length of the sequences that must not be repeated from what the model reads; 0 for
            no rule.
        bad_words_ids: Sequences that must not be written.
        min_length: Smallest number of tokens, including those of the prompt.
        min_new_tokens: Smallest number of new tokens.
        forced_bos_token_id: The second token of the row; None if it is not forced.
        forced_eos_token_id: The last token of a row that reaches its largest length is one of these; empty if it is
            not forced.
        remove_invalid_values: Whether NaN and infinities among the logits are replaced.
        exponential_decay_length_penalty: A number of new tokens and a factor, see `processors.pressed_to_end`.
        suppress_tokens: Tokens that must not be written.
        begin_suppress_tokens: Tokens that must not be the first new token.
        file: The file that the rules come from.
    """

    sequence_bias: Sequences = ()
    biases: tuple[float, ...] = ()
    encoder_repetition_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequences = ()
    min_length: int = 0
    min_new_tokens: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[float, float] | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    file: Path = field(default=Path("generation_config.json"), compare=False)

    def check(self, vocabulary: int) -> None:
        """Checks that the model can write the tokens of these rules, except suppressed ones, which need no check.

        Args:
            vocabulary: Number of tokens of the model.

        Raises:
            InputError: A token is not in the vocabulary.
        """
        forced = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for name, sequences in (
            ("sequence_bias", self.sequence_bias),
            ("bad_words_ids", self.bad_words_ids),
            ("forced_bos_token_id", (forced,)),
            ("forced_eos_token_id", (self.forced_eos_token_id,)),
        ):
            if bad := [token for sequence in sequences for token in sequence if token >= vocabulary]:
                raise InputError(
                    f"{self.file}: field {name!r}: expected tokens from 0 to below {vocabulary}, found {bad[0]}"
                )


def read_rules(file: Path, values: Mapping[str, Any]) -> GenerationRules:
    """Reads the rules.

    Args:
        file: The file, for messages.
        values: Its content.

    Raises:
        InputError: A field has a wrong value. The message names the file and the field.
    """
    given = _Fields(file, values)
    bias = given.sequence_bias()
    first = given.ids("forced_bos_token_id")
    if len(first) > 1:
        given.refuse("forced_bos_token_id", "one token id")
    return GenerationRules(
        sequence_bias=tuple(sequence for sequence, _ in bias),
        biases=tuple(number for _, number in bias),
        encoder_repetition_penalty=given.penalty("encoder_repetition_penalty"),
        repetition_penalty=given.penalty("repetition_penalty"),
        no_repeat_ngram_size=given.count("no_repeat_ngram_size"),
        encoder_no_repeat_ngram_size=given.count("encoder_no_repeat_ngram_size"),
        bad_words_ids=given.sequences("bad_words_ids"),
        min_length=given.count("min_length"),
        min_new_tokens=given.count("min_new_tokens"),
        forced_bos_token_id=first[0] if first else None,
        forced_eos_token_id=given.ids("forced_eos_token_id"),
        remove_invalid_values=values.get("remove_invalid_values") is True,
        exponential_decay_length_penalty=given.decay(),
        suppress_tokens=given.ids("suppress_tokens"),
        begin_suppress_tokens=given.ids("begin_suppress_tokens"),
        file=file,
    )


def token_ids(file: Path, name: str, value: Any) -> tuple[int, ...]:
    """Returns the token ids of a field that holds one id or a list of ids.

    Negative ids, as in old configs, mean that there is none.

    Args:
        file: The file, for messages.
        name: Name of the field.
        value: Value of the field.

    Raises:
        InputError: The value is something else.
    """
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in found):
        raise InputError(f"{file}: field {name!r}: expected a whole number or a list of them, found {shortened(value)}")
    return tuple(token for token in found if token >= 0)


class _Fields:
    """The fields of a file, each checked when it is read."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self._file, self._values = file, values

    def refuse(self, name: str, expected: str) -> NoReturn:
        raise InputError(
            f"{self._file}: field {name!r}: expected {expected}, found {shortened(self._values.get(name))}"
        )

    def ids(self, name: str) -> tuple[int, ...]:
        return token_ids(self._file, name, self._values.get(name))

    def count(self, name: str) -> int:
        """Returns a number of tokens; 0 if the field is missing or negative."""
        value = self._values.get(name)
        if value is not None and type(value) is not int:
            self.refuse(name, "a whole number")
        return max(0, value or 0)

    def penalty(self, name: str) -> float:
        value = self._values.get(name)
        if value is None:
            return 1.0
        if not _number(value) or value <= 0:
            self.refuse(name, "a number above 0")
        return float(value)

    def sequences(self, name: str) -> Sequences:
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(map(_sequence, value)):
            self.refuse(name, "a list of lists of token ids")
        return tuple(map(tuple, value))

    def sequence_bias(self) -> list[tuple[tuple[int, ...], float]]:
        """Returns pairs of token ids and a bias. Of pairs with equal token ids, the last counts, as in transformers."""
        name = "sequence_bias"
        value = self._values.get(name)
        if value is None:
            return []
        for pair in value if isinstance(value, list) else [value]:
            if not isinstance(pair, list) or len(pair) != 2 or not _sequence(pair[0]) or not _number(pair[1]):
                self.refuse(name, "a list of pairs, a list of token ids and a number each")
        return list({tuple(sequence): float(bias) for sequence, bias in value}.items())

    def decay(self) -> tuple[float, float] | None:
        name = "exponential_decay_length_penalty"
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or not all(map(_number, value)) or value[1] <= 0:
            self.refuse(name, "a list of two numbers, a start and a factor above 0")
        return float(value[0]), float(value[1])


def _sequence(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
