"""Generating with a session, against PyTorch: tokens, streaming, ends, limits, threads."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.provider import open_model
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported
from tests.decoders import POSITIONS

NEW = 64
ADAPTERS = (None, "ia3", "houlsby")
# Of the batch with the longest prompt, every row fits: 17 + 64 tokens.
LENGTHS = (5, 1, 17, 9)
# Of logits of some 10: rounding alone makes less (measured: 4.8e-6), and closer ones may change places.
CLOSE = 2e-5


def prompts(seed: int = 0, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in lengths]


def in_pytorch(exported: Exported, adapter: str | None, dtype: Any) -> Any:
    """The model in PyTorch, the adapter injected."""
    base = load_base(exported.base, "causal-lm", dtype=dtype)
    if adapter is not None:
        inject(base.module, load_adapter(exported.adapters[adapter], base.info))
    return base.module


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def exported(request: pytest.FixtureRequest) -> Exported:
    bundle: Exported = request.getfixturevalue(f"{request.param}_bundle")
    return bundle


@pytest.fixture(scope="module")
def session(exported: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(exported.bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def llama(llama_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(llama_bundle.bundle) as opened:
        yield opened


def tokens_of(session: AdapterSession, given: Sequence[Any], adapter: str | None = None, **settings: Any) -> list[Any]:
    settings = {"max_new_tokens": NEW, "ignore_eos": True, **settings}
    return [row.tokens for row in session.generate(given, adapter, **settings).completions()]


class TestTokens:
    @pytest.mark.parametrize("adapter", ADAPTERS)
    def test_a_whole_generation_is_that_of_transformers(
        self, llama: AdapterSession, llama_bundle: Exported, adapter: str | None
    ) -> None:
        import torch

        model = in_pytorch(llama_bundle, adapter, torch.float32)
        given = prompts()
        width = max(map(len, given))
        ids = torch.tensor([[tiny.PAD] * (width - len(row)) + row for row in given])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in given])
        wanted = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=tiny.PAD,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        whole = 0
        for i, row in enumerate(llama.generate(given, adapter, max_new_tokens=NEW).completions()):
            expected = wanted.sequences[i, width:].tolist()
            best = torch.stack([logits[i] for logits in wanted.logits]).topk(2).values
            close = (best[:, 0] - best[:, 1] < CLOSE).tolist()
            decided = close.index(True) if True in close[: len(row.tokens)] else len(row.tokens)
            assert list(row.tokens[:decided]) == expected[:decided]
            if decided == len(row.tokens):
                assert row.finish == ("stop" if tiny.SEP in expected else "length")
                whole += 1
        assert whole >= 3, "of nearly every row all tokens must be decided"

    def test_adapters_differ(self, session: AdapterSession) -> None:
        found = [tokens_of(session, prompts(), adapter) for adapter in ADAPTERS]
        assert all(one != other for i, one in enumerate(found) for other in found[:i])

    @pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "seed": 11}])
    def test_each_row_is_what_it_is_alone(self, session: AdapterSession, settings: dict[str, Any]) -> None:
        together = tokens_of(session, prompts(), "houlsby", **settings)
        for row, prompt in enumerate(prompts()):
            alone = {**settings, "seed": settings["seed"] + row} if settings else {}
            assert tokens_of(session, [prompt], "houlsby", **alone) == [together[row]]

    def test_arrays_are_prompts_too(self, llama: AdapterSession) -> None:
        given = prompts()
        assert tokens_of(llama, [np.array(row, np.int32) for row in given]) == tokens_of(llama, given)
        assert tokens_of(llama, np.array(given[:1])) == tokens_of(llama, given[:1])


class TestStreaming:
    def test_steps_are_the_completions(self, llama: AdapterSession) -> None:
        given = prompts()
        stops = tuple(range(4, 14))
        settings: dict[str, Any] = {"max_new_tokens": NEW, "stop_tokens": stops}
        whole = llama.generate(given, "ia3", **settings).completions()
        assert len({len(row.tokens) for row in whole}) > 1, "rows must end at different steps"
        steps = list(llama.generate(given, "ia3", **settings))
        for row, completion in enumerate(whole):
            own = [step.tokens[row] for step in steps]
            length = len(completion.tokens)
            assert own == [*completion.tokens, *[None] * (len(steps) - length)]
            ends = [step.finish[row] for step in steps]
            assert ends == [*[None] * (length - 1), *[completion.finish] * (len(steps) - length + 1)]
        assert len(steps) == max(len(row.tokens) for row in whole)

    def test_nothing_runs_before_it_is_asked_for_nor_after_close(
        self, llama: AdapterSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generation = llama.generate(prompts(), max_new_tokens=NEW, ignore_eos=True)
        decoder = generation._decoder
        assert decoder is not None
        runs = []
        graph = decoder._graph
        run = graph.run

        def counted(outputs: list[str], host: tuple[str, ...] = ()) -> Any:
            runs.append(outputs)
            return run(outputs, host)

        monkeypatch.setattr(graph, "run", counted)
        assert len(runs) == 0
        first = [next(generation).tokens for _ in range(3)]
        assert len(runs) == 3
        freed = weakref.ref(decoder)
        generation.close()
        del decoder
        gc.collect()
        assert freed() is None, "the cache must be freed"
        assert list(generation) == []
        assert len(runs) == 3
        rows = generation.completions()
        assert [row.tokens for row in rows] == [tuple(step[i] for step in first) for i in range(len(LENGTHS))]
        assert {row.finish for row in rows} == {None}

    def test_an_error_on_the_way_ends_it(self, llama: AdapterSession) -> None:
        generation = llama.generate(prompts(), max_new_tokens=NEW)
        next(generation)
        generation._inputs["input_ids"] = generation._inputs["input_ids"][:1]
        with pytest.raises(InputError, match="ONNX Runtime cannot run these inputs"):
            next(generation)
        assert list(generation) == []


class TestBinding:
    def test_the_cache_does_not_pass_through_python(
        self, llama: AdapterSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnxruntime as ort

        generation = llama.generate(prompts(), "houlsby", max_new_tokens=8, ignore_eos=True)
        read: list[Any] = []
        made: list[Any] = []
        numpy, from_numpy = ort.OrtValue.numpy, ort.OrtValue.ortvalue_from_numpy
        monkeypatch.setattr(ort.OrtValue, "numpy", lambda self: (read.append(self.shape()), numpy(self))[1])
        monkeypatch.setattr(
            ort.OrtValue, "ortvalue_from_numpy", lambda array, *more: (made.append(array), from_numpy(array, *more))[1]
        )
        generation.completions()
        assert read == [[4, 1, 101]] * 8, "of the outputs, only logits of last tokens are read"
        assert len(made) == 8 * 3 + 1, "of the inputs, only ids, mask and positions, and once how many logits to keep"


class TestEnds:
    def test_the_end_token_of_the_model_and_others(self, llama: AdapterSession) -> None:
        given = prompts()
        free = tokens_of(llama, given)
        other = free[0][6]
        for row, end in zip(
            free, llama.generate(given, max_new_tokens=NEW, stop_tokens=[other]).completions(), strict=True
        ):
            where = [i for i, token in enumerate(row) if token in (tiny.SEP, other)]
            assert end.tokens == (row[: where[0] + 1] if where else row)
            assert end.finish == ("stop" if where else "length")

    def test_end_tokens_of_the_generation_config_come_first(
        self, llama_bundle: Exported, llama: AdapterSession, tmp_path: Path
    ) -> None:
        given = prompts()
        free = tokens_of(llama, given)
        bundle = changed(llama_bundle.bundle, tmp_path, "generation_config.json", eos_token_id=[free[0][2], free[0][4]])
        with AdapterSession(bundle) as session:
            (row,) = session.generate(given[:1], max_new_tokens=NEW).completions()
        assert (row.tokens, row.finish) == (free[0][: free[0].index(free[0][2]) + 1], "stop") or free[0][
            4
        ] in row.tokens
        assert tiny.SEP not in row.tokens or len(row.tokens) < 5

    def test_one_token(self, llama: AdapterSession) -> None:
        assert tokens_of(llama, prompts(), max_new_tokens=1) == [row[:1] for row in tokens_of(llama, prompts())]


class TestSampling:
    def test_a_seed_gives_the_same_tokens_again(self, llama: AdapterSession) -> None:
        settings = {"temperature": 1.5, "seed": 4}
        first = tokens_of(llama, prompts(), **settings)
        assert tokens_of(llama, prompts(), **settings) == first
        assert tokens_of(llama, prompts(), **{**settings, "seed": 5}) != first
        assert tokens_of(llama, prompts(), temperature=1.5) != tokens_of(llama, prompts(), temperature=1.5)

    def test_a_row_keeps_its_seed_in_any_batch(self, llama: AdapterSession) -> None:
        given = prompts()
        settings: dict[str, Any] = {"temperature": 1.5}
        forward = tokens_of(llama, given, seed=[1, 2, 3, 4], **settings)
        assert tokens_of(llama, given[::-1], seed=[4, 3, 2, 1], **settings) == forward[::-1]

    def test_one_best_token_is_greedy(self, llama: AdapterSession) -> None:
        assert tokens_of(llama, prompts(), temperature=2.0, top_k=1) == tokens_of(llama, prompts())

    def test_a_penalty_keeps_tokens_from_coming_back(self, llama: AdapterSession) -> None:
        rows = tokens_of(llama, prompts(), repetition_penalty=1e6, max_new_tokens=30)
        for prompt, row in zip(prompts(), rows, strict=True):
            assert len({*prompt, *row}) == len(set(prompt)) + len(row)


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "prompts: expected at least one, found none"),
            ([[5], []], "prompt 1: expected at least one token, found none"),
            ([[5], "text"], "prompt 1: expected a list of token ids, found 'text'"),
            ("text", "prompt 0: expected a list of token ids, found 't'"),
            ([[5.5]], r"prompt 0: expected a list of token ids, found '\[5.5\]'"),
            ([[[5], [6, 7]]], "prompt 0: expected a list of token ids"),
            ([[[5], [6]]], "prompt 0: expected a list of token ids"),
            ([5, 6], "prompt 0: expected a list of token ids, found '5'"),
            ([[5, -1]], "prompt 0: expected tokens from 0 to below 101, found -1"),
            ([[5], [101]], "prompt 1: expected tokens from 0 to below 101, found 101"),
        ],
    )
    def test_prompts(self, llama: AdapterSession, given: Any, message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}"):
            llama.generate(given, max_new_tokens=4)

    def test_the_models_limit(self, session: AdapterSession) -> None:
        prompt = [5] * (POSITIONS - 9)
        assert len(tokens_of(session, [[5], prompt], max_new_tokens=10)[1]) == 10
        message = f"prompt 1: {POSITIONS - 9} tokens and 11 new ones do not fit in the {POSITIONS} positions"
        with pytest.raises(InputError, match=message):
            session.generate([[5], prompt], max_new_tokens=11)

    def test_settings_and_adapters(self, llama: AdapterSession) -> None:
        for settings, message in (
            ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number from 1, found 0"),
            ({"max_new_tokens": 1, "adapter": "nope"}, "adapter 'nope': expected one of ia3, houlsby"),
            (
                {"max_new_tokens": 1, "stop_tokens": [101]},
                "stop_tokens: expected tokens from 0 to below 101, found 101",
            ),
        ):
            with pytest.raises(InputError, match=message):
                llama.generate([[5]], **settings)  # type: ignore[arg-type]

    def test_a_bundle_without_a_cache(self, swappable_bundle: Exported) -> None:
        with (
            AdapterSession(swappable_bundle.bundle) as session,
            pytest.raises(InputError, match="its graph has no key-value cache"),
        ):
            session.generate([[5]], max_new_tokens=1)

    def test_a_closed_session(self, llama_bundle: Exported) -> None:
        with AdapterSession(llama_bundle.bundle) as session:
            under_way = session.generate(prompts(), max_new_tokens=NEW)
            next(under_way)
        with pytest.raises(InputError, match="the session is closed"):
            session.generate(prompts(), max_new_tokens=NEW)
        assert {row.finish for row in under_way.completions()} <= {"stop", "length"}

    def test_a_config_that_holds_something_else(self, llama_bundle: Exported, tmp_path: Path) -> None:
        bundle = changed(llama_bundle.bundle, tmp_path, "generation_config.json", eos_token_id="end")
        with (
            AdapterSession(bundle) as session,
            pytest.raises(InputError, match=r"generation_config.json: field 'eos_token_id': expected .* 'end'"),
        ):
            session.generate(prompts(), max_new_tokens=1)


class TestThreads:
    def test_each_thread_has_its_adapter_whatever_is_unloaded(
        self, llama_bundle: Exported, llama: AdapterSession
    ) -> None:
        wanted = {adapter: tokens_of(llama, prompts(), adapter, max_new_tokens=24) for adapter in ADAPTERS}
        with AdapterSession(llama_bundle.bundle) as session:

            def work(seed: int) -> int:
                rng = np.random.default_rng(seed)
                for _ in range(6):
                    adapter = ADAPTERS[rng.integers(len(ADAPTERS))]
                    generation = session.generate(prompts(), adapter, max_new_tokens=24, ignore_eos=True)
                    for step, _ in enumerate(generation):
                        if step == 5 and adapter is not None:
                            try:
                                session.unload(adapter)
                            except InputError:  # another thread was faster
                                continue
                    assert [row.tokens for row in generation.completions()] == wanted[adapter], adapter
                return seed

            with ThreadPoolExecutor(8) as pool:
                assert sorted(pool.map(work, range(8))) == list(range(8))

    def test_an_adapter_replaced_on_the_way_changes_nothing(
        self, llama_bundle: Exported, llama: AdapterSession, tmp_path: Path
    ) -> None:
        foreign = shutil.copy(llama_bundle.bundle / "adapters" / "ia3.onnx_adapter", tmp_path / "own.onnx_adapter")
        other = llama_bundle.bundle / "adapters" / "houlsby.onnx_adapter"
        with AdapterSession(llama_bundle.bundle) as session:
            session.load("own", foreign)
            generation = session.generate(prompts(), "own", max_new_tokens=NEW, ignore_eos=True)
            next(generation)
            session.load("own", other)
            gc.collect()
            assert [row.tokens for row in generation.completions()] == tokens_of(llama, prompts(), "ia3")
            assert tokens_of(session, prompts(), "own") == tokens_of(llama, prompts(), "houlsby")


def changed(bundle: Path, tmp_path: Path, name: str, **fields: Any) -> Path:
    """A copy of the bundle with other values in one of its JSON files."""
    copy = Path(shutil.copytree(bundle, tmp_path / "changed"))
    (copy / name).write_text(json.dumps({**json.loads((copy / name).read_text()), **fields}))
    manifest = read_manifest(copy)
    write_manifest(copy, replace(manifest, files={file: sha256(copy / file) for file in manifest.files}))
    return copy


def test_waiting_threads_do_not_spin_unless_the_caller_chooses(
    llama_bundle: Exported, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[ort.SessionOptions | None] = []

    def opened(model: Path, provider: str, options: ort.SessionOptions | None, tf32: bool) -> ort.InferenceSession:
        used.append(options)
        return open_model(model, provider, options, tf32=tf32)

    monkeypatch.setattr("adapter_export.runtime.session.open_model", opened)
    own = ort.SessionOptions()
    AdapterSession(llama_bundle.bundle, verify=False).close()
    AdapterSession(llama_bundle.bundle, verify=False, options=own).close()
    AdapterSession(swappable_bundle.bundle, verify=False).close()
    still, chosen, default = used
    assert still is not None
    assert still.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert chosen is own
    assert default is None
