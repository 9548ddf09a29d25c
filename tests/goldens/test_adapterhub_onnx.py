"""The library's own checkpoints, exported, in plain ONNX Runtime: none of our code has a part in the run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from adapter_export import tasks
from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export.bundle import write_bundle
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.saving import save_graph
from adapter_export.export.stages import scoring
from adapter_export.export.storage import Constants, Overridable
from adapter_export.export.trace import Trace, trace
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import complete_head

GOLDENS = Path(__file__).parent / "adapterhub"
CASES = sorted(folder.name for folder in GOLDENS.iterdir())
# Largest difference from the library's float64 that float32 makes, of outputs of order 1; measured: at most 3.6e-6.
TOLERANCE = 1e-5
# Features of the models.
HIDDEN = 32


def about(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / case / "case.json").read_text())
    return found


def load(case: str) -> tuple[BaseModel, Adapter]:
    model_class = about(case)["model_class"]
    task = tasks.of_architecture(model_class)
    assert task is not None
    base = load_base(GOLDENS / case / "base", task, labels=["a", "b", "c"] if "Class" in model_class else None)
    return base, complete_head(base.module, base.info.head, load_adapter(GOLDENS / case / "adapter", base.info))


class Traced:
    """One trace for all cases of one architecture, which differ in their weights and adapters."""

    def __init__(self, loaded: list[tuple[BaseModel, Adapter]]) -> None:
        self._base = loaded[0][0]
        self._sites = union_of_sites([adapter for _, adapter in loaded])
        self._trace = trace(self._base, self._sites, self._base.info.head, stage=scoring)

    def of(self, base: BaseModel) -> Trace:
        """The same with the weights of `base`: constants of the trace, as the model has them, or transposed."""
        new = {name: tensor.numpy() for name, tensor in base.module.state_dict().items()}
        weights = {}
        for name, tensor in self._base.module.state_dict().items():
            weights[_content(tensor.numpy().T)] = new[name].T
            weights[_content(tensor.numpy())] = new[name]
        model = self._trace.model.clone()
        for value in model.graph.initializers.values():
            old = _content(value.const_value.numpy())
            # What no weight is are scalars, shapes and masks.
            assert old in weights or value.const_value.size < HIDDEN or value.dtype != ir.DataType.FLOAT, value.name
            if old in weights:
                value.const_value = ir.tensor(np.ascontiguousarray(weights[old]), name=value.name)
        return replace(self._trace, model=model)


def _content(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


class Exported:
    """Graphs of one case: swappable.onnx with adapter.onnx_adapter, embedded.onnx, and of IA3 merged.onnx."""

    def __init__(self, case: str, folder: Path, traced: Traced) -> None:
        self.case, self.folder = case, folder
        self.output = about(case)["output"]
        base, adapter = load(case)
        sites, head = union_of_sites([adapter]), base.info.head
        last = head[-1] if head else None
        own = traced.of(base)
        swappable = lower(own, sites, Overridable(), head_defaults(base), last)
        embedded = lower(own, sites, Constants(adapter_tensors(adapter)), head_defaults(base), last)
        write_bundle(folder, base, {MODEL: swappable}, Mode.SWAPPABLE, {"t": adapter})
        save_graph(embedded, folder / "embedded.onnx")
        if adapter.method == "ia3":
            merge_into(base.module, adapter)
            save_graph(lower(traced.of(base), {}), folder / "merged.onnx")

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

    @functools.cache
    def traced(model_class: str) -> Traced:
        return Traced([load(case) for case in CASES if about(case)["model_class"] == model_class])

    return functools.cache(
        lambda case: Exported(case, tmp_path_factory.mktemp(case), traced(about(case)["model_class"]))
    )


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
    assert graphs.difference(graphs.run("merged.onnx"), "on") < TOLERANCE
