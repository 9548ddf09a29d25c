"""Weights in 8 bits: the operators on a graph small enough to check with numpy, then whole models against PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from adapter_export.bundle.graphs import MODEL, is_past
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.decoding import decoding
from adapter_export.export.export import export_onnx
from adapter_export.export.modes import lower_mode
from adapter_export.export.passes import run
from adapter_export.export.passes.quantize_weights import QuantizeWeights
from adapter_export.export.quantize import BLOCK, quantize_rows
from adapter_export.export.saving import save_graph
from adapter_export.export.stages import scoring
from adapter_export.export.target import Target
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.parity.mutants import ChangeGraph, Mutant, initializer, make

INT8 = Target.parse(quantize="int8")


every_size = pytest.mark.parametrize("bits", [8, 4])


def codes_of(rows: np.ndarray, bits: int) -> np.ndarray:
    return rows if bits == 8 else np.stack([rows % 16, rows // 16], axis=-1).reshape(*rows.shape[:2], BLOCK)


def dequantized(rows: np.ndarray, scales: np.ndarray, width: int, bits: int) -> np.ndarray:
    centred = codes_of(rows, bits).astype(np.float32) - 2 ** (bits - 1)
    return (centred * scales[..., None]).reshape(len(rows), -1)[:, :width]


@every_size
@pytest.mark.parametrize("width", [BLOCK, 2 * BLOCK, BLOCK + 5, 3])
def test_rows_keep_their_values_within_half_a_step(width: int, bits: int) -> None:
    matrix = np.random.default_rng(width).normal(size=(7, width)).astype(np.float32)
    matrix[3] = 0
    rows, scales = quantize_rows(matrix, bits)
    assert rows.shape == (7, -(-width // BLOCK), BLOCK * bits // 8)
    restored = dequantized(rows, scales, width, bits)
    step = np.repeat(np.abs(scales), BLOCK, axis=1)[:, :width]
    # The value of largest size is exact; of the other sign there is one step less.
    clipped = codes_of(rows, bits).reshape(7, -1)[:, :width] == 2**bits - 1
    assert (np.abs(restored - matrix) <= step * np.where(clipped, 1.0, 0.501)).all()
    assert np.isin(np.abs(matrix).max(1), np.abs(restored).max(1)).all()
    assert not restored[3].any()


@every_size
def test_every_form_of_a_product_and_of_a_look_up(bits: int) -> None:
    rng = np.random.default_rng(0)
    table, weight, square = (rng.normal(size=shape).astype(np.float32) for shape in ((50, 64), (64, 48), (48, 48)))
    bias, adapter, wide = (rng.normal(size=shape).astype(np.float32) for shape in (48, (64, 64), (50, 64)))
    text = """
        <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        graph (int64[batch] ids, float[64, 64] adapter)
            => (float[batch, 50] logits, float[batch, 50] fused, float[batch, 50] scaled, float[batch, 48] other) {
            embedded = Gather (table, ids)
            adapted = MatMul (embedded, adapter)
            turned = Transpose <perm: ints = [1, 0]> (table)
            logits = MatMul (adapted, turned)
            fused = com.microsoft.FusedMatMul <transB: int = 1> (adapted, table)
            scaled = com.microsoft.FusedMatMul <alpha: float = 2.0, transB: int = 1> (adapted, wide)
            first = MatMul (adapted, weight)
            second = Gemm (first, square, bias)
            third = Gemm <transB: int = 1> (second, square, bias)
            other = Gemm <alpha: float = 0.5> (third, square, bias)
        }
    """
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    values = {read.name: read for node in model.graph for read in node.inputs if read is not None}
    given = {"table": table, "weight": weight, "square": square, "bias": bias, "adapter": adapter, "wide": wide}
    for name, array in given.items():
        value = values[name]
        value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    run(model, QuantizeWeights(bits))
    counts = Counter(node.op_type for node in model.graph)
    # The adapter is an input, and a scaled product has no 8-bit form.
    assert counts.pop("MatMulNBits") == 5
    assert counts == {"GatherBlockQuantized": 1, "MatMul": 1, "Gemm": 1, "Reshape": 1, "FusedMatMul": 1}
    kept = {name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
    assert {name for name in kept if not name.endswith(".scales")} == {"adapter", "bias", "square", "wide"}
    # The table is there once, and the square matrix in the two layouts that its products read.
    assert sum(value.dtype == ir.DataType.UINT8 for value in model.graph.initializers.values()) == 4
    ids = np.array([3, 41, 3, 0])
    data = ir.serde.serialize_model(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits, fused, scaled, other = session.run(None, {"ids": ids, "adapter": adapter})
    # What the codes stand for; of a product x W, the blocks are in the columns of W.
    by_rows = {
        name: dequantized(*quantize_rows(array, bits), array.shape[1], bits)
        for name, array in given.items()
        if array.ndim > 1
    }
    columns = {
        name: dequantized(*quantize_rows(given[name].T, bits), len(given[name]), bits).T
        for name in ("weight", "square")
    }
    adapted = by_rows["table"][ids] @ adapter
    third = ((adapted @ columns["weight"]) @ columns["square"] + bias) @ by_rows["square"].T + bias
    products = adapted @ by_rows["table"].T
    exact = (products, products, 2 * adapted @ wide.T, 0.5 * third @ square + bias)
    for actual, expected in zip((logits, fused, scaled, other), exact, strict=True):
        # Activations are rounded to 8 bits in any case.
        assert np.abs(actual - expected).max() / np.sqrt(np.square(expected).mean()) < 0.05


@pytest.fixture(scope="module")
def adapters(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> dict[str, Path]:
    info = tiny_base("llama", "causal-lm", tie_word_embeddings=True).info
    return {
        "ia3": save_checkpoint(random_adapter(info, "ia3", 1), info),
        "other": save_checkpoint(random_adapter(info, "ia3", 2), info),
        "houlsby": save_checkpoint(random_adapter(info, "bottleneck", 3, reduction_factor=4), info),
        "lora": save_checkpoint(random_adapter(info, "lora", 4, rank=4, alpha=6), info),
    }


@pytest.fixture(scope="module")
def bundle(
    tiny_model: Callable[..., Path], adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    model = tiny_model("llama", "causal-lm", tie_word_embeddings=True)
    export_onnx(model, adapters, folder, mode="swappable", task="causal-lm", cache=False, quantize="int8")
    return folder


def test_a_quantized_bundle_is_small_and_its_adapters_are_not(
    bundle: Path, tiny_base: Callable[..., BaseModel], adapters: dict[str, Path]
) -> None:
    with AdapterSession(bundle) as session:
        manifest = session.manifest
    assert (manifest.dtype, manifest.quantize) == ("float32", "int8")
    assert manifest.contrib == ("com.microsoft.GatherBlockQuantized", "com.microsoft.MatMulNBits")
    assert {info.dtype for info in manifest.tensors.values()} == {"float32"}
    base = tiny_base("llama", "causal-lm", tie_word_embeddings=True).module
    initializers = onnx.load(bundle / MODEL).graph.initializer
    stored = sum(len(item.raw_data) for item in initializers if item.name not in manifest.tensors)
    assert stored <= 0.35 * sum(parameter.numel() * 4 for parameter in base.parameters())


def test_parity_of_every_adapter_and_of_none(
    bundle: Path, tiny_model: Callable[..., Path], adapters: dict[str, Path]
) -> None:
    model = tiny_model("llama", "causal-lm", tie_word_embeddings=True)
    report = check_parity(bundle, model, adapters)
    assert report.verdict is Verdict.PASS, [item.judgement.reasons for item in report.results][:3]
    costs = [note for note in report.notes if note.startswith("int8: ")]
    assert len(costs) == 1 + len(adapters)
    assert all("KL " in note and "have a clear margin" in note for note in costs)
    # Two adapters of one kind taken for each other.
    swapped = {**adapters, "ia3": adapters["other"], "other": adapters["ia3"]}
    wrong = check_parity(bundle, model, swapped)
    for name in ("ia3", "other"):
        assert Verdict.FAIL in {item.judgement.verdict for item in wrong.of(name)}
    for name in ("houlsby", "lora"):
        assert {item.judgement.verdict for item in wrong.of(name)} == {Verdict.PASS}


def scales_of(operator: int, change: Callable[[np.ndarray], np.ndarray]) -> ChangeGraph:
    """`change` applied to the scales of the n-th product of the graph."""

    def apply(model: ir.Model, base: dict[str, np.ndarray]) -> None:
        product = [node for node in model.graph if node.op_type == "MatMulNBits"][operator]
        scales = product.inputs[2]
        assert scales is not None
        initializer(str(scales.name), change)(model, base)

    return apply


@pytest.mark.parametrize(
    "wrong",
    [scales_of(6, lambda scales: 2 * scales), scales_of(2, lambda scales: np.roll(scales, 1, axis=0))],
    ids=["a matrix twice as large", "scales of other rows"],
)
def test_a_wrong_graph_is_no_price_of_8_bits(
    wrong: ChangeGraph,
    bundle: Path,
    tiny_model: Callable[..., Path],
    adapters: dict[str, Path],
    tmp_path: Path,
) -> None:
    exported = Exported(bundle, tiny_model("llama", "causal-lm", tie_word_embeddings=True), adapters)
    copied = make(Mutant("wrong", "", "houlsby", graph=wrong), exported, tmp_path / "copied")
    report = check_parity(copied, exported.base, {"houlsby": adapters["houlsby"]})
    failed = [item.judgement for item in report.results if item.judgement.verdict is Verdict.FAIL]
    assert len(failed) > len(report.results) / 2
    assert all("PyTorch's with the same weights" in judgement.reasons[0] for judgement in failed)


@pytest.mark.parametrize("method", ["ia3", "lora"])
def test_merged_weights_are_quantized_after_the_merge(
    method: str, tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base, plain = tiny_base("bert"), tiny_base("bert")
    adapter = random_adapter(base.info, method, 1)
    _, graphs = lower_mode(base, {"a": adapter}, Mode.MERGED, stages={MODEL: scoring}, target=INT8)
    merge_into(plain.module, adapter)
    stored = [value.const_value.numpy() for value in graphs[MODEL].model.graph.initializers.values()]
    value = plain.module.get_submodule("encoder.layer.1.attention.self.value").weight.detach().numpy()
    # A vector on the outputs changes the scales alone.
    for quantized in quantize_rows(value, 8):
        flat = quantized.reshape(-1)
        assert any(array.size == flat.size and np.array_equal(array.reshape(-1), flat) for array in stored)


@pytest.mark.parametrize(
    ("method", "options"), [("bottleneck", {"reduction_factor": 4}), ("lora", {"rank": 4, "alpha": 6})]
)
def test_decoding_with_a_cache_and_an_embedded_adapter(
    method: str,
    options: dict[str, float],
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    tmp_path: Path,
) -> None:
    base = tiny_base("gpt2", "causal-lm")
    adapter = random_adapter(base.info, method, 4, **options)
    _, graphs = lower_mode(base, {"a": adapter}, Mode.EMBEDDED, stages={MODEL: decoding}, target=INT8)
    save_graph(graphs[MODEL], tmp_path / MODEL)
    session = ort.InferenceSession(tmp_path / MODEL, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(4, 90, (2, 9))
    whole = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(9)[None].repeat(2, 0)}
    cache = {
        name: np.zeros((2, int(info.shape[1]), 0, int(info.shape[3])), np.float32)
        for name, info in graphs[MODEL].inputs.items()
        if is_past(name)
    }
    logits = []
    for start, end in ((0, 6), (6, 7), (7, 9)):
        step = {name: array[:, start:end] for name, array in whole.items()}
        step["attention_mask"] = whole["attention_mask"][:, :end]
        named = dict(zip(graphs[MODEL].outputs, session.run(None, {**step, **cache}), strict=True))
        cache = {name: named[name.replace("past_key_values", "present")] for name in cache}
        logits.append(named["logits"])
    injection = inject(base.module, adapter)
    with torch.no_grad():
        expected = base.module(**{name: torch.from_numpy(array) for name, array in whole.items()}).logits.numpy()
    injection.remove()
    difference = np.concatenate(logits, axis=1) - expected
    assert np.abs(difference).max() / np.sqrt(np.square(expected).mean()) < 0.35
    assert np.sqrt(np.square(difference).mean() / np.square(expected).mean()) < 0.05
