"""Generating with encoder-decoders, against PyTorch: texts of unequal lengths, and sounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.graphs import ENCODER
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported
from tests.decoders import POSITIONS

NEW = 64
ADAPTERS = (None, "ia3", "houlsby")
# Of logits of some 10: rounding alone makes less (measured: 4.8e-6), and closer ones may change places.
CLOSE = 2e-5


class Pair:
    """A model type's bundle and session, and prompts for it."""

    def __init__(self, model_type: str, exported: Exported, session: AdapterSession) -> None:
        self.exported, self.session = exported, session
        self.vocabulary = json.loads((exported.base / "config.json").read_text())["vocab_size"]
        rng = np.random.default_rng(0)
        self.prompts: list[Any]
        if model_type == "whisper":
            self.prompts = [rng.standard_normal((tiny.MEL, tiny.FRAMES)).astype(np.float32) for _ in range(3)]
        else:
            self.prompts = [[*rng.integers(4, tiny.VOCABULARY, n).tolist(), tiny.SEP] for n in (5, 1, 17, 9)]
        self.input = "input_features" if model_type == "whisper" else "input_ids"

    def tokens(self, adapter: str | None, prompts: list[Any] | None = None, **settings: Any) -> list[tuple[int, ...]]:
        settings = {"max_new_tokens": NEW, "ignore_eos": True, **settings}
        generation = self.session.generate(self.prompts if prompts is None else prompts, adapter, **settings)
        return [row.tokens for row in generation.completions()]

    def expected(self, adapter: str | None) -> Callable[[Any, list[int]], np.ndarray]:
        """Called as (prompt, decoder's tokens) -> logits [tokens, vocabulary] in float64, one row, no cache."""
        import torch

        base = load_base(self.exported.base, "seq2seq-lm", dtype=torch.float64)
        if adapter is not None:
            inject(base.module, load_adapter(self.exported.adapters[adapter], base.info))

        def run(prompt: Any, tokens: list[int]) -> np.ndarray:
            fed = torch.from_numpy(np.asarray(prompt)[None])
            fed = fed.double() if fed.is_floating_point() else fed
            with torch.no_grad():
                output = base.module(**{self.input: fed}, decoder_input_ids=torch.tensor([tokens]))
            return np.asarray(output.logits[0].numpy())

        return run


@pytest.fixture(scope="module", params=["t5", "bart", "whisper"])
def pair(request: pytest.FixtureRequest, export_cached: Callable[..., Exported]) -> Iterator[Pair]:
    exported = export_cached(request.param, "seq2seq-lm")
    with AdapterSession(exported.bundle) as session:
        yield Pair(request.param, exported, session)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_tokens_and_logits_are_those_of_a_full_forward(
    pair: Pair, adapter: str | None, logits_of: Callable[..., np.ndarray]
) -> None:
    """In float64, over all tokens before; of two tokens that are too close, any."""
    expected, unclear = pair.expected(adapter), 0
    (start,) = pair.session.generation_config.begin
    generation = pair.session.generate(pair.prompts, adapter, max_new_tokens=NEW, ignore_eos=True)
    found = logits_of(generation)
    for prompt, logits, row in zip(pair.prompts, found, generation.completions(), strict=True):
        assert len(row.tokens) == NEW
        wanted = expected(prompt, [start, *row.tokens[:-1]])
        assert np.abs(logits - wanted).max() < CLOSE
        best = np.sort(wanted, axis=1)
        assert (best[:, -1] - wanted[np.arange(NEW), list(row.tokens)]).max() < CLOSE
        unclear += (best[:, -1] - best[:, -2] < CLOSE).sum()
    assert unclear <= 2, "nearly every token must be decided"


def test_adapters_differ(pair: Pair) -> None:
    found = [pair.tokens(adapter) for adapter in ADAPTERS]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "top_k": 40, "seed": 11}])
def test_each_row_is_what_it_is_alone(pair: Pair, settings: dict[str, Any]) -> None:
    together = pair.tokens("ia3", **settings)
    for row, prompt in enumerate(pair.prompts):
        alone = {**settings, "seed": settings["seed"] + row} if settings else {}
        assert pair.tokens("ia3", [prompt], **alone) == [together[row]]


def test_the_encoder_runs_once_and_not_before_it_is_asked_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_export.runtime.generation.bound_graph import BoundGraph

    encoder = pair.session._sessions[ENCODER]
    runs = []
    run = BoundGraph.run

    def counted(self: BoundGraph, *args: Any, **more: Any) -> Any:
        runs.append(self._session is encoder)
        return run(self, *args, **more)

    monkeypatch.setattr(BoundGraph, "run", counted)
    generation = pair.session.generate(pair.prompts, max_new_tokens=3, ignore_eos=True)
    assert runs == []
    next(generation)
    assert runs == [True, False]
    generation.completions()
    assert runs == [True, False, False, False]


def test_a_prefix_is_written_first(pair: Pair) -> None:
    (start,) = pair.session.generation_config.begin
    found = pair.tokens("houlsby", prefix=[7, 9], max_new_tokens=8)
    logits = pair.expected("houlsby")
    for prompt, new in zip(pair.prompts, found, strict=True):
        wanted = logits(prompt, [start, 7, 9, *new[:-1]])[2:]
        assert (wanted.max(axis=1) - wanted[np.arange(8), list(new)]).max() <= CLOSE
    n = pair.vocabulary
    with pytest.raises(InputError, match=f"prefix: expected tokens from 0 to below {n}, found {n}"):
        pair.tokens(None, prefix=[n])


def test_limits(pair: Pair) -> None:
    longest = pair.session.manifest.longest_text
    if longest is None:
        assert pair.exported.base.name.startswith("t5")
        assert len(pair.tokens(None, max_new_tokens=POSITIONS + 5)[0]) == POSITIONS + 5
        return
    assert longest == POSITIONS
    assert len(pair.tokens(None, max_new_tokens=POSITIONS)[0]) == POSITIONS
    with pytest.raises(InputError, match=f"prompt 0: 1 tokens and {POSITIONS + 1} new ones do not fit"):
        pair.tokens(None, max_new_tokens=POSITIONS + 1)


def test_prompts_that_are_something_else(pair: Pair) -> None:
    n = pair.vocabulary
    if pair.input == "input_ids":
        cases: list[tuple[Any, str]] = [
            ([[5], []], "prompt 1: expected at least one token, found none"),
            ([[5, n]], f"prompt 0: expected tokens from 0 to below {n}, found {n}"),
        ]
        if pair.session.manifest.longest_text is not None:
            cases.append(([[5] * (POSITIONS + 1)], "prompt 0: .* do not fit in the 96 positions"))
    else:
        one = pair.prompts[0]
        cases = [
            ([one, one[:, 1:]], r"prompts: expected input_features \[8, 20\] each: "),
            ([one[:, 1:]], r"input 'input_features': expected shape \['batch', 8, 20\], found \[1, 8, 19\]"),
            (["sound"], r"prompts: expected input_features \[8, 20\] each: "),
            ([], "prompts: expected at least one, found none"),
        ]
    for prompts, message in cases:
        with pytest.raises(InputError, match=f"^{message}"):
            pair.tokens(None, prompts)
