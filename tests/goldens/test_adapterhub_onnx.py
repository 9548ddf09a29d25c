"""The library's own checkpoints, exported, in plain ONNX Runtime: none of our code has a part in the run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export import tasks
from adapter_export.basemodel import BaseModel, load_base
from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.manifest import MODEL
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export.bundle import write_bundle
from adapter_export.export.export import head_defaults, lower_mode, union_of_sites
from adapter_export.export.lower import lower
from adapter_export.export.saving import save_graph
from adapter_export.export.stages import scoring
from adapter_export.export.storage import Constants, Overridable
from adapter_export.export.trace import trace
from adapter_export.injection import complete_head

GOLDENS = Path(__file__).parent / "adapterhub"
CASES = sorted(folder.name for folder in GOLDENS.iterdir())
# Largest difference from the library's float64 that float32 makes, of outputs of order 1; measured: at most 3.6e-6.
TOLERANCE = 1e-5


class Exported:
    """Graphs of one case: swappable.onnx with adapter.onnx_adapter, and embedded.onnx, of one and the same trace."""

    def __init__(self, case: str, folder: Path) -> None:
        self.case, self.folder = case, folder
        about = json.loads((GOLDENS / case / "case.json").read_text())
        self.output, self.model_class = about["output"], about["model_class"]
        base, adapter = self.load()
        sites, head = union_of_sites([adapter]), base.info.head
        traced = trace(base, sites, head, stage=scoring)
        last = head[-1] if head else None
        swappable = lower(traced, sites, Overridable(), head_defaults(base), last)
        embedded = lower(traced, sites, Constants(adapter_tensors(adapter)), head_defaults(base), last)
        write_bundle(folder, base, {MODEL: swappable}, "swappable", {"t": adapter})
        save_graph(embedded, folder / "embedded.onnx")

    def load(self) -> tuple[BaseModel, Adapter]:
        task = tasks.of_architecture(self.model_class)
        assert task is not None
        base = load_base(
            GOLDENS / self.case / "base", task, labels=["a", "b", "c"] if "Class" in self.model_class else None
        )
        return base, complete_head(
            base.module, base.info.head, load_adapter(GOLDENS / self.case / "adapter", base.info)
        )

    def run(self, graph: str, adapter: str | None = None) -> np.ndarray:
        session = ort.InferenceSession(self.folder / graph, providers=["CPUExecutionProvider"])
        with np.load(GOLDENS / self.case / "io.npz") as golden:
            feeds = {name: golden[name] for name in golden.files if name not in ("on", "off")}
        if "token_type_ids" in [value.name for value in session.get_inputs()]:
            feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
        options, swapped = ort.RunOptions(), ort.LoraAdapter()
        if adapter is not None:
            swapped.Load(str(self.folder / adapter))
            options.add_active_adapter(swapped)
        result: np.ndarray = session.run([self.output], feeds, options)[0]
        return result

    def difference(self, found: np.ndarray, which: str) -> float:
        """The largest from the library's output `on` or `off`, at positions that are no padding."""
        with np.load(GOLDENS / self.case / "io.npz") as golden:
            difference, mask = np.abs(found - golden[which]), golden["attention_mask"].astype(bool)
        # T5's output follows its decoder's inputs, and a classifier's the sentence: neither has padding.
        return float((difference[mask] if difference.shape[:-1] == mask.shape else difference).max())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Called as (case) -> its graphs, made once."""
    return functools.cache(lambda case: Exported(case, tmp_path_factory.mktemp(case)))


@pytest.fixture(autouse=True)
def quiet_runtime() -> None:
    """It warns of every overridable initializer."""
    ort.set_default_logger_severity(3)


@pytest.mark.parametrize("case", CASES)
def test_swapped_in_and_out(case: str, exported: Callable[[str], Exported]) -> None:
    graphs = exported(case)
    assert graphs.difference(graphs.run(MODEL, "adapters/t.onnx_adapter"), "on") < TOLERANCE
    off = graphs.run(MODEL)
    if off.shape[-1] == 0:  # the head is the adapter's, and off without it
        assert case == "bert-cls-pfeiffer-bin"
    else:
        assert graphs.difference(off, "off") < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_embedded(case: str, exported: Callable[[str], Exported]) -> None:
    graphs = exported(case)
    assert graphs.difference(graphs.run("embedded.onnx"), "on") < TOLERANCE


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("-ia3")])
def test_merged(case: str, exported: Callable[[str], Exported]) -> None:
    graphs = exported(case)
    base, adapter = graphs.load()
    _, merged = lower_mode(base, {"t": adapter}, "merged")
    save_graph(merged[MODEL], graphs.folder / "merged.onnx")
    assert graphs.difference(graphs.run("merged.onnx"), "on") < TOLERANCE
