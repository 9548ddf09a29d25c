"""`adapter-export inspect`: everything it can describe, broken ones, and that it loads no framework."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import adapter_path, read_manifest
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.cli import main
from adapter_export.inspection.tensors import Tensor, collapsed, families, grouped
from adapter_export.reading.hashes import sha256
from tests.bundles import Exported


def invoke(*args: Any) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["inspect", *map(str, args)])


def described(path: Path) -> dict[str, Any]:
    result = invoke(path, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["path"] == str(path)
    # What a machine reads, a person can read as well.
    table = invoke(path)
    assert table.exit_code == 0, table.output
    assert table.stdout.startswith(f"{path}: {found['kind']}\n")
    return found


class TestCheckpoints:
    def test_peft(self, swappable_bundle: Exported) -> None:
        folder = swappable_bundle.adapters["ia3_three"]
        found = described(folder)
        weights = folder / "adapter_model.safetensors"
        assert (found["kind"], found["format"], found["method"]) == ("adapter checkpoint", "peft", "ia3")
        assert found["task"] == "text-classification"
        assert found["labels"] == ["bad", "so so", "good"]
        assert found["base_sha256"] == weights_sha256(swappable_bundle.base)
        assert found["parameters"] == read_manifest(swappable_bundle.bundle).adapter("ia3_three").parameters
        assert found["files"] == [{"file": weights.name, "bytes": weights.stat().st_size, "sha256": sha256(weights)}]
        assert "encoder.layer.{0-1}.output.dense" in found["settings"]["target_modules"]
        assert {
            "name": "base_model.model.bert.encoder.layer.{0-1}.output.dense.ia3_l",
            "count": 2,
            "dtype": "F32",
            "shape": [1, 64],
            "parameters": 128,
        } in found["tensors"]

    def test_adapterhub(self, swappable_bundle: Exported) -> None:
        found = described(swappable_bundle.adapters["houlsby_four"])
        assert (found["format"], found["method"]) == ("adapterhub", "bottleneck")
        assert found["labels"] == ["north", "east", "south", "west"]
        assert found["settings"]["non_linearity"] == "swish"
        assert [item["file"] for item in found["files"]] == ["adapter.safetensors", "model_head.safetensors"]
        assert found["parameters"] == read_manifest(swappable_bundle.bundle).adapter("houlsby_four").parameters

    def test_a_method_this_project_cannot_load(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        config = {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        save_file(
            {f"m.{i}.vera_A.weight": np.ones((8, 4), "f2") for i in range(3)}, tmp_path / "adapter_model.safetensors"
        )
        found = described(tmp_path)
        assert (found["method"], found["task"], found["parameters"]) == ("vera", "causal-lm", 96)
        assert found["tensors"][0]["name"] == "m.{0-2}.vera_A.weight"

    def test_bin_files_are_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"config": {"output_adapter": True}}))
        (tmp_path / "pytorch_adapter.bin").write_bytes(b"never unpickled")
        found = described(tmp_path)
        assert found["files"][0]["bytes"] == 15
        assert found["note"] == ".bin files list no tensors without loading them"
        assert "tensors" not in found


class TestModels:
    def test_a_base_model(self, swappable_bundle: Exported) -> None:
        found = described(swappable_bundle.base)
        assert (found["kind"], found["model_type"], found["task"]) == ("base model", "bert", "features")
        assert found["weights_sha256"] == weights_sha256(swappable_bundle.base)
        assert found["settings"]["num_hidden_layers"] == 2
        assert "merged" not in found

    def test_a_merged_model(self, swappable_bundle: Exported, tmp_path: Path) -> None:
        from adapter_export.merging.merge import merge

        merge(swappable_bundle.base, swappable_bundle.adapters["ia3_two"], tmp_path / "merged")
        found = described(tmp_path / "merged")
        assert found["kind"] == "merged model"
        (entry,) = found["merged"]
        assert entry["method"] == "ia3"
        assert entry["base_sha256"] == weights_sha256(swappable_bundle.base)

    def test_finding_2_an_adapter_beside_it(self, swappable_bundle: Exported, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(swappable_bundle.base, tmp_path / "both"))
        for path in swappable_bundle.adapters["ia3_two"].iterdir():
            shutil.copy(path, folder / path.name)
        found = described(folder)
        assert found["kind"] == "adapter checkpoint"
        assert found["model_beside"]["model_type"] == "bert"
        assert found["model_beside"]["weights_sha256"] == weights_sha256(swappable_bundle.base)


class TestBundles:
    def test_swappable(self, swappable_bundle: Exported) -> None:
        found = described(swappable_bundle.bundle)
        manifest = read_manifest(swappable_bundle.bundle)
        assert (found["kind"], found["mode"], found["task"]) == ("bundle", "swappable", "text-classification")
        assert found["opset"] == manifest.opset
        assert found["labels"] is None
        assert found["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", "num_labels"]}]
        assert [item["name"] for item in found["adapters"]] == list(swappable_bundle.adapters)
        assert found["adapters"][0]["sha256"] == sha256(swappable_bundle.bundle / adapter_path("ia3_two"))
        assert found["sites_total"] == len(manifest.sites)
        assert {
            "modules": "encoder.layer.{0-1}.output.LayerNorm",
            "port": "norm",
            "method": "bottleneck",
            "operator": "BottleneckRelu",
        } in found["sites"]
        (down,) = [
            item for item in found["tensors"] if item["name"].endswith("attention.output.dense.bottleneck_silu.down")
        ]
        assert (down["count"], down["shape"], down["parameters"]) == (2, [32, "width"], None)
        assert {item["status"] for item in found["files"]} == {"ok"}
        assert {item["file"] for item in found["files"]} == set(manifest.files)

    def test_licenses(self, licensed_bundle: Exported) -> None:
        found = described(licensed_bundle.bundle)
        assert (found["base"]["license"], found["base"]["source"]) == ("apache-2.0", None)
        assert [item["license"] for item in found["adapters"]] == ["mit", None]
        assert {"licenses/base/LICENSE", "licenses/adapters/ia3_two/LICENSE"} <= {
            item["file"] for item in found["files"] if item["status"] == "ok"
        }
        assert "README.md" not in {item["file"] for item in found["files"]}
        table = invoke(licensed_bundle.bundle).stdout
        assert "base.license" in table
        assert "apache-2.0" in table
        assert described(licensed_bundle.base)["license"] == "apache-2.0"
        assert described(licensed_bundle.adapters["ia3_two"])["license"] == "mit"
        assert "license" not in described(licensed_bundle.adapters["houlsby_two"])

    @pytest.mark.parametrize("fixture", ["embedded_bundle", "merged_bundle"])
    def test_an_adapter_in_the_graph(self, request: pytest.FixtureRequest, fixture: str) -> None:
        exported: Exported = request.getfixturevalue(fixture)
        found = described(exported.bundle)
        assert [item["name"] for item in found["adapters"]] == list(exported.adapters)
        assert found["adapters"][0]["file"] is None
        assert (found["sites"] == []) == (found["mode"] == "merged")

    def test_files_that_are_not_those_of_the_manifest(self, swappable_bundle: Exported, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
        (bundle / "notes.txt").write_text("mine")
        found = described(bundle)
        assert {"file": "notes.txt", "bytes": 4, "status": "not listed"} in found["files"]
        path = bundle / adapter_path("ia3_two")
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        (bundle / "tokenizer.json").unlink()
        result = invoke(bundle, "--json")
        assert result.exit_code == 2
        states = {item["file"]: item["status"] for item in json.loads(result.stdout)["files"]}
        assert [name for name, state in states.items() if state == "changed"] == [adapter_path("ia3_two")]
        assert [name for name, state in states.items() if state == "missing"] == ["tokenizer.json"]
        assert result.stderr == f"error: {path}: changed, against the bundle's manifest\n"


class TestFiles:
    def test_a_graph(self, swappable_bundle: Exported) -> None:
        path = swappable_bundle.bundle / MODEL
        found = described(path)
        manifest = read_manifest(swappable_bundle.bundle)
        assert (found["kind"], found["sha256"], found["bytes"]) == ("ONNX graph", sha256(path), path.stat().st_size)
        assert found["opsets"] == {"ai.onnx": manifest.opset, "adapter_export": 1}
        assert [item["name"] for item in found["inputs"]] == list(manifest.inputs)
        assert found["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", "num_labels"]}]
        assert sum(item["count"] for item in found["overridable_initializers"]) == len(manifest.tensors)
        assert {"domain": "adapter_export", "operator": "BottleneckSilu", "count": 4} in found["operators"]
        assert "adapter_export::IA3" in found["functions"]
        assert found["external_data"] == []

    def test_a_graph_with_external_data(self, tmp_path: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["n", 4])
        result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["n", 4])
        weight = numpy_helper.from_array(np.ones(4, "f2"), "w")
        graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [result], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        path = tmp_path / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
        found = described(path)
        assert found["external_data"] == [{"file": "m.data", "tensors": 1, "bytes": 8}]
        assert found["inputs"] == [{"name": "x", "dtype": "float16", "shape": ["n", 4]}]
        assert found["parameters"] == 4
        (tmp_path / "m.data").unlink()
        assert described(path)["external_data"] == [{"file": "m.data", "tensors": 1, "bytes": None}]

    def test_an_adapter_file(self, swappable_bundle: Exported) -> None:
        path = swappable_bundle.bundle / adapter_path("houlsby_two")
        found = described(path)
        manifest = read_manifest(swappable_bundle.bundle)
        assert (found["kind"], found["sha256"]) == ("adapter file", manifest.adapter("houlsby_two").sha256)
        assert found["parameters"] == manifest.adapter("houlsby_two").parameters
        assert int(found["base_fingerprint"], 16) == int(manifest.base.sha256[:8], 16) & 0x7FFFFFFF
        (down,) = [
            item for item in found["tensors"] if item["name"].endswith("{0-1}.output.dense.bottleneck_silu.down")
        ]
        assert (down["count"], down["dtype"], down["shape"]) == (2, "float32", [32, 8])


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("nope", None, "no such file or folder"),
            ("a.txt", b"text", "expected a folder, or a file ending in .onnx_adapter or .onnx"),
            ("a.onnx", b"", "not an ONNX model: it holds no graph"),
            ("a.onnx", b"\xff\xff\xff\xff", "not a readable ONNX file: "),
            ("a.onnx_adapter", b"text", "not a readable .onnx_adapter file: "),
        ],
    )
    def test_files(self, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        result = invoke(path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {path}: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    def test_folders(self, tmp_path: Path) -> None:
        result = invoke(tmp_path)
        assert result.exit_code == 2
        assert "expected a folder with manifest.json, adapter_config.json, config.json" in result.stderr
        (tmp_path / "config.json").write_text("[]")
        assert "config.json: expected a JSON object, found list" in invoke(tmp_path).stderr
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.safetensors").write_bytes(b"broken")
        assert "model.safetensors: not a readable safetensors file" in invoke(tmp_path).stderr


def test_neither_torch_nor_transformers(swappable_bundle: Exported) -> None:
    paths = [
        swappable_bundle.bundle,
        swappable_bundle.base,
        swappable_bundle.adapters["ia3_two"],
        swappable_bundle.bundle / MODEL,
        swappable_bundle.bundle / adapter_path("ia3_two"),
    ]
    code = (
        "import sys\n"
        "from adapter_export import inspect\n"
        "for path in sys.argv[1:]: inspect(path)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert "onnx" in done.stdout.split()
    assert not {"torch", "transformers", "onnxruntime"} & set(done.stdout.split())


class TestGrouping:
    @pytest.mark.parametrize(
        ("names", "wanted"),
        [
            (["layer.0.x"], "layer.0.x"),
            (["layer.0.x", "layer.1.x", "layer.2.x"], "layer.{0-2}.x"),
            (["layer.10.x", "layer.2.x", "layer.3.x", "layer.5.x"], "layer.{2-3,5,10}.x"),
            (["a.0.1.b.7", "a.0.2.b.7"], "a.0.{1-2}.b.7"),
            (["h2.0", "h2.1"], "h2.{0-1}"),
        ],
    )
    def test_numbers_that_differ(self, names: list[str], wanted: str) -> None:
        assert collapsed(names) == wanted

    def test_families(self) -> None:
        assert families(["a.0.x", "b.0", "a.1.x", "classifier"]) == ["a.{0-1}.x", "b.0", "classifier"]

    def test_groups_differ_in_shape_and_type(self) -> None:
        tensors: list[tuple[str, str, Callable[[int], tuple[int | str, ...]]]] = [
            ("l.{}.w", "F32", lambda i: (4, f"l.{i}.width")),
            ("l.{}.v", "F32", lambda i: (4 + i,)),
        ]
        found = grouped(Tensor(name.format(i), dtype, shape(i)) for name, dtype, shape in tensors for i in range(2))
        assert [(item.name, list(item.shape), item.parameters) for item in found] == [
            ("l.{0-1}.w", [4, "width"], None),
            ("l.0.v", [4], 4),
            ("l.1.v", [5], 5),
        ]


def test_names_that_look_like_a_group_of_names(tmp_path: Path) -> None:
    names = ("a.1.b", "a.2.b", "a.#.b", "a.{1-2}.b", f"a.{'1' * 5000}.b", "a.٣.b")
    write_adapter_file(tmp_path / "a.onnx_adapter", {name: np.ones(2, np.float32) for name in names}, "")
    result = invoke(tmp_path / "a.onnx_adapter", "--json")
    assert result.exit_code == 0
    counts = [(item["name"], item["count"]) for item in json.loads(result.stdout)["tensors"]]
    assert sorted(counts) == sorted([("a.{1-2}.b", 2), *((name, 1) for name in names[2:])])
