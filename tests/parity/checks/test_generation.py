"""Generated text is checked: a wrong loop of the runtime fails by the case of generation, with right graphs too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from adapter_export.parity import pytorch_models as module
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.checks.generation import GreedyCase
from adapter_export.parity.checks.tokens_written import choices, compare_choices, scores_by_rules
from adapter_export.parity.criteria.judge import THRESHOLDS, Verdict, judge
from adapter_export.parity.criteria.measure import (
    Deviation,
    ErrorPair,
    Measurement,
    TokenAgreement,
    TokenDifference,
)
from adapter_export.parity.expected import Expected, ExpectedTokens
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.decoder_inputs import CrossFeeds, DecoderFeeds
from adapter_export.runtime.generation.processors import Row
from adapter_export.runtime.generation.rules import GenerationRules
from adapter_export.runtime.generation.sampling import RowChooser
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

# Three rows of logits for four tokens: token 3 is the largest by far; 1 and 2 are close; 0 and 1 are equal.
R = np.array([[[1.0, 2.0, 3.0, 9.0], [0.0, 5.0, 4.5, 1.0], [7.0, 7.0, 0.0, 1.0]]])


def judged(actual: np.ndarray, tokens: list[int], **config: Any) -> tuple[TokenAgreement, int]:
    chosen, rules = np.array([tokens]), GenerationConfig(rules=GenerationRules(**config))
    expected, found = (
        scores_by_rules(logits, chosen, rules, [Row([2], [2], (), 3)]) for logits in (R, actual.astype(np.float32))
    )
    reference = ExpectedTokens(Expected("a", ({"logits": R}, [{"logits": R}])), chosen, *choices(expected), expected)
    agreement = compare_choices(reference, chosen, found, np.ones_like(chosen, bool))
    return agreement, int((found.argmax(-1) != chosen).sum())


def test_tokens_on_paper() -> None:
    # Without an error all tokens are clear except where two logits are equal.
    assert judged(R, [3, 1, 0]) == (TokenAgreement(count=3, clear=2, agreed=2), 0)
    # With an error of 0.3 a margin of 0.5 is not clear, and another token may be chosen.
    actual = R + 0.3 * np.eye(4)[2]
    other = TokenDifference(row=0, step=1, written=2, expected=1, margin=0.5, clear=False)
    assert judged(actual, [3, 2, 0])[0] == TokenAgreement(count=3, clear=1, agreed=1, differing=(other,))
    # The loop did not choose the largest of its own logits.
    wrong = TokenDifference(row=0, step=1, written=2, expected=1, margin=0.5, clear=True)
    assert judged(R, [3, 2, 0]) == (TokenAgreement(count=3, clear=2, agreed=1, differing=(wrong,)), 1)
    # Suppressed tokens are ignored on both sides.
    assert judged(R, [2, 1, 0], begin_suppress_tokens=(3,)) == (TokenAgreement(count=3, clear=2, agreed=2), 0)
    assert judged(R, [3, 2, 0], suppress_tokens=(1,)) == (TokenAgreement(count=3, clear=3, agreed=3), 0)
    # Rules apply to the tokens written before: 3 is halved after it was chosen; 0 and 1 are equal until one was chosen.
    assert judged(R, [3, 1, 0], repetition_penalty=2.0) == (TokenAgreement(count=3, clear=3, agreed=3), 0)
    again = TokenDifference(row=0, step=2, written=1, expected=0, margin=3.5, clear=True)
    found = TokenAgreement(count=3, clear=3, agreed=2, differing=(again,))
    assert judged(R, [3, 1, 1], repetition_penalty=2.0) == (found, 1)
    assert judged(R, [0, 1, 3], forced_bos_token_id=0, forced_eos_token_id=(3,)) == (TokenAgreement(3, 3, 3), 0)


@pytest.mark.parametrize(
    ("tokens", "verdict", "reason"),
    [
        (TokenAgreement(8, 8, 8), Verdict.PASS, None),
        (TokenAgreement(8, 1, 1), Verdict.PASS, None),
        (TokenAgreement(8, 8, 7), Verdict.FAIL, "another token than PyTorch's at 1 of 8 with a clear margin"),
        (TokenAgreement(8, 0, 0), Verdict.INCONCLUSIVE, "of 8 tokens none has a margin above twice the error"),
    ],
)
def test_the_verdict_on_tokens(tokens: TokenAgreement, verdict: Verdict, reason: str | None) -> None:
    pair = ErrorPair(Deviation(0, 0, 0), Deviation(0, 0, 0), squares=1, count=1)
    (judgement,) = judge([Measurement(on=pair, tokens=tokens)], THRESHOLDS["float32"])
    assert (judgement.verdict, judgement.tokens) == (verdict, tokens)
    assert judgement.reasons == (() if reason is None else (reason,))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exported], ParityReport]:
    """Returns a function that judges a bundle by one case and by generation."""
    monkeypatch.setattr(module, "cases_for", lambda *_: [ParityCase(2, 9, "left")])
    return lambda exported: check_parity(exported.bundle, exported.base, exported.adapters)


Feeds = Mapping[str, np.ndarray]


def positions_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    following = DecoderFeeds.following
    monkeypatch.setattr(
        DecoderFeeds,
        "following",
        lambda self, tokens: {**(fed := following(self, tokens)), "position_ids": fed["position_ids"] + 1},
    )


def padding_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(self: DecoderFeeds, ids: np.ndarray, positions: np.ndarray) -> Feeds:
        return {"input_ids": ids, "attention_mask": np.ones_like(self._mask), "position_ids": positions}

    monkeypatch.setattr(DecoderFeeds, "_named", named)


def adapter_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = AdapterSession.generate
    monkeypatch.setattr(
        AdapterSession, "generate", lambda self, prompts, adapters, **more: generate(self, prompts, **more)
    )


def second_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowChooser, "__call__", lambda self, logits: int(np.argsort(logits)[-2]))


def rows_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    following = CrossFeeds.following
    monkeypatch.setattr(CrossFeeds, "following", lambda self, tokens: following(self, np.roll(tokens, 1)))


@pytest.mark.parametrize(
    ("wrong", "bundle"),
    [
        (positions_off_by_one, "llama_bundle"),
        (padding_seen, "llama_bundle"),
        (adapter_forgotten, "llama_bundle"),
        (second_best, "llama_bundle"),
        (rows_mixed, "t5_bundle"),
        (adapter_forgotten, "t5_bundle"),
    ],
)
def test_a_wrong_loop_fails_with_right_graphs(
    wrong: Callable[[pytest.MonkeyPatch], None],
    bundle: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[Exported], ParityReport],
) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    wrong(monkeypatch)
    found = report(exported)
    assert found.verdict is Verdict.FAIL
    failed = {item.adapter for item in found.results if item.judgement.verdict is not Verdict.PASS}
    assert failed >= set(exported.adapters)
    assert {type(item.case) for item in found.results if item.judgement.verdict is not Verdict.PASS} == {GreedyCase}
    assert {check.name for check in found.checks if check.verdict is not Verdict.PASS} == {"greedy"}


def test_a_loop_that_does_not_run_fails(
    llama_bundle: Exported, monkeypatch: pytest.MonkeyPatch, report: Callable[[Exported], ParityReport]
) -> None:
    monkeypatch.setattr(RowChooser, "__call__", lambda self, logits: 100_000)
    found = report(llama_bundle)
    assert found.verdict is Verdict.FAIL
    reasons = [item.judgement.reasons for item in found.results if isinstance(item.case, GreedyCase)]
    assert all(reason.startswith("did not run: ") for (reason,) in reasons)


def test_the_name_of_its_case() -> None:
    assert GreedyCase(4, 13, new=16).name == "4 x 13 + 16 greedy"
