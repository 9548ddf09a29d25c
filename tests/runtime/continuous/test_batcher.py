"""Rows that begin and end independently have the tokens that they have alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.continuous.batcher import ContinuousBatcher
from adapter_export.runtime.continuous.row import Row
from adapter_export.runtime.continuous.stream import NewToken, TokenStream
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported

ADAPTERS = (None, "ia3", "houlsby")
LENGTHS = (5, 1, 17, 9, 30, 3, 12)


def prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in lengths]


def alone(session: AdapterSession, prompt: list[int], adapter: str | None, **settings: Any) -> tuple[int, ...]:
    return session.generate([prompt], adapter, **settings).completions()[0].tokens


def tokens_of(stream: TokenStream) -> tuple[int, ...]:
    return tuple(new.token for new in stream)


@pytest.fixture(scope="module", params=["llama", "gpt2", "fused"])
def swappable(request: pytest.FixtureRequest) -> Iterator[AdapterSession]:
    exported: Exported = request.getfixturevalue(f"{request.param}_bundle")
    with AdapterSession(exported.bundle) as session:
        yield session


@pytest.fixture(scope="module")
def bank(export_cached: Callable[..., Exported]) -> Iterator[AdapterSession]:
    with AdapterSession(export_cached("llama", mode="bank").bundle) as session:
        yield session


def check_all(session: AdapterSession, batcher: ContinuousBatcher) -> None:
    asked = [(prompt, ADAPTERS[number % 3], 4 + 5 * number) for number, prompt in enumerate(prompts())]
    streams = [batcher.submit(p, a, max_new_tokens=n, ignore_eos=True) for p, a, n in asked]
    for stream, (prompt, adapter, new) in zip(streams, asked, strict=True):
        expected = alone(session, prompt, adapter, max_new_tokens=new, ignore_eos=True)
        assert tokens_of(stream) == expected
        assert len(expected) == new


class TestTokens:
    def test_one_run_for_each_adapter(self, swappable: AdapterSession) -> None:
        with ContinuousBatcher(swappable, max_rows=4) as batcher:
            check_all(swappable, batcher)

    def test_a_bank_shares_its_runs(self, bank: AdapterSession) -> None:
        with ContinuousBatcher(bank, max_rows=4) as batcher:
            check_all(bank, batcher)
            assert batcher.statistics().rows_per_step > 2

    def test_drawn_tokens_depend_on_the_seed_alone(self, bank: AdapterSession) -> None:
        drawn = {"max_new_tokens": 12, "temperature": 1.5, "top_k": 20, "ignore_eos": True}
        asked = [(prompt, ADAPTERS[n % 3], 100 + n) for n, prompt in enumerate(prompts())]
        with ContinuousBatcher(bank) as batcher:
            streams = [batcher.submit(p, a, seed=seed, **drawn) for p, a, seed in asked]
            for stream, (prompt, adapter, seed) in zip(streams, asked, strict=True):
                assert tokens_of(stream) == alone(bank, prompt, adapter, seed=seed, **drawn)

    def test_a_long_prompt_is_read_in_parts(self, bank: AdapterSession, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("adapter_export.runtime.continuous.batcher.PROMPT_PART", 7)
        with ContinuousBatcher(bank) as batcher:
            for prompt in prompts((6, 7, 8, 14, 15, 40)):
                got = tokens_of(batcher.submit(prompt, "ia3", max_new_tokens=9))
                assert got == alone(bank, prompt, "ia3", max_new_tokens=9)

    def test_at_the_border_a_text_is_read_again(self, bank: AdapterSession, monkeypatch: pytest.MonkeyPatch) -> None:
        """As LongRoPE needs it, whose cache of a shorter text is not valid for a longer one."""
        again: list[int] = []
        read_again = Row.read_again

        def counted(row: Row) -> None:
            again.append(row.read)
            read_again(row)

        monkeypatch.setattr(Row, "read_again", counted)
        with ContinuousBatcher(bank, max_rows=4) as batcher:
            batcher._border, batcher._part = 12, None
            check_all(bank, batcher)
        assert set(again) == {12}
        assert len(again) > 2

    def test_probabilities_are_those_of_the_logits(self, bank: AdapterSession) -> None:
        (prompt,) = prompts((11,))
        steps = list(bank.generate([prompt], "houlsby", max_new_tokens=6, ignore_eos=True))
        with ContinuousBatcher(bank) as batcher:
            found = list(batcher.submit(prompt, "houlsby", max_new_tokens=6, ignore_eos=True, logprobs=3))
        for step, new in zip(steps, found, strict=True):
            wide = step.logits[0].astype(np.float64)
            exact = wide - np.log(np.exp(wide).sum())
            assert new.logprob == pytest.approx(exact[new.token], abs=1e-5)
            assert [token for token, _ in new.top] == np.argsort(-exact)[:3].tolist()
            assert [value for _, value in new.top] == pytest.approx(np.sort(exact)[::-1][:3], abs=1e-5)

    def test_without_probabilities_there_are_none(self, bank: AdapterSession) -> None:
        with ContinuousBatcher(bank) as batcher:
            (new,) = batcher.submit([5, 6], max_new_tokens=1)
        assert new == NewToken(new.token, "length")


class TestEnds:
    def test_a_stop_token_frees_the_place(self, bank: AdapterSession) -> None:
        (prompt,) = prompts((9,))
        expected = alone(bank, prompt, "ia3", max_new_tokens=30, ignore_eos=True)
        stop = expected[4]
        with ContinuousBatcher(bank, max_rows=1) as batcher:
            first = batcher.submit(prompt, "ia3", max_new_tokens=30, ignore_eos=True, stop_tokens=[stop])
            second = batcher.submit(prompt, max_new_tokens=3)
            news = list(first)
            assert [new.token for new in news] == list(expected[: expected.index(stop) + 1])
            assert [new.finish for new in news] == [None] * (len(news) - 1) + ["stop"]
            assert tokens_of(second) == alone(bank, prompt, None, max_new_tokens=3)

    def test_a_closed_stream_leaves_the_others_as_they_are(self, bank: AdapterSession) -> None:
        asked = prompts((20, 4, 8))
        with ContinuousBatcher(bank) as batcher:
            streams = [batcher.submit(p, "ia3", max_new_tokens=40, ignore_eos=True) for p in asked]
            next(streams[0])
            streams[0].close()
            for stream, prompt in zip(streams[1:], asked[1:], strict=True):
                assert tokens_of(stream) == alone(bank, prompt, "ia3", max_new_tokens=40, ignore_eos=True)
            assert list(streams[0]) == []
            assert batcher.statistics().running == 0

    def test_a_row_without_a_number_to_choose_fails_alone(
        self, bank: AdapterSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good, bad = prompts((8, 6))
        expected = alone(bank, good, None, max_new_tokens=20, ignore_eos=True)
        with ContinuousBatcher(bank) as batcher:
            monkeypatch.setattr(
                "adapter_export.runtime.continuous.batcher.row_processors",
                lambda config, settings, tokens, read: (_nothing,) if list(tokens) == bad else (),
            )
            lost, kept = (batcher.submit(p, max_new_tokens=20, ignore_eos=True) for p in (bad, good))
            with pytest.raises(InputError, match="no token to choose from"):
                list(lost)
            assert tokens_of(kept) == expected

    def test_a_failing_run_ends_its_rows_and_no_later_ones(
        self, bank: AdapterSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (prompt,) = prompts((8,))
        with ContinuousBatcher(bank) as batcher:
            with monkeypatch.context() as broken:
                broken.setattr(
                    "adapter_export.runtime.continuous.caches.ConcatenatedCache.run", _raise(MemoryError("no memory"))
                )
                with pytest.raises(MemoryError):
                    list(batcher.submit(prompt, max_new_tokens=4))
            assert tokens_of(batcher.submit(prompt, max_new_tokens=4)) == alone(bank, prompt, None, max_new_tokens=4)

    def test_closing_finishes_or_refuses(self, bank: AdapterSession) -> None:
        batcher = ContinuousBatcher(bank, max_rows=1)
        streams = [batcher.submit([5, 6, 7], max_new_tokens=5, ignore_eos=True) for _ in range(3)]
        batcher.close()
        assert [len(tokens_of(stream)) for stream in streams] == [5, 5, 5]
        with pytest.raises(Unavailable, match="closed"):
            batcher.submit([5], max_new_tokens=1)
        other = ContinuousBatcher(bank, max_rows=1)
        streams = [other.submit([5, 6, 7], max_new_tokens=60, ignore_eos=True) for _ in range(3)]
        other.close(drain=False)
        with pytest.raises(Unavailable, match="closed"):
            list(streams[2])


class TestLimits:
    def test_a_full_queue_refuses_at_once(self, bank: AdapterSession) -> None:
        with ContinuousBatcher(bank, max_rows=1, max_queue=1) as batcher:
            first = batcher.submit([5, 6], max_new_tokens=80, ignore_eos=True)
            next(first)  # it runs, and the queue is empty
            batcher.submit([5, 6], max_new_tokens=1)
            with pytest.raises(Unavailable, match="1 rows wait already"):
                batcher.submit([5, 6], max_new_tokens=1)
            assert batcher.statistics().refused == 1

    def test_the_memory_for_caches_is_never_exceeded(self, bank: AdapterSession) -> None:
        from adapter_export.runtime.continuous.caches import bytes_per_token

        each = bytes_per_token(bank.manifest.graphs[bank.manifest.model])
        with ContinuousBatcher(bank, cache_bytes=each * 60) as batcher:
            asked = prompts((10, 3, 20, 5))
            streams = [batcher.submit(p, max_new_tokens=15, ignore_eos=True) for p in asked]
            most = 0
            for stream in streams:
                for _ in stream:
                    most = max(most, batcher.statistics().cached_tokens)
            assert 0 < most <= 60
            with pytest.raises(InputError, match="50 tokens and 11 new ones do not fit in the memory for 60 tokens"):
                batcher.submit([5] * 50, max_new_tokens=11)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"prompt": []}, "prompt: expected at least one token"),
            ({"prompt": [-1]}, "prompt: expected tokens from 0"),
            ({"prompt": [5] * 90, "max_new_tokens": 8}, "do not fit in the 96 positions"),
            ({"adapter": "nobody"}, "adapter 'nobody': expected one of ia3, houlsby"),
            ({"temperature": -1.0}, "temperature: expected a number from 0"),
            ({"logprobs": -1}, "logprobs: expected a whole number from 0"),
            ({"prefix": [5]}, "prefix: expected none"),
            ({"stop_tokens": [10**6]}, "stop_tokens: expected tokens from 0"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, bank: AdapterSession, given: dict[str, Any], message: str) -> None:
        with ContinuousBatcher(bank) as batcher, pytest.raises(InputError, match=message):
            batcher.submit(**{"prompt": [5], "max_new_tokens": 1, **given})

    @pytest.mark.parametrize("name", ["max_rows", "max_queue", "cache_bytes"])
    def test_settings_out_of_range(self, bank: AdapterSession, name: str) -> None:
        with pytest.raises(InputError, match=f"{name}: expected at least 1, found 0"):
            ContinuousBatcher(bank, **{name: 0})

    def test_an_encoder_decoder_is_refused(self, t5_bundle: Exported) -> None:
        with AdapterSession(t5_bundle.bundle) as session, pytest.raises(InputError, match="without an encoder"):
            ContinuousBatcher(session)


class TestReaders:
    def test_many_threads(self, bank: AdapterSession) -> None:
        asked = [(prompt, ADAPTERS[n % 3]) for n, prompt in enumerate(prompts() * 3)]
        found: dict[int, tuple[int, ...]] = {}
        with ContinuousBatcher(bank, max_rows=5) as batcher:

            def ask(number: int) -> None:
                prompt, adapter = asked[number]
                found[number] = tokens_of(batcher.submit(prompt, adapter, max_new_tokens=11))

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for number, (prompt, adapter) in enumerate(asked):
            assert found[number] == alone(bank, prompt, adapter, max_new_tokens=11)

    def test_asyncio_tasks_and_one_that_is_cancelled(self, bank: AdapterSession) -> None:
        asked = prompts((6, 12, 9))

        async def ask(batcher: ContinuousBatcher, prompt: list[int]) -> list[int]:
            return [new.token async for new in batcher.submit(prompt, "ia3", max_new_tokens=30, ignore_eos=True)]

        async def main(batcher: ContinuousBatcher) -> list[list[int]]:
            tasks = [asyncio.create_task(ask(batcher, prompt)) for prompt in asked]
            await asyncio.sleep(0.01)
            tasks[0].cancel()
            return await asyncio.gather(*tasks[1:])

        with ContinuousBatcher(bank) as batcher:
            found = asyncio.run(main(batcher))
        for prompt, tokens in zip(asked[1:], found, strict=True):
            assert tuple(tokens) == alone(bank, prompt, "ia3", max_new_tokens=30, ignore_eos=True)


class TestAdaptersThatChange:
    def test_a_row_keeps_its_version(self, bank: AdapterSession) -> None:
        (prompt,) = prompts((9,))
        with AdapterSession(bank.bundle) as session, ContinuousBatcher(session) as batcher:
            expected = alone(session, prompt, "ia3", max_new_tokens=60, ignore_eos=True)
            running = batcher.submit(prompt, "ia3", max_new_tokens=60, ignore_eos=True)
            next(running)
            session.load("ia3")  # another version of the same name, in a slot of its own
            session.load("houlsby")
            later = batcher.submit(prompt, "ia3", max_new_tokens=60, ignore_eos=True)
            assert (expected[0], *tokens_of(running)) == expected
            assert tokens_of(later) == expected

    def test_with_one_slot_adapters_take_turns(self, bank: AdapterSession) -> None:
        with AdapterSession(bank.bundle, slots=1) as session, ContinuousBatcher(session) as batcher:
            (prompt,) = prompts((9,))
            streams = {name: batcher.submit(prompt, name, max_new_tokens=12) for name in ("ia3", "houlsby")}
            for name, stream in streams.items():
                assert tokens_of(stream) == alone(bank, prompt, name, max_new_tokens=12)


def _nothing(tokens: Sequence[int], scores: np.ndarray) -> np.ndarray:
    return np.full_like(scores, -np.inf)


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail
