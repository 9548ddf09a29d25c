"""Exported graphs: what users of any ONNX Runtime rely on."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError, OutputExists
from adapter_export.export.export import export_onnx
from adapter_export.export.trace import trace
from adapter_export.models.base_model import load_base
from adapter_export.naming import DOMAIN
from tests.bundles import Exported


def unoptimized(model: Any, prepacking: bool = True) -> ort.InferenceSession:
    """A session whose kernels are exactly the graph's nodes."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "0" if prepacking else "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def serialized(model: Any) -> bytes:
    import onnx_ir as ir

    data: bytes = ir.serde.serialize_model(model).SerializeToString()
    return data


def graph_inputs(session: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [value.name for value in session.get_inputs()]
    return {name: inputs.get(name, np.zeros_like(inputs["input_ids"])) for name in names}


@pytest.fixture(scope="module")
def bare(tiny_model: Callable[..., Path]) -> Callable[[Path, str], bytes]:
    """The base model's own export, by the exporter alone, without anything of ours in it."""
    made: dict[tuple[Path, str], bytes] = {}

    def make(folder: Path, task: str) -> bytes:
        if (folder, task) not in made:
            made[folder, task] = serialized(trace(load_base(folder, task), {}).model)
        return made[folder, task]

    return make


@pytest.mark.parametrize(
    ("fixture", "task"), [("features_bundle", "features"), ("headed_bundle", "text-classification")]
)
def test_without_an_adapter_the_graph_is_the_base_model_bit_for_bit(
    fixture: str,
    task: str,
    request: pytest.FixtureRequest,
    bare: Callable[[Path, str], bytes],
    text_batch: Callable[..., dict[str, np.ndarray]],
) -> None:
    exported: Exported = request.getfixturevalue(fixture)
    # ONNX Runtime packs constant weights and not overridable ones, and has another kernel for a single row of unpacked
    # weights: a base model's own head, once swappable, keeps its bits only beside one that is not packed either.
    prepacking = task == "features"
    base = unoptimized(bare(exported.base, task), prepacking)
    swappable = unoptimized(str(exported.bundle / "model.onnx"), prepacking)
    for rows, length in ((1, 1), (2, 11), (5, 32)):
        inputs = graph_inputs(base, text_batch(rows, length))
        for expected, actual in zip(base.run(None, inputs), swappable.run(None, inputs), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_merged_graph_is_the_base_models_graph_with_a_head(
    merged_bundle: Exported, headed_bundle: Exported, bare: Callable[[Path, str], bytes]
) -> None:
    # Of three labels both.
    plain = onnx.load_from_string(bare(headed_bundle.base, "text-classification")).graph
    merged = onnx.load(merged_bundle.bundle / "model.onnx").graph
    assert Counter(node.op_type for node in merged.node) == Counter(node.op_type for node in plain.node)
    assert {t.name: tuple(t.dims) for t in merged.initializer} == {t.name: tuple(t.dims) for t in plain.initializer}


def test_each_adapter_site_is_one_named_function_node(swappable_bundle: Exported) -> None:
    model = onnx.load(swappable_bundle.bundle / "model.onnx")
    nodes = {node.name: node for node in model.graph.node if node.domain == DOMAIN}
    layers = [f"encoder.layer.{number}" for number in range(2)]
    assert set(nodes) == {
        *(f"{layer}.attention.self.{part}.ia3" for layer in layers for part in ("key", "value")),
        *(f"{layer}.output.dense.input.ia3" for layer in layers),
        *(f"{layer}.{part}.bottleneck_silu" for layer in layers for part in ("attention.output.dense", "output.dense")),
        *(f"{layer}.output.LayerNorm.input.bottleneck_relu" for layer in layers),
        "classifier.head",
    }
    for name, node in nodes.items():
        tensors = [value for value in node.input if value.startswith(f"{name}.")]
        assert tensors, name
        assert all(value.rpartition(".")[0] == name for value in tensors)
    assert {function.name for function in model.functions} == {"IA3", "BottleneckSilu", "BottleneckRelu", "PooledHead"}
    assert {function.domain for function in model.functions} == {DOMAIN}


def test_graph_passes_the_checker_and_names_its_axes(swappable_bundle: Exported, embedded_bundle: Exported) -> None:
    for exported, labels in ((swappable_bundle, "num_labels"), (embedded_bundle, 4)):
        onnx.checker.check_model(str(exported.bundle / "model.onnx"), full_check=True)
        session = unoptimized(str(exported.bundle / "model.onnx"))
        assert {value.name: value.shape for value in session.get_inputs()} == {
            name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        assert [value.shape for value in session.get_outputs()] == [["batch", labels]]


def test_the_only_required_inputs_are_the_models(swappable_bundle: Exported) -> None:
    session = unoptimized(str(swappable_bundle.bundle / "model.onnx"))
    tensors = {value.name for value in session.get_overridable_initializers()}
    assert tensors == set(read_manifest(swappable_bundle.bundle).tensors)


def test_a_base_without_a_head_answers_no_labels(
    swappable_bundle: Exported, text_batch: Callable[..., dict[str, np.ndarray]]
) -> None:
    session = unoptimized(str(swappable_bundle.bundle / "model.onnx"))
    assert session.run(["logits"], graph_inputs(session, text_batch(3, 7)))[0].shape == (3, 0)


def test_no_path_of_the_exporting_machine_is_in_the_bundle(swappable_bundle: Exported) -> None:
    places = {str(swappable_bundle.base), str(swappable_bundle.bundle.parent), str(Path(__file__).parents[2])}
    places |= {str(Path(onnx.__file__).parents[1]), str(Path.home())}
    for file in swappable_bundle.bundle.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [place for place in places if place.encode() in content], file
            assert b".py" not in content or file.suffix != ".onnx", file


def test_equal_tensors_stay_apart(swappable_bundle: Exported) -> None:
    """Exporters merge equal initializers; the defaults of adapters are full of them."""
    graph = onnx.load(swappable_bundle.bundle / "model.onnx").graph
    names = list(read_manifest(swappable_bundle.bundle).tensors)
    # IA3's; two bottlenecks after each sublayer; one of Pfeiffer's a layer; and the head.
    assert len(names) == 6 + 4 * 4 + 2 * 4 + 2
    assert set(names) <= {tensor.name for tensor in graph.initializer}
    bound = [name for node in graph.node if node.domain == DOMAIN for name in node.input]
    assert Counter(name for name in bound if name in names) == Counter(names)


def test_bundle_records_what_it_holds(swappable_bundle: Exported) -> None:
    manifest = read_manifest(swappable_bundle.bundle)
    assert (manifest.mode, manifest.task, manifest.opset, manifest.labels) == (
        "swappable",
        "text-classification",
        20,
        None,
    )
    assert [info.name for info in manifest.adapters] == list(swappable_bundle.adapters)
    assert manifest.adapter("houlsby_four").labels == ("north", "east", "south", "west")
    present = {
        path.relative_to(swappable_bundle.bundle).as_posix()
        for path in swappable_bundle.bundle.rglob("*")
        if path.is_file()
    }
    assert present == {*manifest.files, "manifest.json", "README.md"}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= present


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "pile"}, r"mode 'pile': expected one of merged, embedded, swappable, bank"),
        ({"mode": "bank", "slots": 0}, r"slots 0: expected 1 to 65536"),
        ({"mode": "merged"}, r"mode merged: expected exactly one adapter, found 2"),
        ({"mode": "embedded"}, r"mode embedded: expected exactly one adapter, found 2"),
        ({"adapters": {}}, r"expected at least one --adapter NAME=DIR"),
        ({"opset": 17}, r"opset 17: expected at least 20"),
        ({"task": "tagging"}, r"task 'tagging': expected one of features"),
        ({"task": "seq2seq-lm"}, r"was trained for text-classification .* contradicts --task seq2seq-lm"),
        ({"names": ("../evil", "b")}, r"adapter name '../evil'"),
        ({"names": ("con", "b")}, r"adapter name 'con'"),
        ({"model": "missing"}, r"model missing: expected a folder, found nothing"),
    ],
)
def test_bad_requests_leave_nothing(
    change: dict[str, Any], message: str, tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: Any
) -> None:
    names = change.pop("names", ("a", "b"))
    folders = [classifier_checkpoints["ia3_two"], classifier_checkpoints["houlsby_two"]]
    request = {
        "model": tiny_model("bert"),
        "adapters": dict(zip(names, folders, strict=True)),
        "mode": "swappable",
        **change,
    }
    with pytest.raises(InputError, match=message):
        export_onnx(output=tmp_path / "out", **request)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def headless(tiny_info: Callable[..., Any], random_adapter: Callable[..., Adapter], save_checkpoint: Any) -> Path:
    """A checkpoint trained for features."""
    info = tiny_info("bert")
    folder: Path = save_checkpoint(random_adapter(info, "ia3"), info)
    return folder


def test_adapters_of_different_tasks_need_a_choice(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path], headless: Path
) -> None:
    adapters = {"a": classifier_checkpoints["ia3_two"], "b": headless}
    with pytest.raises(InputError, match=r"trained for different tasks \(a: text-classification, b: features\)"):
        export_onnx(tiny_model("bert"), adapters, tmp_path / "out", mode="swappable")


def test_an_adapter_without_a_head_needs_a_base_with_one(
    tmp_path: Path, tiny_model: Callable[..., Path], headless: Path
) -> None:
    folder = shutil.copytree(headless, tmp_path / "bare")
    with pytest.raises(InputError, match=r"adapter bare: was trained for features .* contradicts --task text"):
        export_onnx(tiny_model("bert"), {"bare": folder}, tmp_path / "o", mode="swappable", task="text-classification")
    (folder / "adapter_export.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": None}))
    with pytest.raises(InputError, match=r"adapter bare: expected a task head \(text-classification\)"):
        export_onnx(tiny_model("bert"), {"bare": folder}, tmp_path / "o", mode="swappable", task="text-classification")


def test_existing_output_is_refused_before_any_work(tmp_path: Path, swappable_bundle: Exported) -> None:
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(OutputExists):
        export_onnx(swappable_bundle.base, swappable_bundle.adapters, tmp_path, mode="swappable")
    with pytest.raises(OutputExists, match="this tool did not write"):
        export_onnx(swappable_bundle.base, swappable_bundle.adapters, tmp_path, mode="swappable", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_module_paths_in_names_are_those_of_the_base_model(swappable_bundle: Exported) -> None:
    modules = read_manifest(swappable_bundle.bundle).base.modules
    for site in read_manifest(swappable_bundle.bundle).sites:
        assert site.module in modules or site.module == "classifier"
        for name, info in site.tensors.items():
            assert re.fullmatch(rf"{re.escape(site.module)}(\.input)?\.\w+\.\w+", name)
            assert info.dtype == "float32"
