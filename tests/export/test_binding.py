"""Adapter tensors as required inputs: the same numbers as from overridable initializers, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import NO_ADAPTER_FILE, read_manifest
from adapter_export.bundle.modes import Binding
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.cli import main
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.export.genai import GENAI_CONFIG
from adapter_export.modelinfo import ModelInfo
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported


@pytest.fixture(scope="module")
def inputs(inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {**inputs_for("bert", 3, 9), "token_type_ids": np.arange(27).reshape(3, 9) % 2}


def test_the_graph_has_no_defaults(required_bundle: Exported, swappable_bundle: Exported) -> None:
    manifest = read_manifest(required_bundle.bundle)
    assert manifest.bind == "input"
    graph = onnx.load(required_bundle.bundle / MODEL).graph
    required = {
        item.name: tuple(dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim)
        for item in graph.input
    }
    assert set(required) == {*manifest.tensors, *manifest.inputs}
    assert all(required[name] == info.shape for name, info in manifest.tensors.items())
    assert not {item.name for item in graph.initializer} & set(required)
    # What a caller gives, and what adapters may be, is as in the other binding.
    other = read_manifest(swappable_bundle.bundle)
    assert (manifest.inputs, manifest.outputs, manifest.tensors) == (other.inputs, other.outputs, other.tensors)


def test_plain_onnx_runtime_with_the_files_of_the_bundle(
    required_bundle: Exported, swappable_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    session = ort.InferenceSession(required_bundle.bundle / MODEL, providers=["CPUExecutionProvider"])
    none = read_adapter_file(required_bundle.bundle / NO_ADAPTER_FILE)
    assert set(none) == set(read_manifest(required_bundle.bundle).tensors)
    with AdapterSession(swappable_bundle.bundle) as single:
        for name in (None, *required_bundle.adapters):
            own = {} if name is None else read_adapter_file(required_bundle.bundle / f"adapters/{name}.onnx_adapter")
            (logits,) = session.run(["logits"], {**inputs, **none, **own})
            assert np.array_equal(logits, single.run(inputs, name)["logits"])
    with pytest.raises(ValueError, match=r"(?i)required inputs .* missing"):
        session.run(["logits"], inputs)


def test_sessions_and_adapters_added_later(
    required_bundle: Exported, swappable_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    with AdapterSession(copied) as session, AdapterSession(swappable_bundle.bundle) as single:
        for name in ("houlsby_four", None, "ia3_two", "pfeiffer_five", None):
            assert np.array_equal(session.run(inputs, name)["logits"], single.run(inputs, name)["logits"])
        add_adapter(copied, {"late": required_bundle.adapters["houlsby_two"]})
        assert np.array_equal(session.run(inputs, "late")["logits"], single.run(inputs, "houlsby_two")["logits"])
        with pytest.raises(InputError, match="is a tensor of an adapter; choose an adapter by its name"):
            session.run({**inputs, next(iter(session.manifest.tensors)): np.zeros(1, np.float32)})


def test_no_adapter_that_is_gone_or_changed(required_bundle: Exported, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    (copied / NO_ADAPTER_FILE).unlink()
    with pytest.raises(InputError, match=f"{NO_ADAPTER_FILE}: no such file"):
        AdapterSession(copied, verify=False)


def test_parity(required_bundle: Exported) -> None:
    report = check_parity(required_bundle.bundle, required_bundle.base, required_bundle.adapters)
    assert report.verdict is Verdict.PASS, [item.judgement.reasons for item in report.results][:3]


@pytest.mark.parametrize(("model_type", "task"), [("llama", "causal-lm"), ("t5", "seq2seq-lm")])
def test_generating(model_type: str, task: str, export_cached: Callable[..., Exported], tmp_path: Path) -> None:
    other = export_cached(model_type, task)
    export_onnx(other.base, other.adapters, tmp_path / "bundle", mode="swappable", task=task, bind="input")
    # GenAI gives a graph no tensors of no adapter.
    assert not (tmp_path / "bundle" / GENAI_CONFIG).exists()
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    with AdapterSession(tmp_path / "bundle") as session, AdapterSession(other.bundle) as single:
        for name in (None, *other.adapters):
            rows, expected = (
                opened.generate(prompts, name, max_new_tokens=8, ignore_eos=True).completions()
                for opened in (session, single)
            )
            assert rows == expected


def test_half_precision(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    info = tiny_info("vit")
    adapters = {"a": save_checkpoint(random_adapter(info, "bottleneck", 1), info)}
    for bind in Binding:
        export_onnx(tiny_model("vit"), adapters, tmp_path / bind, mode="swappable", dtype="fp16", bind=bind)
    with AdapterSession(tmp_path / "initializer") as single, AdapterSession(tmp_path / "input") as session:
        assert {tensor.dtype for tensor in session.manifest.tensors.values()} == {"float16"}
        shape = session.manifest.inputs["pixel_values"].shape
        images = {"pixel_values": np.random.default_rng(0).standard_normal((2, *map(int, shape[1:])), np.float32)}
        for name in (None, "a"):
            for output, value in single.run(images, name).items():
                assert np.array_equal(session.run(images, name)[output], value)


@pytest.mark.parametrize("mode", ["merged", "embedded", "bank"])
def test_other_modes_are_refused_before_any_work(mode: str, required_bundle: Exported, tmp_path: Path) -> None:
    adapter = required_bundle.adapters["ia3_two"]
    with pytest.raises(InputError, match=f"bind input with mode {mode}: expected mode swappable"):
        export_onnx(required_bundle.base, {"a": adapter}, tmp_path / "bundle", mode=mode, bind="input")
    with pytest.raises(InputError, match="bind 'output': expected one of initializer, input"):
        export_onnx(required_bundle.base, {"a": adapter}, tmp_path / "bundle", mode="swappable", bind="output")
    assert not list(tmp_path.iterdir())


def test_the_command(required_bundle: Exported, tmp_path: Path) -> None:
    adapter = required_bundle.adapters["ia3_two"]
    command = ["onnx", "--model", str(required_bundle.base), "--adapter", f"a={adapter}", "--mode", "swappable"]
    made = CliRunner().invoke(main, [*command, "--bind", "input", "--output", str(tmp_path / "bundle"), "--json"])
    assert made.exit_code == 0, made.output
    assert '"bind": "input"' in made.stdout
    assert '"bind": "input"' in CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle"), "--json"]).stdout
