"""Task heads of finished graphs: adapters replace them, and without an adapter they are as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adapter_export import AdapterSession, InputError, add_adapter, check_parity, graft
from adapter_export.bundle.graphs import MODEL
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.models.base_model import load_base
from adapter_export.models.heads import load_head
from adapter_export.models.injection import inject
from adapter_export.parity.criteria.judge import Verdict
from tests import tiny
from tests.finished import make_graph, session_inputs

# Of float32, relative to the largest output.
TOLERANCE = 1e-5
# The second has two layers in its head.
MODELS = {"bert": "text-classification", "roberta": "text-classification", "vit": "image-classification"}
NAMES = ("ia3", "lora")


@pytest.fixture(scope="module")
def made(
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, Path, dict[str, Path]]]:
    """Called as (model_type) -> the graph, the model, and adapters whose heads have 3 and 4 classes. Each once."""
    found: dict[str, tuple[Path, Path, dict[str, Path]]] = {}

    def make(model_type: str) -> tuple[Path, Path, dict[str, Path]]:
        if model_type not in found:
            task = MODELS[model_type]
            model, graph = tiny_model(model_type, task), tmp_path_factory.mktemp(model_type) / "graph"
            make_graph("optimum", model, graph, task)
            info, adapters = load_base(model, task).info, {}
            for number, method in enumerate(NAMES):
                labels = [f"{method}-{n}" for n in range(3 + number)]
                adapters[method] = save_checkpoint(random_adapter(info, method, number, labels=labels), info)
            found[model_type] = graph, model, adapters
        return found[model_type]

    return make


def expected(model: Path, task: str, adapter: Path | None, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The logits in float64, of the model itself or with the adapter and its head."""
    import torch

    base = load_base(model, task, dtype=torch.float64)
    if adapter is not None:
        loaded = load_adapter(adapter, base.info)
        load_head(base.module, loaded)
        inject(base.module, loaded)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        given = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        found: np.ndarray = base.module.double()(**given).logits.numpy()
    return found


@pytest.mark.parametrize("mode", ["swappable", "bank"])
@pytest.mark.parametrize("model_type", MODELS)
def test_each_adapter_has_its_own(
    model_type: str, mode: str, made: Callable[[str], tuple[Path, Path, dict[str, Path]]], tmp_path: Path
) -> None:
    graph, model, adapters = made(model_type)
    task, inputs = MODELS[model_type], tiny.inputs_for(model_type)
    manifest = graft(graph, adapters, tmp_path / "bundle", model=model, mode=mode)
    assert manifest.task == task
    assert manifest.labels is not None
    add_adapter(tmp_path / "bundle", {"added": adapters["lora"]})
    adapters = {**adapters, "added": adapters["lora"]}
    with AdapterSession(tmp_path / "bundle") as session:
        fed = session_inputs(session.manifest.inputs, inputs)
        for name in (None, "ia3", "lora", "ia3", "added", None):
            found, wanted = (
                session.run(fed, name)["logits"],
                expected(model, task, adapters[name] if name else None, inputs),
            )
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max(), name
        assert session.labels("added") == ("lora-0", "lora-1", "lora-2", "lora-3")


def test_parity(made: Callable[[str], tuple[Path, Path, dict[str, Path]]], tmp_path: Path) -> None:
    graph, model, adapters = made("roberta")
    graft(graph, adapters, tmp_path / "bundle", model=model)
    report = check_parity(tmp_path / "bundle", model, adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]


def test_another_models_head_is_refused(
    made: Callable[[str], tuple[Path, Path, dict[str, Path]]], tmp_path: Path
) -> None:
    graph, model, adapters = made("bert")
    changed = onnx.load(graph / MODEL)
    (head,) = (tensor for tensor in changed.graph.initializer if tensor.name == "classifier.weight")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head)[::-1].copy(), head.name))
    onnx.save(changed, tmp_path / MODEL)
    (tmp_path / "config.json").write_bytes((graph / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"site classifier: the weight of node '/classifier/Gemm' is not that of"):
        graft(tmp_path / MODEL, adapters, tmp_path / "bundle", model=model)
