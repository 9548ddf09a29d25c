"""Writes the corpus from valid files: `python -m tests.fuzz.seeds`. What else lies there (`found-*`: inputs that a
parser failed on once) stays."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.bundle.manifest import (
    AdapterInfo,
    AdapterTensorInfo,
    GraphInfo,
    Manifest,
    SiteInfo,
    SiteRole,
    TensorInfo,
)
from adapter_export.bundle.modes import Mode
from adapter_export.dtypes import DType
from adapter_export.outputs.record import OutputRecord
from adapter_export.parity.bundle_records.about import FORMAT as BUNDLE_FORMAT
from adapter_export.parity.bundle_records.about import FORMAT_VERSION as BUNDLE_FORMAT_VERSION
from adapter_export.parity.recording.recorder import FORMAT, FORMAT_VERSION
from tests.fuzz.targets import HUB_CONFIG, INFO
from tests.merging.models import CONFIG, write_model

CORPUS = Path(__file__).parent / "corpus"
_SEED = "seed"


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """(target, name, bytes) of valid input."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _tensors(Path(folder))
        yield from _folders(Path(folder))
    yield from (("onnx", name, data) for name, data in _graphs())
    yield "record", "one", _record()
    yield "bundle_record", "one", _bundle_record()
    for target, value in _objects().items():
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            yield target, str(number), json.dumps(item).encode()
    yield from (("json", name, text.encode()) for name, text in _JSON.items())
    yield from (("csv", name, text.encode()) for name, text in _CSV.items())
    yield "jsonl", "rows", b'{"text": "a", "label": 1}\n\n{"text": "\\u00fc", "label": null}\n'
    yield from (("front_matter", name, text.encode()) for name, text in _FRONT_MATTER.items())
    yield "labels", "names", b"\xef\xbb\xbfno\nyes\n\n"
    yield "requests", "lines", b'{"text": "a"}\n{"messages": [{"role": "user", "content": "b"}], "adapter": "x"}\n'


_JSON = {
    "values": '{"a": [1, -2.5e3, true, null, "\\u00fc\\n"], "b": {}}',
    "twice": '{"a": 1, "a": 2}',
    "long": "1" * 301,
    "deep": "[" * 300 + "]" * 300,
}
_FRONT_MATTER = {
    "fields": "---\nlicense: other\nlicense_name: a b\nbase_model: [org/name]\nlanguage: en\n---\n# Title\n",
    "lists": '---\r\nlicense:\r\n- mit\r\n- "\\u0041"\r\nwidget:\r\n  - text: &a b\r\n---\r\n',
}
_CSV = {"rows": 'text,label\n"a, ""b""\nc",1\n\nd,2\n', "ragged": "a,b\n1\n"}


def _tensors(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    import ml_dtypes
    import torch
    from safetensors.numpy import save

    arrays = {"a.b": np.arange(3, dtype=np.float32), "c": np.arange(4, dtype=np.float16).reshape(2, 2)}
    yield "safetensors", "two", save(arrays, metadata={"format": "pt"})
    yield "safetensors", "empty", save({"a": np.zeros((0, 3), np.int64)})
    state = {"a": torch.arange(4.0).reshape(2, 2).T, "b": torch.nn.Parameter(torch.ones(2)).half()}
    for name, newer in (("archive", True), ("older", False)):
        content = io.BytesIO()
        torch.save(state, content, _use_new_zipfile_serialization=newer)
        yield "torch_file", name, content.getvalue()
        if newer:
            import zipfile

            with zipfile.ZipFile(content) as archive:
                pickled = next(archive.read(item) for item in archive.infolist() if item.filename.endswith(".pkl"))
            yield "pickle", "state", pickled
    yield "pickle", "protocol-0", b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\nas."
    path = folder / "a.onnx_adapter"
    write_adapter_file(path, {**arrays, "h": np.ones(2, ml_dtypes.bfloat16)}, "ab" * 32)
    for target in ("adapter_format", "adapter_file"):
        yield target, "three", path.read_bytes()


def _folders(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    sharded = write_model(folder / "sharded", shards=2)
    yield "weights_index", "two", (sharded / "model.safetensors.index.json").read_bytes()


def _graphs() -> Iterator[tuple[str, bytes]]:
    from onnx import TensorProto, helper, numpy_helper

    def external(name: str) -> Any:
        tensor = TensorProto(name=name, data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "a.onnx"), ("offset", "8"), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in "xy")
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    yield "plain", helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight])).SerializeToString()
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external("v"))], "b", [], [y])
    nodes.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, external("e")])
    function = helper.make_function("d", "F", ["x"], ["y"], nodes[:1], [helper.make_opsetid("", 20)])
    yield "external", helper.make_model(graph, functions=[function]).SerializeToString()


def _record() -> bytes:
    meta = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "witness": "peft 0.21", "versions": {"peft": "0.21"},
        "base_sha256": "ab" * 32, "adapter_sha256": "cd" * 32, "class": "LlamaForCausalLM", "labels": ["no", "yes"],
        "kinds": {}, "cases": [{"name": "0", "rows": 1, "length": 2, "padding": "none"}],
    }  # fmt: skip
    content = io.BytesIO()
    arrays: dict[str, Any] = {
        "meta": json.dumps(meta),
        "0/input/input_ids": np.ones((1, 2), np.int64),
        **{f"0/{state}/exact/logits": np.ones((1, 2), np.float64) for state in ("on", "off")},
    }
    np.savez(content, **arrays)
    return content.getvalue()


def _bundle_record() -> bytes:
    digest = "ab" * 32
    adapter = {
        "source_sha256": digest, "sha256": digest, "witness": "peft 0.21", "labels": ["no", "yes"],
        "witnessed_labels": None, "problem_type": "single_label_classification",
    }  # fmt: skip
    case = {"kind": "shape", "batch": 1, "length": 2, "padding": "none", "roundings": 1, "new": 0, "number": 0}
    meta = {
        "format": BUNDLE_FORMAT, "format_version": BUNDLE_FORMAT_VERSION, "created": "2026", "versions": {"torch": "2"},
        "task": "causal-lm", "dtype": "float32", "quantize": "none", "base_sha256": digest,
        "graphs": {"model.onnx": digest}, "text_files": {"config.json": digest}, "adapters": {"topics": adapter},
        "base_model": True, "checks": [{"name": "base", "verdict": "pass", "detail": "as it is"}], "notes": ["a note"],
        "judged_to": None, "columns": {"logits": 9},
        "cases": [case, {**case, "kind": "generation", "batch": 2, "new": 2}],
    }  # fmt: skip
    ids = {"input_ids": np.ones((1, 2), np.int64)}
    arrays: dict[str, Any] = {"meta": json.dumps(meta), "columns/logits": np.arange(3)}
    for group in ("0/input", "check/swap", "check/rows"):
        arrays |= {f"{group}/{name}": value for name, value in ids.items()}
    arrays |= {f"1/prompt/{row}": np.ones(2, np.int64) for row in range(2)}
    for number, logits in enumerate((np.ones((1, 2, 3)), np.ones((2, 2, 3)))):
        for state in ("-/on", "topics/on", "topics/off"):
            for kind in ("exact", "target", "rounded"):
                arrays[f"{number}/{state}/{kind}/logits"] = logits
    for name in ("-", "topics"):
        new = {"tokens": np.ones((2, 2), np.int64), "choice": np.ones((2, 2), np.int64), "margin": np.ones((2, 2))}
        arrays |= {f"1/{name}/new/{key}": value for key, value in {**new, "scores": np.ones((2, 2, 3))}.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _objects() -> dict[str, Any]:
    peft = {
        "peft_type": "IA3", "task_type": "CAUSAL_LM", "base_model_name_or_path": "x", "inference_mode": True,
        "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
        "modules_to_save": None, "fan_in_fan_out": False,
    }  # fmt: skip
    tensor = AdapterTensorInfo(DType.FLOAT32, (8,), 1.0)
    graph = GraphInfo(
        {"input_ids": TensorInfo(DType.INT64, ("batch", "sequence"))}, {"logits": TensorInfo(DType.FLOAT32, (2,))}
    )
    manifest = Manifest(
        "0.1.0", Mode.SWAPPABLE, "text-classification", DType.FLOAT32, 20, INFO, {"model.onnx": graph},
        (SiteInfo("m", "output", SiteRole.ADAPTER, "IA3", "ia3", "ia3", {"m.ia3.l": tensor}, {"x": "m"}),),
        (AdapterInfo("a", "ia3", "peft", "ab" * 32, 8, ("no", "yes"), None, "adapters/a.onnx_adapter"),),
        {"model.onnx": "ab" * 32, "adapters/a.onnx_adapter": "ab" * 32}, labels=("x",), rotary_border=4,
    )  # fmt: skip
    generation = {
        "eos_token_id": [2, 3], "pad_token_id": 0, "max_new_tokens": 5, "do_sample": True, "temperature": 0.5,
        "repetition_penalty": 1.2, "bad_words_ids": [[1, 2]], "sequence_bias": [[[1], -2.0]], "suppress_tokens": [4],
        "exponential_decay_length_penalty": [3, 1.1], "forced_bos_token_id": 1, "top_k": 40,
    }  # fmt: skip
    config = {
        **CONFIG, "id2label": {"0": "no", "1": "yes"}, "num_labels": 2, "pad_token_id": 0, "eos_token_id": 2,
        "max_position_embeddings": 64, "text_config": {"vocab_size": 10}, "quantization_config": None,
        "transformers_weights": None, "dtype": "float32",
    }  # fmt: skip
    settings: dict[str, Any] = HUB_CONFIG["config"]
    phm = {**HUB_CONFIG, "config": {**settings, "phm_layer": True, "reduction_factor": {"0": 2, "default": 4}}}
    union = {**HUB_CONFIG, "config": {"architecture": "union", "configs": [settings]}}
    named = {**HUB_CONFIG, "config": "pfeiffer"}
    lora = {
        **HUB_CONFIG, "version": "adapters.1.3.0",
        "config": {
            "architecture": "lora", "composition_mode": "add", "r": 2, "alpha": 3, "attn_matrices": ["q", "v"],
            "leave_out": [1], "selfattn_lora": True, "output_lora": False, "dtype": "float32", "vera_d": None,
        },
    }  # fmt: skip
    interface = {
        "adapter_methods": ["bottleneck"], "model_embeddings": "embed_tokens", "model_layers": "layers",
        "layer_self_attn": "self_attn", "layer_cross_attn": None, "attn_o_proj": "o_proj", "attn_q_proj": "q_proj",
        "attn_k_proj": "k_proj", "attn_v_proj": "v_proj", "attn_qkv_proj": None, "base_model": None,
        "layer_intermediate_proj": "mlp.up_proj", "layer_output_proj": "mlp.down_proj", "layer_pre_ffn": None,
    }  # fmt: skip
    return {
        "peft_config": [peft, {**peft, "target_modules": ".*(k_proj|v_proj|down_proj)"}],
        "hub_config": [HUB_CONFIG, phm, union, named, lora],
        "hub_head": [
            {"config": None, "hidden_size": 8, "label2id": {"no": 0, "yes": 1}, "num_labels": 2, "name": None,
             "model_class": "LlamaForSequenceClassification", "model_type": "llama"},
            {"config": {"head_type": "classification", "layers": 1, "num_labels": 2, "activation_function": "tanh",
             "label2id": {"no": 0}, "bias": True}, "name": "a"},
        ],
        "hub_interface": [{"model_type": "llama", "interface": interface}],
        "sidecar": [{"base_sha256": "ab" * 32, "task": "causal-lm", "labels": ["no"], "problem_type": None,
                     "pad_token_id": 0, "placement": "pfeiffer", "modules": ["a"], "files": ["x"]}],
        "receipt": [{"merged": [{"name": "a", "adapter_sha256": "ab", "changed": ["x.0.w"], "dtype": ["float16"]}]}],
        "model_config": [config],
        "generation_config": [generation],
        "tokenizer_config": [
            {"tokenizer_file": "x", "vocab": "y", "a": ["../x"], "model_max_length": 1e30, "b": {"content": "c"}},
            {"vocab": "/etc/passwd"},
        ],
        "manifest": [asdict(manifest)],
        "listing": [{"format_version": 1, "files": {"model.onnx": "ab"}}],
        "output_record": [asdict(OutputRecord("out", 1, "host", "2026", ("/",), ("a/b",), True))],
    }  # fmt: skip


def write() -> None:
    """The corpus anew, but for inputs that were found."""
    for old in CORPUS.glob(f"*/{_SEED}-*"):
        old.unlink()
    for target, name, data in seeds():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        (CORPUS / target / f"{_SEED}-{name}").write_bytes(data)


if __name__ == "__main__":
    write()
