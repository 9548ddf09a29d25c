"""AdapterHub's IA3 merged, against the outputs of the library itself with the adapter on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adapter_export.merging.merge import merge

GOLDENS = Path(__file__).parents[1] / "goldens" / "adapterhub"
# As for the adapter unmerged; merging adds a rounding of each weight to float32.
TOLERANCE = 5e-6


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDENS.glob("*-ia3")))
def test_merged_equals_the_library_with_the_adapter_on(case: str, tmp_path: Path) -> None:
    import torch
    import transformers

    merge(GOLDENS / case / "base", GOLDENS / case / "adapter", tmp_path / "merged")
    said = json.loads((GOLDENS / case / "case.json").read_text())
    model = getattr(transformers, said["model_class"]).from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    golden = np.load(GOLDENS / case / "io.npz")
    inputs = {name: torch.from_numpy(golden[name]) for name in golden.files if name not in ("on", "off")}
    with torch.no_grad():
        found = model(**inputs)[said["output"]].numpy()
    padded = found.shape[:-1] == golden["attention_mask"].shape
    real = golden["attention_mask"].astype(bool) if padded else np.ones(found.shape[:-1], bool)
    assert np.abs(golden["on"] - golden["off"])[real].max() > 0.1
    assert np.abs(found - golden["on"])[real].max() < TOLERANCE
