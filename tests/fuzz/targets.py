"""The table of all parsers of ours that read bytes from somewhere else, and what each may raise about them.

Formats that a library reads for us (tokenizer.json, parquet, the graph itself) are the library's: `tests/cli/test_fuzz`
holds that a command ends well whatever they contain.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapter_export.bundle.adapter_format import BrokenAdapter, parse_adapter
from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.labels import class_names, parse_labels
from adapter_export.checkpoints.licenses import stated
from adapter_export.checkpoints.pickles import BadPickle, read_pickle
from adapter_export.checkpoints.safetensors_file import read_safetensors
from adapter_export.checkpoints.safetensors_header import read_header
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.checkpoints.weights import model_config, refuse_quantized, weight_files
from adapter_export.cli.text_requests import text_requests
from adapter_export.errors import InputError
from adapter_export.inspection.folders import describe_adapter, describe_model
from adapter_export.inspection.onnx_files import describe_adapter_file, describe_onnx
from adapter_export.merging.receipt import read_receipt
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs import ownership, record
from adapter_export.parity.bundle_records.reader import read_bundle_record
from adapter_export.parity.references.records import read_record
from adapter_export.reading.files import decoded
from adapter_export.reading.folders import check_folder
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.onnx_files import check_model
from adapter_export.runtime.generation.config import read_generation_config
from adapter_export.training.row_readers import read_rows
from tests.fuzz import mutators
from tests.merging.models import write_adapter, write_model

# Characters of a message.
MAX_SAID = 5000


@dataclass(frozen=True)
class Target:
    """run: the parser; what it returns does not matter. refuses: what it may raise. mutate: see `mutators`."""

    run: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...] = (InputError,)
    mutate: mutators.Mutator = mutators.plain

    def feed(self, data: bytes) -> str:
        """How the parser ends: "" where it takes the bytes, else what it says of them. Whatever it may not raise comes
        out, and so does an AssertionError where it says it in more than a line."""
        try:
            self.run(data)
        except self.refuses as error:
            said = str(error)
        else:
            return ""
        assert len(said.splitlines()) == 1, said
        assert len(said) < MAX_SAID, said
        return said


@functools.cache
def _folder(make: Callable[[Path], object] | None = None) -> Path:
    """A folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="adapter-export-fuzz-"))
    _folders.append(folder)
    if make is not None:
        make(folder)
    return folder


_folders: list[Path] = []


def remove_folders() -> None:
    """Remove what targets wrote in this process."""
    _folder.cache_clear()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _file(name: str, read: Callable[[Path], object], make: Callable[[Path], object] | None = None) -> Any:
    """`read`, of the bytes as a file of that name. make: writes what lies beside it, once."""

    def run(data: bytes) -> object:
        path = _folder(make) / name
        path.write_bytes(data)
        return read(path)

    return run


def _in_folder(name: str, read: Callable[[Path], object], make: Callable[[Path], object] | None = None) -> Any:
    """`read`, of the folder with the bytes as a file of that name."""
    return _file(name, lambda path: read(path.parent), make)


# The model that all adapters here are for, as `tests.merging.models` writes it: features out, and features in.
_LINEAR = {
    "self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12),
}  # fmt: skip
_OTHERS = ("", ".self_attn", ".mlp", ".input_layernorm", ".post_attention_layernorm")
INFO = ModelInfo(
    "llama",
    "LlamaForCausalLM",
    "model",
    nested=True,
    hidden_size=8,
    modules={
        **dict.fromkeys(("embed_tokens", "layers", "norm"), 8),
        **{f"layers.{i}{name}": 8 for i in range(2) for name in _OTHERS},
        **{f"layers.{i}.{name}": size for i in range(2) for name, (size, _) in _LINEAR.items()},
    },
    inputs={f"layers.{i}.{name}": size for i in range(2) for name, (_, size) in _LINEAR.items()},
)
# Of AdapterHub's checkpoint of Pfeiffer's kind.
HUB_CONFIG: Mapping[str, Any] = {
    "config": {
        "mh_adapter": False, "output_adapter": True, "cross_adapter": False, "non_linearity": "relu",
        "reduction_factor": 2, "original_ln_before": False, "original_ln_after": True, "residual_before_ln": True,
        "ln_before": False, "ln_after": False, "is_parallel": False, "scaling": 1.0, "leave_out": [],
        "phm_layer": False, "use_gating": False, "adapter_residual_before_ln": False,
    },
    "hidden_size": 8, "model_class": "LlamaForCausalLM", "model_name": "", "model_type": "llama", "name": "a",
    "version": "adapters.1.3.0",
}  # fmt: skip
# The same with a task head, for adapters that bring one.
HEADED = replace(INFO, architecture="LlamaForSequenceClassification", head=("score",))


def _peft(folder: Path) -> None:
    folder.rmdir()
    write_adapter(folder)


def hub(folder: Path) -> None:
    """An AdapterHub checkpoint of Pfeiffer's kind for `INFO`, without its configs."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {"adapter_down.0.weight": (4, 8), "adapter_down.0.bias": (4,), "adapter_up.weight": (8, 4),
              "adapter_up.bias": (8,)}  # fmt: skip
    save_file(
        {
            f"model.layers.{i}.output_adapters.adapters.a.{name}": rng.normal(size=shape).astype(np.float32)
            for i in range(2)
            for name, shape in shapes.items()
        },
        folder / "adapter.safetensors",
    )


def _hub_with_config(folder: Path) -> None:
    hub(folder)
    (folder / "adapter_config.json").write_text(json.dumps(HUB_CONFIG))


def _hub_with_head(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    _hub_with_config(folder)
    head = {"score.weight": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)}
    save_file(head, folder / "model_head.safetensors")


def _model(folder: Path) -> None:
    folder.rmdir()
    write_model(folder)


def _sharded(folder: Path) -> None:
    folder.rmdir()
    write_model(folder, shards=2)


def _adapter(folder: Path) -> None:
    describe_adapter(folder)
    load_adapter(folder, INFO)


def _headed(folder: Path) -> None:
    describe_adapter(folder)
    load_adapter(folder, HEADED)


def _base(folder: Path) -> None:
    config = model_config(folder)
    describe_model(folder)
    read_generation_config(folder)
    class_names(config)
    weight_files(folder)
    refuse_quantized(folder, config)


def _weights(path: Path) -> None:
    read_header(path)
    read_safetensors(path)


def _adapter_bytes(data: bytes) -> None:
    parse_adapter(data).tensors(data)


def _graph(path: Path) -> None:
    check_model(path)
    describe_onnx(path)


def _rows(path: Path) -> None:
    for _ in read_rows(path, lambda columns: columns):
        pass


def _requests(path: Path) -> None:
    list(text_requests((), path, ("a",), None, chat=True))


TARGETS: Mapping[str, Target] = {
    "json": Target(lambda data: parse(decoded(Path("x"), data)), (NotJson, InputError), mutators.of_json),
    "safetensors": Target(_file("a.safetensors", _weights), mutate=mutators.of_safetensors),
    "pickle": Target(lambda data: read_pickle(io.BytesIO(data)), (BadPickle,)),
    "torch_file": Target(_file("a.bin", read_torch_file), (NotTensors, InputError), mutators.of_archive),
    "adapter_format": Target(_adapter_bytes, (BrokenAdapter,)),
    "adapter_file": Target(_file("a.onnx_adapter", describe_adapter_file)),
    "onnx": Target(_file("a.onnx", _graph)),
    "front_matter": Target(_in_folder("README.md", stated), ()),
    "manifest": Target(_in_folder("manifest.json", read_manifest), mutate=mutators.of_json),
    "peft_config": Target(_in_folder("adapter_config.json", _adapter, _peft), mutate=mutators.of_json),
    "hub_config": Target(_in_folder("adapter_config.json", _adapter, hub), mutate=mutators.of_json),
    "hub_head": Target(_in_folder("head_config.json", _headed, _hub_with_head), mutate=mutators.of_json),
    "hub_interface": Target(_in_folder("adapter_interface.json", _adapter, _hub_with_config), mutate=mutators.of_json),
    "sidecar": Target(_in_folder("adapter_export.json", _adapter, _peft), mutate=mutators.of_json),
    "receipt": Target(_in_folder("adapter_export.json", read_receipt), mutate=mutators.of_json),
    "model_config": Target(_in_folder("config.json", _base, _model), mutate=mutators.of_json),
    "weights_index": Target(_in_folder("model.safetensors.index.json", _base, _sharded), mutate=mutators.of_json),
    "generation_config": Target(
        _in_folder("generation_config.json", read_generation_config, _model), mutate=mutators.of_json
    ),
    "tokenizer_config": Target(_in_folder("tokenizer_config.json", check_folder), mutate=mutators.of_json),
    "record": Target(_file("a.npz", lambda path: read_record(path, "a")), mutate=mutators.of_archive),
    "bundle_record": Target(_file("a.npz", read_bundle_record), mutate=mutators.of_archive),
    "output_record": Target(
        _file(".out.lock", lambda path: record.read_record(path, path.parent / "out")), (), mutators.of_json
    ),
    "listing": Target(_in_folder("manifest.json", ownership.listed), (), mutators.of_json),
    "csv": Target(_file("a.csv", _rows)),
    "jsonl": Target(_file("a.jsonl", _rows), mutate=mutators.of_lines),
    "labels": Target(_file("names", lambda path: parse_labels((f"a=@{path}",), ("a",)))),
    "requests": Target(_file("lines", _requests), mutate=mutators.of_lines),
}
