"""Grafts into graphs whose nodes have lost the names of their modules, as tools that quantize leave them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from adapter_export import AdapterSession, InputError, check_parity, graft
from adapter_export.bundle.graphs import MODEL
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.models.base_model import load_base
from adapter_export.parity.criteria.judge import Verdict
from tests.finished import ADAPTERS, Finished, given, session_inputs

# Of float32, relative to the largest output.
TOLERANCE = 1e-5


def without_names(made: Finished, folder: Path) -> Path:
    """The graph, whose nodes that multiply by a weight tell no module."""
    shutil.copytree(made.graph, folder)
    model = onnx.load(str(folder / MODEL))
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
    assert len(nodes) >= 8
    for node in nodes:
        del node.metadata_props[:]
    onnx.save(model, str(folder / MODEL))
    return folder


def outputs(bundle: Path, made: Finished, model_type: str) -> tuple[dict[str | None, np.ndarray], np.ndarray]:
    """What the bundle computes with each adapter and without, and where there is a token."""
    inputs = given(made, model_type)
    with AdapterSession(bundle) as session:
        fed = session_inputs(session.manifest.inputs, inputs)
        found = {name: next(iter(session.run(fed, name).values())) for name in (*ADAPTERS, None)}
    return found, inputs["attention_mask"].astype(bool)


# GPT-2 stores its weights the other way round; the layers of ALBERT share theirs.
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", pytest.param("albert", marks=pytest.mark.thorough)])
def test_weights_tell_the_modules(model_type: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("dynamo", model_type)
    graft(without_names(made, tmp_path / "graph"), made.adapters, tmp_path / "bundle", model=made.model)
    found, mask = outputs(tmp_path / "bundle", made, model_type)
    for name, actual in found.items():
        wanted = made.expected(name, given(made, model_type))
        assert np.abs(actual - wanted)[mask].max() < TOLERANCE * np.abs(wanted).max(), name


def test_quantized_by_onnx_runtime(finished: Callable[..., Finished], tmp_path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = finished("dynamo", "llama")
    quantizer = MatMulNBitsQuantizer(onnx.load(str(made.graph / MODEL)), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    folder = Path(shutil.copytree(made.graph, tmp_path / "graph"))
    onnx.save(quantizer.model.model, str(folder / MODEL))
    assert not [
        node.metadata_props
        for node in quantizer.model.model.graph.node
        if node.op_type == "MatMulNBits" and node.metadata_props
    ]
    manifest = graft(folder, made.adapters, tmp_path / "bundle", model=made.model)
    assert manifest.quantize == "int4"
    report = check_parity(tmp_path / "bundle", made.model, made.adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]
    found, mask = outputs(tmp_path / "bundle", made, "llama")
    base = made.expected(None, given(made, "llama"))
    for name in ADAPTERS:
        one = (found[name] - found[None])[mask]
        other = (made.expected(name, given(made, "llama")) - base)[mask]
        assert (one * other).sum() > 0.9 * np.linalg.norm(one) * np.linalg.norm(other), name


def test_without_a_model_folder_it_is_refused(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("dynamo", "bert")
    with pytest.raises(InputError, match=r"tells its module.*with --model, nodes are recognised by their weights"):
        graft(without_names(made, tmp_path / "graph"), made.adapters, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_weights_that_two_modules_have_tell_none(
    finished: Callable[..., Finished],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    made = finished("dynamo", "bert")
    folder = without_names(made, tmp_path / "graph")
    model = Path(shutil.copytree(made.model, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    first, second = (next(name for name in tensors if name.endswith(f"layer.{i}.output.dense.weight")) for i in (0, 1))
    graph = onnx.load(str(folder / MODEL))
    changed = 0
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if any(np.array_equal(values, other) for other in (tensors[second], tensors[second].T)):
            same = tensors[first] if values.shape == tensors[first].shape else tensors[first].T
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(same), tensor.name))
            changed += 1
    assert changed == 1
    onnx.save(graph, str(folder / MODEL))
    save_file({**tensors, second: tensors[first].copy()}, model / "model.safetensors", {"format": "pt"})
    # Taken for one of the two, both nodes would get the adapter of one.
    info = load_base(model, "features").info
    lora = save_checkpoint(random_adapter(info, "lora", 1, target=r".*layer\.0\.output\.dense"), info)
    with pytest.raises(InputError, match=r"encoder\.layer\.0\.output\.dense\S*: expected a linear layer"):
        graft(folder, {"lora": lora}, tmp_path / "bundle", model=model)
