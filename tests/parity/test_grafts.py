"""Parity of grafts: the verdict on graphs of other tools, and on mutants of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from adapter_export import check_parity, graft
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.bundle.precision import Quantization
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.reading.hashes import sha256
from tests.finished import OPTIMUM_CACHE, OPTIMUM_THREE, Finished

NAMES = ("ia3", "lora", "pfeiffer")


def grafted(made: Finished, output: Path) -> dict[str, Path]:
    adapters = {name: made.adapters[name] for name in NAMES}
    graft(made.graph, adapters, output, model=made.model)
    return adapters


@pytest.mark.parametrize(
    ("tool", "model_type"),
    [
        ("fp32", "llama"),
        ("fp16-cuda", "llama"),
        ("int4", "llama"),
        pytest.param("int4-cuda", "llama", marks=pytest.mark.thorough),
        ("optimum", "bert"),
        (OPTIMUM_CACHE, "gpt2"),
        (OPTIMUM_THREE, "t5"),
        # It gives a cache, and takes none.
        pytest.param("olive", "llama", marks=pytest.mark.thorough),
    ],
)
def test_the_graph_of_another_tool_passes(
    tool: str, model_type: str, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    made = finished(tool, model_type)
    adapters = grafted(made, tmp_path / "bundle")
    report = check_parity(tmp_path / "bundle", made.model, adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]
    if tool.startswith("int4"):
        # PyTorch has the graph's own weights. With others, T would have another error than the graph.
        errors = [(result.judgement.error, result.judgement.target_error) for result in report.results]
        ratios = [error.mean / target.mean for error, target in errors if error is not None and target is not None]
        assert len(ratios) > 50
        assert 0.9 < float(np.median(ratios)) < 1.1


@pytest.mark.parametrize("model_type", ["t5", pytest.param("bart", marks=pytest.mark.thorough)])
def test_onnx_runtimes_own_four_bits(model_type: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    """Its quantizer keeps the names of optimum's nodes. PyTorch has the weights of all three graphs."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = finished(OPTIMUM_THREE, model_type)
    folder = Path(shutil.copytree(made.graph, tmp_path / "graphs"))
    for file in folder.glob("*coder_*.onnx"):
        quantizer = MatMulNBitsQuantizer(onnx.load(str(file)), block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(file))
    adapters = {name: made.adapters[name] for name in NAMES}
    manifest = graft(folder, adapters, tmp_path / "bundle", model=made.model)
    assert manifest.quantize is Quantization.INT4
    report = check_parity(tmp_path / "bundle", made.model, adapters)
    assert report.verdict is Verdict.PASS, [result.judgement.reasons for result in report.results]
    errors = [(result.judgement.error, result.judgement.target_error) for result in report.results]
    ratios = [error.mean / target.mean for error, target in errors if error is not None and target is not None]
    assert 0.9 < float(np.median(ratios)) < 1.1


def test_a_cache_that_the_graph_does_not_take_is_noted(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("dynamo", "llama")
    folder = Path(shutil.copytree(made.graph, tmp_path / "graph"))
    model = onnx.load(str(folder / MODEL))
    cache = onnx.ValueInfoProto()
    cache.CopyFrom(model.graph.output[0])
    cache.name = "present.0.key"
    model.graph.node.append(onnx.helper.make_node("Neg", ["last_hidden_state"], [cache.name]))
    model.graph.output.append(cache)
    onnx.save(model, str(folder / MODEL))
    adapters = {"ia3": made.adapters["ia3"]}
    graft(folder, adapters, tmp_path / "bundle", model=made.model)
    report = check_parity(tmp_path / "bundle", made.model, adapters)
    assert report.verdict is Verdict.PASS
    assert "the graph gives a cache that it does not take, which was not judged: present.0.key" in report.notes


@pytest.mark.parametrize("tool", ["fp32", "int4"])
def test_exchanged_weights_do_not(tool: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    """Of two layers, whose shapes are the same. Without a model folder, the graft could not know."""
    made = finished(tool, "llama")
    folder = Path(shutil.copytree(made.graph, tmp_path / "exchanged"))
    model = onnx.load(str(folder / MODEL))
    for tensor in model.graph.initializer:
        if ".mlp.up_proj." in tensor.name:
            other = tensor.name.replace("layers.0.", "?").replace("layers.1.", "layers.0.").replace("?", "layers.1.")
            tensor.name = other
    (folder / "model.onnx.data").unlink()
    onnx.save(model, str(folder / MODEL))
    adapters = {name: made.adapters[name] for name in NAMES}
    graft(folder, adapters, tmp_path / "bundle")
    report = check_parity(tmp_path / "bundle", made.model, adapters)
    # In 4 bits the graph says which weights it has, and the comparison of weights is left to `graft --model`.
    assert report.verdict is Verdict.FAIL
    assert report.departure is not None
    assert (report.departure.cause.name == "cost of the bits") == (tool == "int4")
    assert (report.departure.site is None) == (tool == "int4")


def test_another_adapters_tensors_do_not(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    adapters = grafted(made, tmp_path / "bundle")
    folder = tmp_path / "bundle"
    model = onnx.load(str(folder / MODEL), load_external_data=False)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name.endswith("layers.0.self_attn.v_proj.ia3.l"):
                node.input[index] = name.replace("layers.0", "layers.1")
    onnx.save(model, str(folder / MODEL))
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, files={**manifest.files, MODEL: sha256(folder / MODEL)}))
    report = check_parity(folder, made.model, adapters)
    failed = {result.adapter for result in report.results if result.judgement.verdict is Verdict.FAIL}
    assert failed == {"ia3"}
