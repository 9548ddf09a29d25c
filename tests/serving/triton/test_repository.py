"""Model repositories of Triton: read by Triton's own messages, and run in plain ONNX Runtime as they say."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.cli import main
from adapter_export.dtypes import DType
from adapter_export.errors import InputError, OutputExists
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.triton.repository import write_repository
from samples import environments
from samples.assets import AssetError
from tests.bundles import Exported

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# Names of numpy's types in ONNX Runtime and in Triton.
TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


@pytest.fixture(scope="module")
def read() -> Callable[..., list[dict[str, Any]]]:
    """Called as (file, ...) -> the configurations in these files, as Triton's messages give them."""
    try:
        python = environments.python(environments.SCHEMAS)
    except AssetError as error:
        pytest.skip(str(error))

    def configs(*files: Path) -> list[dict[str, Any]]:
        command = [str(python), str(Path(__file__).with_name("read_config.py")), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    return configs


def dims(tensor: Mapping[str, Any], batch: int) -> list[int]:
    """The complete shape of a tensor of a configuration as the graph has it, -1 where it is free."""
    given = tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"]
    return [batch, *map(int, given)]


def check_fits(config: Mapping[str, Any], session: ort.InferenceSession) -> None:
    """What the backend requires: the same inputs and outputs, of the same types and shapes."""
    for field, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        stated = {tensor["name"]: tensor for tensor in config[field]}
        assert stated.keys() == {value.name for value in values}
        for value in values:
            tensor = stated[value.name]
            assert tensor["data_type"] == TYPES[value.type]
            assert tensor["dims"], "Triton refuses a tensor without dims"
            assert dims(tensor, -1) == [dim if isinstance(dim, int) else -1 for dim in value.shape]


def requests(config: Mapping[str, Any], rows: int, ids: list[int]) -> dict[str, np.ndarray]:
    """A batch as clients send it, by the configuration alone: random tokens, and the adapter of each row."""
    rng = np.random.default_rng(3)
    found = {}
    for tensor in config["input"]:
        shape = [rows, *(6 if int(size) < 0 else int(size) for size in tensor["dims"])]
        values = {"input_ids": rng.integers(5, 90, shape), "attention_mask": np.ones(shape), "adapter_ids": ids}
        found[tensor["name"]] = np.asarray(values.get(tensor["name"], np.zeros(shape)), np.int64).reshape(shape)
    return found


def run(config: Mapping[str, Any], session: ort.InferenceSession, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """What Triton does: gives each input the shape of the graph, and runs it."""
    rows = len(given["input_ids"])
    sizes = {tensor["name"]: [size if size >= 0 else 6 for size in dims(tensor, rows)] for tensor in config["input"]}
    (logits,) = session.run(["logits"], {name: value.reshape(sizes[name]) for name, value in given.items()})
    found: np.ndarray = logits
    return found


@pytest.mark.parametrize("mode", ["merged", "embedded", "bank"])
def test_a_repository_is_what_triton_reads_and_runs(
    mode: str, request: pytest.FixtureRequest, read: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    bundle = request.getfixturevalue(f"{mode}_bundle").bundle
    written = write_repository(bundle, tmp_path / "repository", name="model-1", max_batch=8, gpu=mode == "merged")
    folder = tmp_path / "repository/model-1"
    (config,) = read(folder / "config.pbtxt")
    assert [config[key] for key in ("name", "backend", "max_batch_size")] == ["model-1", "onnxruntime", 8]
    assert config["instance_group"] == [{"kind": "KIND_GPU" if mode == "merged" else "KIND_CPU", "count": 1}]
    assert config["dynamic_batching"] == {}
    graph = ort.InferenceSession(folder / "1/model.onnx")
    check_fits(config, graph)
    with AdapterSession(bundle) as session:
        names = [None, *session.adapters] if mode == "bank" else [*session.adapters]
        numbers = {name: 0 if name is None else number for number, name in enumerate(names)}
        given = requests(config, len(names), [*numbers.values()])
        inputs = {name: value for name, value in given.items() if name != "adapter_ids"}
        expected = session.run(inputs, adapters=names) if mode == "bank" else session.run(inputs, *names)
        np.testing.assert_allclose(run(config, graph, given), expected["logits"], **CLOSE)
        labels = {str(number): list(session.labels(name) or ()) for name, number in numbers.items()}
    if mode == "bank":
        parameters = {key: json.loads(value["string_value"]) for key, value in config["parameters"].items()}
        assert parameters["adapter_ids"] == {name: number for name, number in numbers.items() if name is not None}
        assert parameters["labels"] == {number: names for number, names in labels.items() if names}
        assert written.config.adapter_ids == parameters["adapter_ids"]
    else:
        (output,) = config["output"]
        assert (folder / output["label_filename"]).read_text().splitlines() == labels["0"]
        assert "parameters" not in config


def test_weights_and_licenses_come_along(licensed_bundle: Exported, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(licensed_bundle.bundle, bundle)
    # As a bundle of more than 64 MiB: its weights beside the graph. What it computes does not matter here.
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, bundle / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    relist(bundle, "model.onnx", "model.onnx.data", mode="merged", adapters=())
    write_repository(bundle, tmp_path / "out", name="m")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    licenses = {f"m/1/{path}" for path in read_manifest(bundle).files if path.startswith("licenses/")}
    assert len(licenses) == 4
    assert found == {"adapter_export.json", "m/config.pbtxt", "m/1/model.onnx", "m/1/model.onnx.data", *licenses}
    options = ort.SessionOptions()
    options.log_severity_level = 3  # else a warning for each tensor that adapters fill
    ort.InferenceSession(tmp_path / "out/m/1/model.onnx", options)
    listed = json.loads((tmp_path / "out/adapter_export.json").read_text())["files"]
    assert {*listed} == found - {"adapter_export.json"}
    # A file that the manifest does not know is not delivered.
    manifest = read_manifest(bundle)
    files = {name: digest for name, digest in manifest.files.items() if name != "model.onnx.data"}
    write_manifest(bundle, replace(manifest, files=files))
    with pytest.raises(InputError, match=r"model\.onnx\.data: has weights of the graph, but is not in"):
        write_repository(bundle, tmp_path / "other", name="m")


def relist(bundle: Path, *names: str, **fields: Any) -> None:
    """Writes the manifest again for changed files, and with changed fields."""
    manifest = read_manifest(bundle)
    digests = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in names}
    write_manifest(bundle, replace(manifest, files={**manifest.files, **digests}))
    content = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**content, **fields}))


def test_text_of_any_kind_is_read_back(
    bank_bundle: Exported, read: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    names = ('a "quote"', "back\\slash", "zwei\nZeilen", "日本語", "\x7f")
    bundle = tmp_path / "bundle"
    shutil.copytree(bank_bundle.bundle, bundle)
    manifest = read_manifest(bundle)
    adapters = tuple(
        replace(info, labels=names) if info.name == "pfeiffer_five" else info for info in manifest.adapters
    )
    write_manifest(bundle, replace(manifest, adapters=adapters))
    write_repository(bundle, tmp_path / "out")
    (config,) = read(tmp_path / "out/bundle/config.pbtxt")
    assert config["name"] == "bundle"
    assert json.loads(config["parameters"]["labels"]["string_value"])["5"] == list(names)


def test_class_names_that_are_no_lines_get_no_file(merged_bundle: Exported, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(merged_bundle.bundle, bundle)
    manifest = read_manifest(bundle)
    (info,) = manifest.adapters
    write_manifest(bundle, replace(manifest, adapters=(replace(info, labels=("a", "b\nc", "d")),)))
    write_repository(bundle, tmp_path / "out")
    assert not (tmp_path / "out/bundle/labels.txt").exists()
    assert "label_filename" not in (tmp_path / "out/bundle/config.pbtxt").read_text()


def test_requests_are_not_combined_where_rows_change_each_other(
    merged_bundle: Exported, read: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(merged_bundle.bundle, bundle)
    config = {"is_encoder_decoder": True, "eos_token_id": 3}
    (bundle / "config.json").write_text(json.dumps(config))
    assert write_repository(bundle, tmp_path / "out", max_batch=8).config.max_batch == 1
    (found,) = read(tmp_path / "out/bundle/config.pbtxt")
    assert found["max_batch_size"] == 1
    assert "dynamic_batching" not in found


def refusal(bundle: Path, tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        write_repository(bundle, tmp_path / "repository", **settings)
    assert sorted(path.name for path in tmp_path.iterdir() if "repository" in path.name) == []
    return str(caught.value)


def test_what_triton_cannot_run_is_refused(
    swappable_bundle: Exported,
    required_bundle: Exported,
    merged_bundle: Exported,
    export_cached: Callable[..., Exported],
    tmp_path: Path,
) -> None:
    assert "cannot activate an adapter" in refusal(swappable_bundle.bundle, tmp_path)
    assert "send all tensors of its adapter" in refusal(required_bundle.bundle, tmp_path)
    assert "generates with a cache" in refusal(export_cached("llama", mode="bank").bundle, tmp_path)
    assert "max_batch: expected at least 1" in refusal(merged_bundle.bundle, tmp_path, max_batch=0)
    for name in ("..", "a/b", "", "nul", "ü"):
        assert refusal(merged_bundle.bundle, tmp_path, name=name).startswith("--name: expected 1 to 64 of letters")


def test_bundles_that_would_be_run_wrong_are_refused(
    bank_bundle: Exported, merged_bundle: Exported, classifier_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bank_bundle.bundle, bundle)
    add_adapter(bundle, {"late": classifier_checkpoints["ia3_two"]})
    assert "adapter 'late' was added after the export" in refusal(bundle, tmp_path)
    shutil.rmtree(bundle)
    shutil.copytree(merged_bundle.bundle, bundle)
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, dtype=DType.BFLOAT16))
    assert "pass --gpu" in refusal(bundle, tmp_path)
    (graph,) = manifest.graphs.values()
    pairs = {name: replace(info, shape=("batch", "batch")) for name, info in graph.outputs.items()}
    write_manifest(bundle, replace(manifest, graphs={"model.onnx": replace(graph, outputs=pairs)}))
    assert "expected rows of a batch, each by itself" in refusal(bundle, tmp_path)
    write_manifest(bundle, manifest)
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    assert "expected a file with sha256" in refusal(bundle, tmp_path)


def test_an_earlier_repository_alone_is_replaced(
    merged_bundle: Exported, embedded_bundle: Exported, tmp_path: Path
) -> None:
    output = tmp_path / "repository"
    write_repository(merged_bundle.bundle, output, name="first")
    with pytest.raises(OutputExists):
        write_repository(embedded_bundle.bundle, output, name="second")
    write_repository(embedded_bundle.bundle, output, name="second", force=True)
    assert sorted(path.name for path in output.iterdir()) == ["adapter_export.json", "second"]
    # The folder of a model that somebody else put there.
    (output / "theirs").mkdir()
    (output / "theirs/config.pbtxt").touch()
    with pytest.raises(OutputExists, match=r"theirs/config\.pbtxt"):
        write_repository(embedded_bundle.bundle, output, name="third", force=True)
    assert (output / "second/1/model.onnx").is_file()


def test_the_command_prints_the_numbers(bank_bundle: Exported, tmp_path: Path) -> None:
    arguments = ["triton", "--bundle", str(bank_bundle.bundle), "--name", "m", "--output"]
    said = CliRunner().invoke(main, [*arguments, str(tmp_path / "one")])
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[1:4] == [
        "adapter_ids of each row: 0 for the base model",
        "  1  ia3_two",
        "  2  ia3_three",
    ]
    as_json = CliRunner().invoke(main, [*arguments, str(tmp_path / "two"), "--json", "--max-batch", "4", "--gpu"])
    found = json.loads(as_json.stdout)
    assert [found[key] for key in ("model", "max_batch", "device")] == ["m", 4, "gpu"]
    assert found["adapter_ids"] == {name: number for number, name in enumerate(bank_bundle.adapters, start=1)}
    assert "adapter_ids" in found["inputs"]
