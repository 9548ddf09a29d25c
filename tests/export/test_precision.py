"""Graphs in half precision against PyTorch in float32; bfloat16, which no CPU runs, with its numbers widened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adapter_export.bundle.adapter_file import adapter_tensors, read_adapter_file, write_adapter_file
from adapter_export.bundle.add import add_adapter, graph_tensors
from adapter_export.bundle.graphs import MODEL, is_past
from adapter_export.bundle.manifest import Manifest, SiteRole, read_manifest
from adapter_export.bundle.modes import Mode
from adapter_export.bundle.ort_values import ort_value
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.export.bound_site import BoundSite, TensorSlot
from adapter_export.export.export import export_onnx
from adapter_export.export.function import Function
from adapter_export.export.lower import Lowered
from adapter_export.export.modes import lower_mode
from adapter_export.export.saving import save_graph
from adapter_export.export.storage import Constants
from adapter_export.export.target import Target
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.naming import DOMAIN
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.sites import Features
from tests.bundles import Exported

# Of the largest difference to the size of the outputs: measured 3e-3 to 7e-3.
HALF = 2e-2
BATCH, LENGTH = 3, 11


class Half:
    """A tiny model's swappable graph in half precision, the same model in float32, and its adapters."""

    def __init__(self, exact: BaseModel, adapters: dict[str, Adapter], lowered: Lowered, path: Path) -> None:
        self.exact, self.adapters, self.lowered, self.path = exact, adapters, lowered, path

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        dtypes = {full: info.dtype for site in self.lowered.sites for full, info in site.tensors.items()}
        return {full: array.astype(dtypes[full]) for full, array in adapter_tensors(self.adapters[name]).items()}

    def expected(self, name: str | None, inputs: dict[str, np.ndarray]) -> np.ndarray:
        injection = inject(self.exact.module, self.adapters[name]) if name else None
        with torch.no_grad():
            output = self.exact.module(**{key: torch.from_numpy(value.copy()) for key, value in inputs.items()})[0]
        if injection:
            injection.remove()
        return np.asarray(output)


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def half(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter], tmp_path: Path
) -> Callable[..., Half]:
    """Called as (model_type, dtype, target_of_lora=None, **config) -> its graph for features."""

    def make(model_type: str, dtype: str, target_of_lora: str | None = None, **config: Any) -> Half:
        target, path = Target.parse(dtype), tmp_path / "model.onnx"
        exact = tiny_base(model_type, **config)
        adapters: dict[str, Adapter] = {
            "ia3": random_adapter(exact.info, "ia3", 1),
            "houlsby": random_adapter(exact.info, "bottleneck", 2, reduction_factor=4),
            "lora": random_adapter(exact.info, "lora", 3, rank=4, alpha=6, target=target_of_lora),
            # It reads the residual stream, and changes the feed-forward's output.
            "parallel": random_adapter(exact.info, "bottleneck", 4, reduction_factor=4, placement="parallel"),
        }
        rounded = tiny_base(model_type, dtype=target.torch_dtype, **config)
        _, graphs = lower_mode(rounded, adapters, Mode.SWAPPABLE, target=target)
        save_graph(graphs[MODEL], path)
        return Half(exact, adapters, graphs[MODEL], path)

    return make


@pytest.fixture(scope="module")
def decoder(export_cached: Callable[..., Exported]) -> Half:
    exported = export_cached("llama", dtype="fp16")
    exact, manifest = load_base(exported.base, "causal-lm"), read_manifest(exported.bundle)
    adapters = {name: load_adapter(path, exact.info) for name, path in exported.adapters.items()}
    path, info = exported.bundle / MODEL, manifest.graphs[MODEL]
    return Half(exact, adapters, Lowered(ir.load(path), info.inputs, info.outputs, manifest.sites), path)


def test_callers_feed_and_read_float32_and_the_cache_keeps_its_dtype(decoder: Half) -> None:
    assert decoder.lowered.outputs["logits"].dtype == "float32"
    for name, info in {**decoder.lowered.inputs, **decoder.lowered.outputs}.items():
        if name.startswith(("past_key_values.", "present.")):
            assert info.dtype == "float16"
    assert {info.dtype for site in decoder.lowered.sites for info in site.tensors.values()} == {"float16"}
    floats = [value.const_value for value in decoder.lowered.model.graph.initializers.values()]
    assert not [tensor for tensor in floats if tensor.dtype == ir.DataType.FLOAT and tensor.size > LENGTH * 8]


@pytest.mark.parametrize("adapter", [None, "ia3", "houlsby", "lora"])
def test_left_padded_rows_decode_close_to_float32(decoder: Half, adapter: str | None) -> None:
    mask = (np.arange(LENGTH) >= np.arange(0, 3 * BATCH, 3)[:, None]).astype(np.int64)
    ids = np.where(mask, np.random.default_rng(0).integers(4, 90, (BATCH, LENGTH)), 0)
    whole = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
    expected, off = decoder.expected(adapter, whole), decoder.expected(None, whole)
    running, tensors = session(decoder.path), decoder.tensors(adapter) if adapter else {}
    cache = {
        name: np.zeros((BATCH, int(info.shape[1]), 0, int(info.shape[3])), np.float16)
        for name, info in decoder.lowered.inputs.items()
        if is_past(name)
    }
    logits, start = [], 0
    for chunk in (7, 1, 3):
        end = start + chunk
        step = {name: value[:, start:end] for name, value in whole.items()} | {"attention_mask": mask[:, :end]}
        values = running.run(None, {**step, **cache, **tensors})
        named = dict(zip(decoder.lowered.outputs, values, strict=True))
        assert all(np.isfinite(value).all() for value in values), "padded rows included"
        cache = {name: named[name.replace("past_key_values", "present")] for name in cache}
        logits.append(named["logits"])
        start = end
    actual = np.concatenate(logits, axis=1)
    kept = mask.astype(bool)
    size = np.sqrt(np.square(expected[kept]).mean())
    assert np.abs(actual - expected)[kept].max() / size < HALF
    if adapter:
        assert np.abs(expected - off)[kept].max() / size > 10 * HALF, "an adapter must matter"


def test_a_classifier_passes_parity_and_takes_more_adapters(
    tiny_model: Callable[..., Path],
    classifier_checkpoints: dict[str, Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    names = ("ia3_three", "lora_two", "houlsby_four", "houlsby_two")
    info = load_base(tiny_model("bert"), "text-classification").info
    lora = random_adapter(info, "lora", 6, labels=("left", "right"), rank=4, alpha=6)
    checkpoints = {**classifier_checkpoints, "lora_two": save_checkpoint(lora, info)}
    adapters = {name: checkpoints[name] for name in names}
    # Task heads swap in the same dtype.
    model, bundle = tiny_model("bert"), tmp_path / "bundle"
    first = {name: adapters[name] for name in names[:3]}
    export_onnx(model, first, bundle, mode="swappable", task="text-classification", dtype="fp16")
    add_adapter(bundle, {names[3]: adapters[names[3]]})
    for name in names:
        stored = read_adapter_file(bundle / "adapters" / f"{name}.onnx_adapter")
        assert {tensor.dtype.name for tensor in stored.values()} == {"float16"}
    report = check_parity(bundle, model, adapters)
    assert report.verdict is Verdict.PASS, [item.judgement.reasons for item in report.results if item.judgement.reasons]
    # A number that is not one in float16 is refused by name, and the bundle stays as it was.
    state = dict(load_file(adapters["ia3_three"] / "adapter_model.safetensors"))
    key = min(key for key in state if key.endswith("ia3_l"))
    large = Path(shutil.copytree(adapters["ia3_three"], tmp_path / "large"))
    save_file({**state, key: state[key] * np.float32(1e5)}, large / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter large: tensor '.*\.ia3\.l': expected finite values"):
        add_adapter(bundle, {"large": large})
    assert not (bundle / "adapters" / "large.onnx_adapter").exists()


def widened(path: Path) -> Path:
    """The same graph with every bfloat16 number as the float32 it equals."""
    model = ir.load(path)
    functions = [node for function in model.functions.values() for node in function]
    for node in [*model.graph.all_nodes(), *functions]:
        for name, attribute in node.attributes.items():
            if name in ("to", "dtype") and attribute.value == ir.DataType.BFLOAT16:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
            elif isinstance(attribute.value, ir.TensorProtocol) and attribute.value.dtype == ir.DataType.BFLOAT16:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
        for value in node.outputs:
            if value.dtype == ir.DataType.BFLOAT16:
                value.dtype = ir.DataType.FLOAT
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        if value.dtype == ir.DataType.BFLOAT16:
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = ir.DataType.FLOAT
    out = path.with_name("widened.onnx")
    ir.save(model, out)
    return out


def test_bfloat16_graphs_hold_the_rounded_model(
    half: Callable[..., Half], text_batch: Callable[..., dict[str, np.ndarray]]
) -> None:
    made = half("bert", "bf16")
    assert {info.dtype for site in made.lowered.sites for info in site.tensors.values()} == {"bfloat16"}
    assert {info.dtype for info in made.lowered.outputs.values()} == {"float32"}
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        session(made.path)
    running, inputs = session(widened(made.path)), text_batch()
    fed = {value.name: inputs.get(value.name, np.zeros_like(inputs["input_ids"])) for value in running.get_inputs()}
    made.exact.module.to(torch.bfloat16).float()
    kept = inputs["attention_mask"].astype(bool)
    for name in (None, "ia3", "houlsby", "lora"):
        tensors = {full: array.astype(np.float32) for full, array in (made.tensors(name) if name else {}).items()}
        expected = made.expected(name, inputs)[kept]
        # Constants, such as the attention's scale, and the adapter's own numbers are rounded too: to 8 bits.
        bound = 2e-2 if name else 5e-3
        if name:
            assert np.abs(expected - made.expected(None, inputs)[kept]).max() > 10 * bound
        assert np.abs(running.run(None, {**fed, **tensors})[0][kept] - expected).max() < bound


def test_bfloat16_adapters_are_files_and_values_of_onnx_runtime(tmp_path: Path) -> None:
    import ml_dtypes

    tensors = {"a.ia3.l": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16)}
    write_adapter_file(tmp_path / "a.onnx_adapter", tensors, "")
    loaded = ort.LoraAdapter()
    loaded.Load(str(tmp_path / "a.onnx_adapter"))
    assert ort_value(tensors["a.ia3.l"]).data_type() == "tensor(bfloat16)"
    read = read_adapter_file(tmp_path / "a.onnx_adapter")
    assert read["a.ia3.l"].dtype == ml_dtypes.bfloat16
    assert read["a.ia3.l"].tobytes() == tensors["a.ia3.l"].tobytes()


def test_what_a_model_keeps_in_float32_its_adapters_keep_too(half: Callable[..., Half]) -> None:
    # T5's `wo` overflows in float16, so transformers leaves it in float32.
    made = half("t5", "fp16", target_of_lora=r".*\.(q|wo)", num_layers=1)
    dtypes = {name: info.dtype for site in made.lowered.sites for name, info in site.tensors.items()}
    wide = {name for name, dtype in dtypes.items() if dtype == "float32"}
    assert wide
    assert all(".wo." in name for name in wide)
    assert any(name.endswith(".wo.lora.a") for name in wide)
    info = made.exact.info
    manifest = Manifest("", Mode.SWAPPABLE, "features", DType.FLOAT16, 20, info, {}, made.lowered.sites, (), {})
    feeds = {
        "input_ids": np.arange(4, 12).reshape(2, 4),
        "attention_mask": np.ones((2, 4), np.int64),
        "decoder_input_ids": np.arange(4, 10).reshape(2, 3),
    }
    fed = {name: feeds[name] for name in made.lowered.inputs}
    running = session(made.path)
    for adapter in ("ia3", "lora", "parallel"):
        fitted = graph_tensors("adapter a", made.adapters[adapter], manifest)
        assert {name: tensor.dtype.name for name, tensor in fitted.items()} == {name: dtypes[name] for name in fitted}
        actual = running.run(None, {**fed, **fitted})[0]
        expected = made.expected(adapter, fed)
        assert np.abs(actual - expected).max() / np.sqrt(np.square(expected).mean()) < HALF


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_norms_within_adapters_stand_what_their_squares_do_not(dtype: str) -> None:
    operator = BottleneckOperator("relu", norm_before=True, norm_after=True)
    rng, kind = np.random.default_rng(0), {"float16": 10, "float32": 1}[dtype]
    # Activations as large language models have them, on a few features.
    y = rng.normal(size=(2, 3, 32)) * np.where(np.arange(32) == 5, 3000, 30)
    values = {"u": y, "y": y} | {
        name: rng.normal(spec.identity, 3, spec.shape(Features(32, 32), free=4))
        for name, spec in operator.specs.items()
    }
    values = {name: array.astype(dtype) for name, array in values.items()}
    arguments = [*operator.reads, *(name for name in values if name not in ("u", "y"))]
    node = onnx.helper.make_node(operator.op_type, arguments, ["out"], domain=DOMAIN)
    inputs = [onnx.helper.make_tensor_value_info(name, kind, values[name].shape) for name in arguments]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("out", kind, y.shape)])
    function = onnx.parser.parse_function(Function(operator.op_type, tuple(arguments), operator.body).text(20))
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)
    running = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = running.run(None, {name: values[name] for name in arguments})
    tensors = {name: torch.from_numpy(array.astype(np.float64)) for name, array in values.items()}
    expected = operator.forward(tensors, tensors).numpy()
    assert np.isfinite(actual).all()
    # A few steps of the dtype at that size.
    bound = (np.abs(expected) + 10) * {"float16": 5e-3, "float32": 1e-6}[dtype]
    assert (np.abs(actual - expected) <= bound).all()
    given = {name: torch.from_numpy(array) for name, array in values.items()}
    assert (np.abs(operator.forward(given, given).numpy() - expected) <= bound).all()


def test_an_embedded_number_beyond_the_dtype_is_refused_by_name() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20})
    slot = TensorSlot("layer.0.ia3.l", (2,), np.ones(2, np.float16), 1.0)
    function = Function("IA3", ("y", "l"), "out = Mul (y, l)")
    place = BoundSite("layer.0", "layer.0", "output", SiteRole.ADAPTER, "ia3", "ia3", function, {"l": slot})
    with pytest.raises(InputError, match=r"tensor 'layer.0.ia3.l': expected values within float16, found larger ones"):
        Constants({"layer.0.ia3.l": np.array([1.0, 7e4], np.float32)}).store(graph, place, slot)
    assert not graph.initializers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "fp8"}, r"dtype 'fp8': expected one of fp32, fp16, bf16"),
        ({"quantize": "int2"}, r"quantize 'int2': expected one of none, int8, int4"),
        ({"fuse": "webgpu"}, r"fuse 'webgpu': expected one of none, cpu, cuda"),
        ({"dtype": "bf16", "quantize": "int8"}, r"--quantize int8 with --dtype bf16: expected fp32"),
        ({"dtype": "fp16", "quantize": "int8"}, r"--quantize int8 with --dtype fp16: expected fp32"),
        ({"dtype": "bf16", "fuse": "cpu"}, r"--fuse cpu with --dtype bf16: .* no bfloat16 operators"),
    ],
)
def test_what_no_provider_runs_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target.parse(**fields)
