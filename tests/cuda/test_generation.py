"""Generating on the GPU: the cache stays there, and every token is the one that float64 PyTorch chooses, wherever the
two best tokens are further apart than the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported
from tests.cuda.oracle import FLOAT32, first_output, in_pytorch

NEW = 32
LENGTHS = (5, 1, 17, 9)
ADAPTERS = (None, "ia3", "houlsby")


def prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in lengths]


def assert_generated(model: Any, prompt: list[int], tokens: list[int], logits: np.ndarray) -> None:
    """The logits are those of one forward over the whole text, and the tokens the largest of them."""
    text = np.array([[*prompt, *tokens]])
    whole = first_output(model, {"input_ids": text, "attention_mask": np.ones_like(text)})[0]
    wanted = whole[len(prompt) - 1 : -1]
    largest = np.abs(logits - wanted).max()
    assert largest / np.sqrt(np.square(wanted).mean()) < FLOAT32
    second, first = np.partition(wanted, -2, axis=-1)[:, -2:].T
    clear = first - second > 2 * largest
    assert clear.mean() > 0.9, "most tokens must be decided"
    assert (wanted.argmax(-1) == np.array(tokens))[clear].all()


@pytest.mark.parametrize("bundle", ["llama_bundle", "gpt2_bundle"])
def test_tokens_are_those_of_pytorch(bundle: str, provider: Provider, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    models = {adapter: in_pytorch(exported, adapter) for adapter in ADAPTERS}
    with AdapterSession(exported.bundle, provider=provider) as session:
        for adapter in (*ADAPTERS, *ADAPTERS):
            steps = list(session.generate(prompts(), adapter, max_new_tokens=NEW, ignore_eos=True))
            logits = np.stack([step.logits for step in steps], axis=1)
            for row, prompt in enumerate(prompts()):
                assert_generated(models[adapter], prompt, [step.tokens[row] for step in steps], logits[row])


def test_the_cache_stays_on_the_device(llama_bundle: Exported, provider: Provider) -> None:
    with AdapterSession(llama_bundle.bundle, provider=provider) as session:
        generation = session.generate(prompts(), "houlsby", max_new_tokens=4, ignore_eos=True)
        for _ in range(3):
            next(generation)
            decoder = generation._decoder
            assert decoder is not None
            held = decoder._graph._held
            assert {held[past].device_name() for past in decoder._grown.values()} == {str(provider)}


def test_a_row_is_what_it_is_alone(llama_bundle: Exported, provider: Provider) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos": True}
    with AdapterSession(llama_bundle.bundle, provider=provider) as session:
        together = [step.logits for step in session.generate(prompts(), "ia3", **settings)]
        for row, prompt in enumerate(prompts()):
            alone = [step.logits[0] for step in session.generate([prompt], "ia3", **settings)]
            # The first token, before rows that differ in a close one go their own ways.
            assert np.abs(together[0][row] - alone[0]).max() <= FLOAT32 * np.sqrt(np.mean(alone[0] ** 2))


def test_rows_of_a_bank_generate_with_their_own_adapters(export_cached: Any, provider: Provider) -> None:
    exported: Exported = export_cached("llama", mode="bank", num_hidden_layers=1)
    models = {adapter: in_pytorch(exported, adapter) for adapter in ADAPTERS}
    rows = ["ia3", None, "houlsby", "ia3"]
    with AdapterSession(exported.bundle, provider=provider) as session:
        steps = list(session.generate(prompts(), adapters=rows, max_new_tokens=NEW, ignore_eos=True))
    logits = np.stack([step.logits for step in steps], axis=1)
    for row, (adapter, prompt) in enumerate(zip(rows, prompts(), strict=True)):
        assert_generated(models[adapter], prompt, [step.tokens[row] for step in steps], logits[row])
