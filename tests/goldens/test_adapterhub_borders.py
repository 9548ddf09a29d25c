"""Checkpoints at the edges of AdapterHub's format: what the library `adapters` computed with them, and what we do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adapter_export.basemodel import BaseModel, load_base
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.injection import complete_head, inject

GOLDENS = Path(__file__).parent / "adapterhub-borders"
# Largest difference allowed where outputs are of order 1, from rounding the stored outputs.
TOLERANCE = 5e-6


@dataclass(frozen=True)
class Case:
    """task: what the base model is loaded for. labels: of the head. problem_type: see `Adapter`."""

    task: str = "text-classification"
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None

    @property
    def output(self) -> str:
        return "last_hidden_state" if self.task == "features" else "logits"


CASES = {
    "bert-multilabel-head": Case(labels=("a", "b", "c", "d")),
    "bert-named-adapters": Case(labels=("LABEL_0", "LABEL_1", "LABEL_2")),
    "bert-string-config": Case(labels=("LABEL_0", "LABEL_1", "LABEL_2")),
    "qwen2-interface-extended": Case("causal-lm"),
    "qwen2-interface-pfeiffer": Case("causal-lm"),
    "roberta-legacy-v1": Case(labels=("LABEL_0", "LABEL_1")),
}


def base_of(case: str) -> BaseModel:
    import torch

    return load_base(GOLDENS / case / "base", CASES[case].task, labels=CASES[case].labels, dtype=torch.float64)


def difference(case: str, found: np.ndarray, which: str) -> float:
    """The largest from the library's output `on` or `off`, at positions that are no padding."""
    with np.load(GOLDENS / case / "io.npz") as golden:
        difference, mask = np.abs(found - golden[which]), golden["attention_mask"].astype(bool)
    return float((difference[mask] if difference.shape[:2] == mask.shape else difference).max())


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_the_library(case: str) -> None:
    """Findings 3, 8, 14, 15 and 20: all of these were refused or computed otherwise."""
    import torch

    base = base_of(case)
    adapter = complete_head(base.module, base.info.head, load_adapter(GOLDENS / case / "adapter", base.info))
    assert adapter.labels == CASES[case].labels
    assert adapter.problem_type == CASES[case].problem_type
    with np.load(GOLDENS / case / "io.npz") as golden:
        inputs = {name: torch.from_numpy(golden[name]) for name in golden.files if name not in ("on", "off")}
        told = [which for which in ("on", "off") if which in golden.files]
    injection = inject(base.module, adapter)
    with torch.no_grad():
        on = base.module(**inputs)[CASES[case].output].numpy()
        with injection.disabled():
            off = base.module(**inputs)[CASES[case].output].numpy()
    assert difference(case, off, "on") > 0.1, "a golden adapter must matter"
    for which, found in (("on", on), ("off", off)):
        if which in told:
            assert difference(case, found, which) < TOLERANCE
