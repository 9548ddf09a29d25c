"""What the language model demo tells is true: its measures, on a tiny LLaMA. The demo itself checks the real one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export import AdapterSession, load_pytorch
from samples import demo_llm
from tests.bundles import Exported

PROMPTS = [[5, 9, 4, 20, 7], [11, 3]]


@pytest.fixture(scope="module")
def session(llama_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(llama_bundle.bundle) as opened:
        yield opened


def test_texts_are_prose_and_those_that_are_read_were_not_trained_on(tmp_path: Path) -> None:
    train, test = (
        [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        for path in demo_llm.write_texts(tmp_path)
    )
    assert (len(train), len(test)) == (demo_llm.TRAIN_TEXTS, demo_llm.TEST_TEXTS)
    assert len({*train, *test}) == len(train) + len(test)
    assert all(text.endswith(".") and "\n" not in text for text in train)


def test_perplexity_is_that_of_every_token_but_the_first() -> None:
    def certain_of_5(tokens: Any) -> np.ndarray:
        logits = np.zeros((len(tokens), 8), np.float32)
        logits[:, 5] = math.log(9)
        return logits

    # p(5) = 9/16, p of any other 1/16: -log p over 5, 2 and 5; the first token of each text is given.
    perplexity, best = demo_llm.read(certain_of_5, [[1, 5, 2], [3, 5]])
    assert perplexity == pytest.approx((16 / 9 * 16 * 16 / 9) ** (1 / 3))
    assert best.tolist() == [5, 5, 5]


@pytest.mark.parametrize("adapter", [None, "ia3", "houlsby"])
def test_both_readers_read_the_same(adapter: str | None, session: AdapterSession, llama_bundle: Exported) -> None:
    module = load_pytorch(llama_bundle.base, None if adapter is None else llama_bundle.adapters[adapter])
    ours, theirs = demo_llm.onnx_reader(session, adapter), demo_llm.torch_reader(module)
    np.testing.assert_allclose(ours(PROMPTS[0]), theirs(PROMPTS[0]), rtol=1e-4, atol=1e-5)


def test_greedy_tokens_are_held_against_pytorch(session: AdapterSession, llama_bundle: Exported) -> None:
    in_torch = demo_llm.torch_reader(load_pytorch(llama_bundle.base, llama_bundle.adapters["houlsby"]))
    clear, wrong = demo_llm.unlike_torch(in_torch, session, PROMPTS, "houlsby")
    assert clear > len(PROMPTS) * demo_llm.NEW_TOKENS * 0.9
    assert wrong == 0
    assert demo_llm.unlike_torch(in_torch, session, PROMPTS, "ia3")[1] > 0


def test_turns_rotate_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    seconds = demo_llm.in_turns({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=2)
    assert "".join(calls) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_times_as_fast_is_the_median_of_rounds() -> None:
    seconds = {"a": [1.0, 1.0, 4.0], "b": [2.0, 3.0, 4.0]}
    assert demo_llm.times_as_fast(seconds, "a", "b") == 2
