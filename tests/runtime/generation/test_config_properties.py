"""generation_config.json of any values: what is taken is what is there, and the rest is one error."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapter_export.errors import InputError
from adapter_export.runtime.generation.config import GenerationConfig, read_generation_config
from tests.fuzz import mutators
from tests.strategies import damaged, file_of, json_values

tokens = st.integers(0, 2**40)
numbers = st.floats(min_value=1e-6, max_value=1e6)
fields: dict[str, Any] = {
    "eos_token_id": tokens | st.lists(tokens, max_size=3),
    "pad_token_id": tokens,
    "max_new_tokens": st.integers(1, 2**40),
    "repetition_penalty": numbers,
    "no_repeat_ngram_size": st.integers(0, 50),
    "bad_words_ids": st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=3),
    "suppress_tokens": st.lists(tokens, max_size=3),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 100), numbers).map(list),
    "forced_bos_token_id": tokens,
    "min_length": st.integers(0, 100),
}


def read(data: bytes) -> GenerationConfig | str:
    with file_of(data, "generation_config.json") as path:
        try:
            return read_generation_config(path.parent)
        except InputError as error:
            return str(error)


@given(st.fixed_dictionaries({}, optional=fields))
def test_what_is_there_is_taken(values: dict[str, Any]) -> None:
    found = read(json.dumps(values).encode())
    assert isinstance(found, GenerationConfig)
    eos = values.get("eos_token_id", [])
    assert found.eos == tuple(eos if isinstance(eos, list) else [eos])
    assert found.pad == values.get("pad_token_id", 0)
    assert found.max_new_tokens == values.get("max_new_tokens")
    assert found.unread == ()
    assert found.rules.repetition_penalty == values.get("repetition_penalty", 1)
    assert found.rules.bad_words_ids == tuple(map(tuple, values.get("bad_words_ids", ())))
    assert found.rules.min_length == values.get("min_length", 0)
    decay = values.get("exponential_decay_length_penalty")
    assert found.rules.exponential_decay_length_penalty == (None if decay is None else tuple(decay))


VALID = json.dumps(
    {"eos_token_id": [2, 3], "repetition_penalty": 1.2, "sequence_bias": [[[1], -2.0]], "bad_words_ids": [[1]],
     "exponential_decay_length_penalty": [3, 1.1], "max_new_tokens": 5, "do_sample": True, "top_k": 5}
).encode()  # fmt: skip


@given(damaged(VALID, mutators.of_json) | st.fixed_dictionaries({}, optional=dict.fromkeys(fields, json_values)).map(
    lambda values: json.dumps(values).encode()))  # fmt: skip
def test_any_values(data: bytes) -> None:
    found = read(data)
    if isinstance(found, str):
        assert len(found.splitlines()) == 1
        assert len(found) < 2000
    else:
        assert all(token >= 0 for token in (*found.eos, found.pad, *found.rules.suppress_tokens))
        assert math.isfinite(found.rules.repetition_penalty)
        assert found.rules.repetition_penalty > 0
