"""Adapter files of Olive, as it wrote them, and files for graphs of GenAI's model builder, which runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adapter_export.bundle.adapter_file import read_adapter_file, write_adapter_file
from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.foreign_files import extract_adapter, tools
from adapter_export.bundle.manifest import read_manifest
from adapter_export.cli.main import main
from adapter_export.errors import InputError, OutputExists
from adapter_export.export.export import export_onnx
from adapter_export.runtime.session import AdapterSession
from tests import finished
from tests.bundles import Exported

OLIVE = Path(__file__).parent.parent / "goldens" / "olive"
FILE = OLIVE / "olive.onnx_adapter"
TASK = "causal-lm"
INPUTS = {"input_ids": np.arange(2, 12)[None], "attention_mask": np.ones((1, 10), np.int64)}


@pytest.fixture(scope="module")
def made(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the adapter as PEFT saved it."""
    folder = tmp_path_factory.mktemp("olive") / "bundle"
    export_onnx(tiny_model("llama", TASK), {"peft": OLIVE}, folder, mode="swappable", cache=False)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def logits(session: AdapterSession, adapter: str | None) -> np.ndarray:
    return session.run(INPUTS, adapter)["logits"]


def test_a_file_of_olive_does_what_pefts_checkpoint_does(bundle: Path) -> None:
    with AdapterSession(bundle) as session:
        session.load("olive", FILE)
        expected, base = logits(session, "peft"), logits(session, None)
        np.testing.assert_allclose(logits(session, "olive"), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert np.abs(expected - base).max() > 0.1 * np.abs(base).max()


def test_a_file_is_added(bundle: Path) -> None:
    manifest = add_adapter(bundle, {"olive": FILE, "half": OLIVE / "olive-half.onnx_adapter"})
    info, peft = manifest.adapter("olive"), manifest.adapter("peft")
    assert (info.method, info.source_format, info.labels) == (peft.method, "onnx_adapter", None)
    assert info.parameters == peft.parameters
    with AdapterSession(bundle) as session:
        expected = logits(session, "peft")
        size = np.abs(expected).max()
        np.testing.assert_allclose(logits(session, "olive"), expected, rtol=0, atol=1e-6 * size)
    half = read_adapter_file(OLIVE / "olive-half.onnx_adapter")
    added = read_adapter_file(bundle / str(manifest.adapter("half").file))
    assert added["layers.1.mlp.down_proj.lora.b"].dtype == np.float32
    assert np.array_equal(added["layers.1.mlp.down_proj.lora.b"], half["model.layers.1.mlp.down_proj.lora_B.weight"])


def test_a_file_of_another_bundle_of_the_model_is_added(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx_adapter"
    shutil.copy(bundle / "adapters" / "peft.onnx_adapter", copy)
    manifest = add_adapter(bundle, {"copy": copy})
    assert manifest.adapter("copy").sha256 == manifest.adapter("peft").sha256
    write_adapter_file(copy, read_adapter_file(copy), "1" * 64)
    with pytest.raises(InputError, match="belongs to another base model"):
        add_adapter(bundle, {"other": copy})
    with pytest.raises(InputError, match=r"nowhere\.onnx_adapter: no such file"):
        add_adapter(bundle, {"missing": "nowhere.onnx_adapter"})


def test_a_file_with_a_task_head_is_refused(swappable_bundle: Exported, tmp_path: Path) -> None:
    """Class names are in the manifest of its bundle, not in the file."""
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    info = next(info for info in read_manifest(bundle).adapters if info.labels)
    copy = tmp_path / "copy.onnx_adapter"
    shutil.copy(bundle / str(info.file), copy)
    with pytest.raises(InputError, match="the file has a task head, and no class names; add the adapter's checkpoint"):
        add_adapter(bundle, {"copy": copy})


def test_what_cannot_be_read_is_refused(bundle: Path, tmp_path: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    tensors = read_adapter_file(FILE)
    first = "model.layers.0.self_attn.q_proj.lora_A.weight"

    def refused(message: str, renamed: dict[str, np.ndarray]) -> None:
        path = tmp_path / "changed.onnx_adapter"
        write_adapter_file(path, renamed, "")
        with pytest.raises(InputError, match=message):
            add_adapter(bundle, {"olive": path})
        with AdapterSession(bundle) as session, pytest.raises(InputError, match=message):
            session.load("olive", path)

    with pytest.raises(InputError, match=r"olive-int4.*lora_[AB]\.quant\.\w+': the matrices are quantized"):
        add_adapter(bundle, {"olive": OLIVE / "olive-int4.onnx_adapter"})
    refused(
        "has no lora adapter at module 'layers.7.self_attn.q_proj'; it has: layers.0.",
        {first.replace("0", "7"): tensors[first]},
    )
    refused("'encoder.weights': the graph has no such tensor", {"encoder.weights": tensors[first]})
    refused("layers.0.self_attn.q_proj.lora.b' is missing", {first: tensors[first]})
    twice = "base_model.model." + first
    refused("another tensor of the file is for the same place", {**tensors, twice: tensors[first]})
    swapped = dict(tensors)
    swapped[first] = tensors[first].T
    refused(r"expected shape \[32, ", swapped)
    with pytest.raises(InputError, match=r"--labels olive: .* is an adapter file"):
        add_adapter(bundle, {"olive": FILE}, labels={"olive": ["a", "b"]})
    assert (bundle / "manifest.json").read_bytes() == before


def test_olive_is_written_as_olive_writes(bundle: Path, tmp_path: Path) -> None:
    path = extract_adapter(bundle, "peft", tmp_path / "out.onnx_adapter", tool="olive")
    found, expected = read_adapter_file(path), read_adapter_file(FILE)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-6, err_msg=name)
    half = read_adapter_file(
        extract_adapter(bundle, "peft", tmp_path / "half.onnx_adapter", tool="olive", dtype="float16")
    )
    for name, tensor in read_adapter_file(OLIVE / "olive-half.onnx_adapter").items():
        assert half[name].dtype == np.float16
        np.testing.assert_allclose(half[name], tensor, rtol=2e-3, err_msg=name)


def test_names_of_another_tool_are_read_back(bundle: Path, tmp_path: Path) -> None:
    for tool in tools():
        path = extract_adapter(bundle, "peft", tmp_path / f"{tool}.onnx_adapter", tool=tool)
        add_adapter(bundle, {tool: path})
    manifest = read_manifest(bundle)
    digests = {manifest.adapter(name).sha256 for name in ("peft", *tools())}
    assert len(digests) == 1


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "peft.onnx_adapter"
    command = ["extract", "--bundle", str(bundle), "--adapter", "peft", "--for", "genai", "--output", str(output)]
    done = CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"output": str(output), "adapter": "peft", "for": "genai"}
    assert "model.layers.1.mlp.down_proj.lora_B.MatMul.weight" in read_adapter_file(output)


def test_what_cannot_be_written_is_refused(
    bundle: Path,
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., object],
    random_adapter: Callable[..., object],
    save_checkpoint: Callable[..., Path],
) -> None:
    output = tmp_path / "out.onnx_adapter"
    with pytest.raises(InputError, match="tool 'peft': expected one of olive, genai"):
        extract_adapter(bundle, "peft", output, tool="peft")
    with pytest.raises(InputError, match=r"adapter 'other': not in the bundle \(it has: peft\)"):
        extract_adapter(bundle, "other", output, tool="olive")
    with pytest.raises(InputError, match="lies in the bundle"):
        extract_adapter(bundle, "peft", bundle / "adapters" / "x.onnx_adapter", tool="olive")
    with pytest.raises(InputError, match="dtype 'int8': expected one of float32, float16"):
        extract_adapter(bundle, "peft", output, tool="olive", dtype="int8")
    assert not output.exists()
    output.write_text("mine")
    with pytest.raises(OutputExists, match="--force"):
        extract_adapter(bundle, "peft", output, tool="olive")
    assert output.read_text() == "mine"
    with pytest.raises(InputError, match=r"--output .*: expected a file, found a folder"):
        extract_adapter(bundle, "peft", tmp_path, tool="olive", force=True)
    with pytest.raises(InputError, match=r"--output .*: no such folder"):
        extract_adapter(bundle, "peft", tmp_path / "nowhere" / "x.onnx_adapter", tool="olive")
    extract_adapter(bundle, "peft", output, tool="olive", force=True)
    assert read_adapter_file(output)

    info = tiny_info("bert")
    checkpoint = save_checkpoint(random_adapter(info, "ia3", 1), info)
    lora = save_checkpoint(random_adapter(info, "lora", 2), info)
    both = tmp_path / "both"
    export_onnx(tiny_model("bert"), {"ia3": checkpoint, "lora": lora}, both, mode="swappable")
    with pytest.raises(InputError, match="graphs of 'olive' have no place for it"):
        extract_adapter(both, "ia3", tmp_path / "no.onnx_adapter", tool="olive")
    with pytest.raises(InputError, match="graphs of 'genai' have no place for it"):
        extract_adapter(both, "lora", tmp_path / "no.onnx_adapter", tool="genai")
    assert not (tmp_path / "no.onnx_adapter").exists()


@pytest.mark.slow
def test_a_graph_of_genai_computes_it(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., object],
    random_adapter: Callable[..., object],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """GenAI builds a graph with one adapter; with our file of another, plain ONNX Runtime computes that one."""
    import onnx
    import onnxruntime as ort

    model = tiny_model("llama", TASK, **finished.GENAI_CONFIG)
    info = tiny_info("llama", TASK, **finished.GENAI_CONFIG)
    target = r"layers\.\d+\..*_proj"
    one, other = (save_checkpoint(random_adapter(info, "lora", seed, rank=3, target=target), info) for seed in (1, 2))
    finished.make_graph("fp32", model, tmp_path / "graph", adapter=one)
    path = tmp_path / "graph" / "model.onnx"
    graph = onnx.load(path)
    places = [tensor for tensor in graph.graph.initializer if ".lora_" in tensor.name]
    graph.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in places)
    onnx.save(graph, path)

    bundle = tmp_path / "bundle"
    export_onnx(model, {"one": one, "other": other}, bundle, mode="swappable", cache=False)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size = finished.GENAI_CONFIG["head_dim"]
    cache = [info for info in session.get_inputs() if info.name.startswith("past_key_values")]
    given = {**INPUTS, **{info.name: np.zeros((1, info.shape[1], 0, size), np.float32) for info in cache}}
    with AdapterSession(bundle) as ours:
        for name in ("one", "other"):
            file = extract_adapter(bundle, name, tmp_path / f"{name}.onnx_adapter", tool="genai")
            adapter = ort.LoraAdapter()
            adapter.Load(str(file))
            options = ort.RunOptions()
            options.add_active_adapter(adapter)
            found = session.run(["logits"], given, options)[0]
            expected = logits(ours, name)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
