"""Each rule, against transformers' own processor on random rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapter_export.runtime.generation.processors import Row, processed, processors_for
from adapter_export.runtime.generation.rules import GenerationRules

VOCABULARY, START, LIMIT = 12, 4, 6
EOS = (3, 5)


def by_transformers(
    values: dict[str, Any], read: list[int], tokens: list[int], logits: np.ndarray, start: int = START
) -> np.ndarray:
    """Scores by the processors that `generate` makes of a GenerationConfig, in its own order."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation.utils import GenerationMixin

    config = GenerationConfig(**{"eos_token_id": list(EOS), "max_length": start + LIMIT, **values})
    config._eos_token_tensor = torch.tensor(EOS)

    class Model(GenerationMixin):
        config: Any = type("Config", (), {"is_encoder_decoder": False})()

    if config.min_new_tokens:
        config.min_length = config.min_new_tokens + start
    processors = Model()._get_logits_processor(config, start, torch.tensor([read]))
    return np.asarray(processors(torch.tensor([tokens]), torch.from_numpy(logits[None].copy()))[0].numpy())


RULES: list[dict[str, Any]] = [
    {"sequence_bias": [[[1], 2.5], [[2, 1], -4.0], [[7, 2, 1], -np.inf]]},
    {"encoder_repetition_penalty": 2.5},
    {"encoder_repetition_penalty": 0.4},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"bad_words_ids": [[1], [2, 4], [0, 2, 6], [3], [5, 5]]},
    {"min_length": 7},
    {"min_new_tokens": 4},
    {"min_length": 9, "min_new_tokens": 1},
    {"forced_bos_token_id": 7},
    {"forced_eos_token_id": [3, 5]},
    {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": (1, 1.3)},
    {"suppress_tokens": [0, 9, 500, -1]},
    {"begin_suppress_tokens": [2, 8]},
    {"forced_bos_token_id": 7, "begin_suppress_tokens": [2, 8]},
]


def _rules(values: dict[str, Any]) -> GenerationRules:
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if "sequence_bias" in values:
        pairs = values["sequence_bias"]
        given = {"sequence_bias": tuple(tuple(p[0]) for p in pairs), "biases": tuple(p[1] for p in pairs)}
    if "bad_words_ids" in values:
        given = {"bad_words_ids": tuple(map(tuple, values["bad_words_ids"]))}
    if "suppress_tokens" in values:
        given = {"suppress_tokens": tuple(token for token in values["suppress_tokens"] if token >= 0)}
    return GenerationRules(**given)


def _cases(seed: int) -> list[tuple[list[int], list[int], np.ndarray]]:
    """What is read, the tokens so far, of every length that a row may have, and logits."""
    rng = np.random.default_rng(seed)
    made = []
    for length in range(START, START + LIMIT):
        for _ in range(8):
            tokens = rng.integers(0, 8, length).tolist()
            logits = rng.normal(0, 3, VOCABULARY).astype(np.float32)
            made.append((tokens[:START], tokens, logits))
    return made


@pytest.mark.parametrize("values", RULES, ids="-".join)
def test_scores_are_those_of_transformers(values: dict[str, Any]) -> None:
    changed = 0
    for read, tokens, logits in _cases(1):
        if "remove_invalid_values" in values:
            logits[:3] = np.nan, np.inf, -np.inf
        wanted = by_transformers(values, read, tokens, logits)
        given = logits.copy()
        found = processed(processors_for(_rules(values), Row(tokens[:START], read, EOS, LIMIT)), tokens, given)
        assert np.array_equal(given, logits, equal_nan=True), "the logits themselves are judged later"
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        changed += not np.array_equal(wanted, logits, equal_nan=True)
    # A first token is forced where there is one token, which these rows are beyond.
    assert changed > 0 or "forced_bos_token_id" in values


@pytest.mark.parametrize("tokens", [[4], [4, 7], [4, 7, 1]])
@pytest.mark.parametrize("values", [RULES[-1], RULES[-7], RULES[-2]], ids=["both", "forced", "begin"])
def test_the_first_of_a_row_of_one_token(values: dict[str, Any], tokens: list[int]) -> None:
    logits = np.random.default_rng(2).normal(0, 3, VOCABULARY).astype(np.float32)
    wanted = by_transformers(values, [4], tokens, logits, start=1)
    found = processed(processors_for(_rules(values), Row([4], [4], EOS, LIMIT)), tokens, logits)
    np.testing.assert_array_equal(found, wanted)


def test_no_rules_cost_nothing() -> None:
    logits = np.ones(3, np.float16)
    assert processors_for(GenerationRules(), Row([1], [1], (2,), 5)) == ()
    assert processed((), [1], logits) is logits


def test_what_an_encoder_of_sounds_reads_is_no_text() -> None:
    rules = GenerationRules(encoder_repetition_penalty=2.0, encoder_no_repeat_ngram_size=2)
    assert processors_for(rules, Row([1], None, (2,), 5)) == ()


def test_without_ends_none_is_put_off() -> None:
    rules = GenerationRules(
        min_length=5, min_new_tokens=4, exponential_decay_length_penalty=(0, 2.0), bad_words_ids=((2,),)
    )
    logits = np.array([1, 2, 5, 3], np.float32)
    assert processed(processors_for(rules, Row([1], [1], (), 9)), [1], logits).tolist() == [1, 2, -np.inf, 3]
