"""Choosing tokens, against transformers' own processors and against probabilities on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.runtime.generation.processors import Row, penalized, processors_for
from adapter_export.runtime.generation.rules import GenerationRules
from adapter_export.runtime.generation.sampling import RowChooser, draw, warped
from adapter_export.runtime.generation.settings import GenerationSettings

ROWS, VOCABULARY = 8, 200


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Rows from flat to peaked."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((ROWS, VOCABULARY)) * np.arange(1, ROWS + 1)[:, None]).astype(np.float32)


def by_transformers(scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    processors: list[Any] = [TemperatureLogitsWarper(temperature)]
    processors += [TopKLogitsWarper(top_k)] if top_k is not None else []
    # As its `generate` does: the processor itself would drop, at 1.0, what underflows in float32.
    processors += [TopPLogitsWarper(top_p)] if top_p is not None and top_p < 1 else []
    wanted = LogitsProcessorList(processors)(torch.zeros(len(scores), 1, dtype=torch.long), torch.from_numpy(scores))
    return np.asarray(wanted.numpy(), np.float64)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max())
    return np.asarray(exponents / exponents.sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, VOCABULARY, VOCABULARY + 5])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.95, 1.0])
def test_filters_are_those_of_transformers(
    scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    for row, wanted in zip(scores, by_transformers(scores, temperature, top_k, top_p), strict=True):
        found = warped(row, temperature, top_k, top_p)
        assert np.array_equal(np.isfinite(found), np.isfinite(wanted))
        assert np.allclose(softmax(found), softmax(wanted), rtol=1e-4, atol=1e-9)


def test_equal_scores_at_the_border_of_top_k_all_stay() -> None:
    row = np.array([[1.0, 3.0, 2.0, 2.0, 0.0]], np.float32)
    found = np.isfinite(warped(row[0], 1.0, 2, None))
    assert found.tolist() == [False, True, True, True, False]
    assert np.array_equal(found, np.isfinite(by_transformers(row, 1.0, 2, None)[0]))


def test_the_penalty_is_that_of_transformers(scores: np.ndarray) -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    seen = [3, 5, 5, 199]
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen] * ROWS), torch.from_numpy(scores)).numpy()
    for row, expected in zip(scores, wanted, strict=True):
        found = penalized(row, sorted(set(seen)), 1.7)
        assert np.allclose(found, expected, rtol=1e-6)
        assert (found != row).sum() == 3


def test_a_draw_has_the_probabilities_of_its_scores() -> None:
    wanted = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        scores = np.log(wanted)
    generator = np.random.default_rng(1)
    count = 20_000
    found = np.bincount([draw(scores, generator) for _ in range(count)], minlength=6) / count
    assert (found[wanted == 0] == 0).all()
    # Four standard deviations of the largest.
    assert np.abs(found - wanted).max() < 4 * (0.25 / count) ** 0.5


def test_the_largest_random_number_draws_a_token_that_is_in() -> None:
    class Generator:
        def random(self) -> float:
            return 1.0

    assert draw(np.array([0.0, 1.0, -np.inf]), Generator()) == 1  # type: ignore[arg-type]


def test_a_tiny_temperature_is_greedy_and_no_number_is_lost() -> None:
    row = np.array([1e30, 2e30, -1e30], np.float32)
    settings = GenerationSettings(1, temperature=1e-300, seed=0)
    chooser = RowChooser(0, settings, [0], np.random.default_rng(0))
    assert [chooser(row) for _ in range(20)] == [1] * 20


def test_a_chooser_remembers_what_it_chose() -> None:
    rules = processors_for(GenerationRules(repetition_penalty=2.0), Row([2], [2], (), 4))
    chooser = RowChooser(0, GenerationSettings(4), [2], np.random.default_rng(0), rules)
    row = np.array([1.0, 3.0, 5.0, 2.6, -1.0], np.float32)
    # 2 is in the prompt: 5 / 2; then 1 was chosen: 3 / 2; then 3: 2.6 / 2.
    assert [chooser(row) for _ in range(4)] == [1, 3, 2, 2]


def test_suppressed_tokens_are_not_chosen() -> None:
    row = np.array([1.0, 3.0, 5.0, 4.0, 2.0], np.float16)
    for settings in (GenerationSettings(3), GenerationSettings(3, temperature=1e-3, seed=0)):
        rules = processors_for(GenerationRules(suppress_tokens=(2,), begin_suppress_tokens=(3,)), Row([0], [0], (), 3))
        chooser = RowChooser(0, settings, [0], np.random.default_rng(0), rules)
        assert [chooser(row) for _ in range(3)] == [1, 3, 3]
    assert row.tolist() == [1, 3, 5, 4, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    chooser = RowChooser(3, GenerationSettings(1), [0], np.random.default_rng(0))
    with pytest.raises(InputError, match=r"prompt 3: the model's logits hold (nan|inf|-inf): there is no next token"):
        chooser(np.full(4, value, np.float16))


def test_a_row_draws_by_its_own_seed() -> None:
    together = [generator.random() for generator in GenerationSettings(1, temperature=1.0, seed=5).generators(3)]
    alone = [GenerationSettings(1, temperature=1.0, seed=5 + row).generators(1)[0].random() for row in range(3)]
    chosen = [generator.random() for generator in GenerationSettings(1, temperature=1.0, seed=(7, 5)).generators(2)]
    assert together == alone
    assert chosen == [together[2], together[0]]
    assert len(set(together)) == 3
    unseeded = [GenerationSettings(1, temperature=1.0).generators(1)[0].random() for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number from 1, found 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens: expected a whole number from 1, found 1.5"),
        ({"temperature": -1}, "temperature: expected a number from 0 .greedy., found -1"),
        ({"temperature": float("nan")}, "temperature: expected .* found nan"),
        ({"temperature": float("inf")}, "temperature: expected .* found inf"),
        ({"temperature": 1, "top_k": 0}, "top_k: expected a whole number from 1, found 0"),
        ({"temperature": 1, "top_p": 0}, "top_p: expected a number above 0 and up to 1, found 0"),
        ({"temperature": 1, "top_p": 1.1}, "top_p: expected a number above 0 and up to 1, found 1.1"),
        ({"temperature": 1, "seed": -1}, "seed: expected a whole number from 0, .* found -1"),
        ({"temperature": 1, "seed": (1, "a")}, "seed: expected a whole number from 0"),
        ({"top_k": 5}, "top_k: expected a temperature above 0 with it"),
        ({"top_p": 0.5}, "top_p: expected a temperature above 0 with it"),
        ({"seed": 5}, "seed: expected a temperature above 0 with it"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected a number above 0, found 0"),
        ({"stop_tokens": ["a"]}, "stop_tokens: expected token ids, found .'a'."),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerationSettings(**{"max_new_tokens": 1, **settings})


def test_one_seed_for_each_prompt() -> None:
    with pytest.raises(InputError, match="seed: expected one for each of the 3 prompts, found 2"):
        GenerationSettings(1, temperature=1.0, seed=(1, 2)).generators(3)
