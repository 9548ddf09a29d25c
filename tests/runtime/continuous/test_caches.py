"""Caches of a batch whose rows join and leave: the same logits as each row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from adapter_export import AdapterSession, graft
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.continuous.batcher import ContinuousBatcher
from adapter_export.runtime.continuous.caches import SharedCache, bytes_per_token
from adapter_export.runtime.continuous.lane import new_cache
from adapter_export.runtime.generation.bound_graph import BoundGraph
from tests.bundles import Exported
from tests.finished import Finished

PROMPTS = ([5, 9, 7, 11], [8], [6, 30, 12, 9, 10, 44, 7], [20, 21])


@pytest.fixture(scope="module")
def grafted(finished: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterSession]:
    """A graph of GenAI's builder: its attention writes the cache in place."""
    made = finished("fp32", "llama")
    folder = tmp_path_factory.mktemp("grafted") / "bundle"
    graft(made.graph, {"lora": made.adapters["lora"]}, folder)
    with AdapterSession(folder) as session:
        yield session


def test_a_cache_written_in_place(grafted: AdapterSession) -> None:
    assert isinstance(new_cache(grafted.manifest), SharedCache)
    asked = [(prompt, ("lora", None)[n % 2], 3 + 9 * n) for n, prompt in enumerate(PROMPTS)]
    with ContinuousBatcher(grafted, max_rows=3) as batcher:
        streams = [batcher.submit(p, a, max_new_tokens=n, ignore_eos=True) for p, a, n in asked]
        for stream, (prompt, adapter, new) in zip(streams, asked, strict=True):
            alone = grafted.generate([prompt], adapter, max_new_tokens=new, ignore_eos=True).completions()[0].tokens
            assert tuple(token.token for token in stream) == alone


@pytest.mark.parametrize("kind", ["grown", "in place"])
def test_rows_that_change_places(kind: str, llama_bundle: Exported, grafted: AdapterSession) -> None:
    with AdapterSession(llama_bundle.bundle) as own:
        session = own if kind == "grown" else grafted
        model = session.manifest.model
        graph = session.bound_to(model, session.lease([None]))

        def read(tokens: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
            cache = new_cache(session.manifest)
            cache.change(graph, [], [{}])
            logits = cache.run(np.array([tokens], np.int64))
            return cache.row(0), logits[0]

        rows = [read(prompt)[0] for prompt in PROMPTS]
        cache = new_cache(session.manifest)
        cache.change(session.bound_to(model, session.lease([None] * 3)), [], rows[:3])
        cache.run(np.array([[11], [12], [13]]))
        # The second row leaves, the others change places, and a fourth joins.
        cache.change(session.bound_to(model, session.lease([None] * 3)), [2, 0], [rows[3]])
        assert cache.lengths.tolist() == [8, 5, 2]
        logits = cache.run(np.array([[14], [15], [16]]))
        for found, text in zip(logits, ([*PROMPTS[2], 13, 14], [*PROMPTS[0], 11, 15], [*PROMPTS[3], 16]), strict=True):
            expected = read(text)[1]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        for number, text in enumerate(([*PROMPTS[2], 13, 14], [*PROMPTS[0], 11, 15], [*PROMPTS[3], 16])):
            for name, value in read(text)[0].items():
                np.testing.assert_allclose(cache.row(number)[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_a_prompt_gets_the_logits_of_its_last_token_only(
    llama_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    run = BoundGraph.run

    def spy(self: BoundGraph, outputs: list[str], host: tuple[str, ...] = ()) -> Any:
        found = run(self, outputs, host)
        computed.append(found["logits"].shape()[:2])
        return found

    monkeypatch.setattr(BoundGraph, "run", spy)
    with AdapterSession(llama_bundle.bundle) as session:
        cache = new_cache(session.manifest)
        cache.change(session.bound_to(session.manifest.model, session.lease([None])), [], [{}])
        cache.run(np.array([PROMPTS[0]], np.int64))
    assert computed == [[1, 1]]


def test_bytes_of_a_token(llama_bundle: Exported) -> None:
    with AdapterSession(llama_bundle.bundle) as session:
        info = session.manifest.graphs[session.manifest.model]
        cache = new_cache(session.manifest)
        cache.change(session.bound_to(session.manifest.model, session.lease([None])), [], [{}])
        cache.run(np.array([[5, 6, 7]]))
        assert 3 * bytes_per_token(info) == sum(value.nbytes for value in cache.row(0).values())


def test_cuda_is_refused_for_a_cache_written_in_place(grafted: AdapterSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafted, "provider", Provider.CUDA)
    with pytest.raises(InputError, match="on the cpu only"):
        ContinuousBatcher(grafted)
