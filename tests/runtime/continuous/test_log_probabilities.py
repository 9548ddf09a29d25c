"""Logarithms of probabilities, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapter_export.runtime.continuous.log_probabilities import log_probabilities


@pytest.mark.parametrize("top", [0, 1, 5, 40, 100])
def test_against_pytorch(top: int) -> None:
    logits = np.random.default_rng(top).normal(0, 20, 40).astype(np.float32)
    exact = torch.log_softmax(torch.from_numpy(logits).double(), -1)
    value, best = log_probabilities(logits, 7, top)
    assert value == pytest.approx(float(exact[7]), abs=1e-12)
    values, tokens = exact.topk(min(top, 40))
    assert [token for token, _ in best] == tokens.tolist()
    assert [found for _, found in best] == pytest.approx(values.tolist(), abs=1e-12)


def test_nothing_is_computed_unless_it_is_asked_for() -> None:
    assert log_probabilities(np.zeros(3, np.float32), 1, None) == (None, ())


def test_large_logits_do_not_overflow() -> None:
    value, _ = log_probabilities(np.array([3e38, 0.0], np.float32), 0, 0)
    assert value == 0
