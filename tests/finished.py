"""Finished graphs, made by other tools in environments of their own, and adapters for their models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from tests import tiny

# Every method and placement, by name of the adapter. All tensors are random.
ADAPTERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ia3": ("ia3", {}),
    "lora": ("lora", {"rank": 3}),
    "houlsby": ("bottleneck", {"reduction_factor": 8}),
    "pfeiffer": ("bottleneck", {"reduction_factor": 16, "placement": "pfeiffer"}),
    "parallel": ("bottleneck", {"reduction_factor": 8, "placement": "parallel"}),
}
# GroupQueryAttention takes heads of 16 features and more.
GENAI_CONFIG = {"hidden_size": 64, "head_dim": 16}
MISTRAL_WINDOW = 8
GENAI_COMMAND = ("-m", "onnxruntime_genai.models.builder")
# How GenAI's builder makes a graph. Those for CUDA compute in float16; the CPU provider runs them, too.
GENAI_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("-p", "fp32", "-e", "cpu"),
    "int4": ("-p", "int4", "-e", "cpu"),
    "fp16-cuda": ("-p", "fp16", "-e", "cuda"),
    "bf16-cuda": ("-p", "bf16", "-e", "cuda"),
    "int4-cuda": ("-p", "int4", "-e", "cuda"),
}
OPTIMUM_COMMAND = ("-m", "optimum.exporters.onnx")
OLIVE_COMMAND = ("-m", "olive", "capture-onnx-graph", "--use_dynamo_exporter", "--disable_telemetry")
# What `optimum-cli` makes of a language model, with a cache.
OPTIMUM_CACHE = "optimum-cache"
# What it makes of an encoder-decoder: graphs of the encoder and of the decoder, and one of the decoder with a cache.
OPTIMUM_TWO, OPTIMUM_THREE = "optimum-two", "optimum-three"
# optimum's names of tasks.
_TASKS: Mapping[str, str] = {
    OPTIMUM_CACHE: "text-generation-with-past",
    OPTIMUM_TWO: "text2text-generation",
    OPTIMUM_THREE: "text2text-generation-with-past",
}


@dataclass(frozen=True)
class Finished:
    """graph: the folder of another tool. model: the folder that it was made from. adapters: checkpoints by name."""

    graph: Path
    model: Path
    task: str
    adapters: Mapping[str, Path]

    @property
    def base(self) -> BaseModel:
        import torch

        return load_base(self.model, self.task, dtype=torch.float64)

    def expected(self, adapter: str | None, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The model's first output in float64, the adapter injected."""
        import torch

        base = self.base
        if adapter is not None:
            inject(base.module, load_adapter(self.adapters[adapter], base.info))
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.no_grad():
            outputs = base.module(**{name: t.double() if t.is_floating_point() else t for name, t in given.items()})
        found: np.ndarray = (outputs.last_hidden_state if self.task == "features" else outputs.logits).numpy()
        return found


@pytest.fixture(scope="session")
def finished(
    shared_folder: Path,
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Callable[..., Finished]:
    """Called as (tool, model_type) -> Finished, each once a run.

    tool: GenAI's builder (a key of GENAI_OPTIONS), "optimum", OPTIMUM_CACHE, OPTIMUM_TWO, OPTIMUM_THREE, "olive",
    PyTorch's own exporter ("dynamo"), or this package ("own").
    """

    def make(tool: str, model_type: str, folder: Path) -> Finished:
        task = "causal-lm" if tool in (*GENAI_OPTIONS, OPTIMUM_CACHE, "olive") else "features"
        task = "seq2seq-lm" if tool in (OPTIMUM_TWO, OPTIMUM_THREE) else task
        own = tool in GENAI_OPTIONS or model_type == "whisper"
        model = tiny_model(model_type, task, **(_config(model_type) if own else {}))
        if tool == "dynamo":
            make_dynamo(model, model_type, folder)
        elif tool == "own":
            export_onnx(model, {}, folder, mode="merged", task=task, cache=False)
        elif tool in _TASKS:
            speech = "automatic-speech-recognition-with-past"
            make_graph("optimum", model, folder, speech if model_type == "whisper" else _TASKS[tool])
        else:
            make_graph(tool, model, folder, "image-feature-extraction" if model_type == "vit" else "feature-extraction")
        base = load_base(model, task)
        adapters = {
            name: save_checkpoint(random_adapter(base.info, method, seed, **options), base.info)
            for seed, (name, (method, options)) in enumerate(ADAPTERS.items())
        }
        return Finished(folder, model, task, adapters)

    def once(tool: str, model_type: str) -> Finished:
        from filelock import FileLock

        record = shared_folder / f"finished-{tool}-{model_type}.json"
        with FileLock(record.with_suffix(".lock")):
            if not record.exists():
                made = make(tool, model_type, shared_folder / f"finished-{tool}-{model_type}")
                adapters = {name: str(path) for name, path in made.adapters.items()}
                record.write_text(json.dumps([str(made.graph), str(made.model), made.task, adapters]))
        graph, model, task, adapters = json.loads(record.read_text())
        return Finished(Path(graph), Path(model), task, {name: Path(path) for name, path in adapters.items()})

    return once


def _config(model_type: str) -> dict[str, Any]:
    """Settings with which a tool takes the model."""
    if model_type == "whisper":
        # optimum's examples have 30 seconds of sound.
        return {"max_source_positions": 1500}
    config = {name: value for name, value in GENAI_CONFIG.items() if name == "hidden_size" or model_type != "qwen2"}
    return config | ({"sliding_window": MISTRAL_WINDOW} if model_type == "mistral" else {})


def make_dynamo(model: Path, model_type: str, output: Path) -> None:
    """Exports a base model as PyTorch's documentation shows it."""
    import torch

    module = load_base(model, "features").module
    inputs = {name: torch.from_numpy(value) for name, value in tiny.inputs_for(model_type).items()}
    sizes: dict[int, Any] = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "sequence"))}
    module.config.use_cache = False
    dynamic = {name: sizes if value.ndim == len(sizes) else {0: sizes[0]} for name, value in inputs.items()}
    with warnings.catch_warnings():
        # The exporter warns of its own renaming of axes.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            output_names=["last_hidden_state"],
            verbose=False,
        )
    assert program is not None
    output.mkdir()
    program.save(output / MODEL)
    shutil.copy(model / "config.json", output)


def make_graph(
    tool: str, model: Path, output: Path, task: str = "feature-extraction", adapter: Path | None = None
) -> None:
    """Let the tool make a graph of a model; skip the test where the tool cannot be installed. task: optimum's. adapter:
    a LoRA of PEFT that GenAI's builder puts into the graph."""
    from samples import environments
    from samples.assets import AssetError

    try:
        known = {"optimum": environments.OPTIMUM, "olive": environments.OLIVE}
        python = environments.python(known.get(tool, environments.GENAI))
    except AssetError as error:
        pytest.skip(str(error))
    if tool == "optimum":
        command = [*OPTIMUM_COMMAND, "-m", str(model), "--task", task, str(output)]
    elif tool == "olive":
        command = [*OLIVE_COMMAND, "-m", str(model), "-t", "text-generation", "-o", str(output)]
    else:
        command = [
            *GENAI_COMMAND,
            "-i",
            str(model),
            "-o",
            str(output),
            *GENAI_OPTIONS[tool],
            "-c",
            str(output.with_suffix(".cache")),
            *(["--extra_options", f"adapter_path={adapter}"] if adapter else []),
        ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # Olive leaves a cache where it runs.
    done = subprocess.run(
        [str(python), *command], capture_output=True, text=True, env=environment, cwd=output.parent, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def given(made: Finished, model_type: str, rows: int = 3) -> dict[str, np.ndarray]:
    """Inputs of the model. Those of language models are one complete text, as they are padded on another side."""
    inputs = tiny.inputs_for(model_type, rows=rows)
    return {name: value[:1] for name, value in inputs.items()} if made.task == "causal-lm" else inputs


def swapped(
    made: Finished, bundle: Path, model_type: str
) -> Iterator[tuple[str | None, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Plain ONNX Runtime swaps from each adapter to the next and back to none. Yields the adapter, the first output,
    PyTorch's in float64, and the mask."""
    import onnxruntime as ort

    inputs = given(made, model_type)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(bundle / MODEL, options, providers=["CPUExecutionProvider"])
    fed = session_inputs(read_manifest(bundle).inputs, inputs)
    for name in (None, *ADAPTERS, None):
        tensors = {} if name is None else read_adapter_file(bundle / "adapters" / f"{name}.onnx_adapter")
        found = session.run(None, {**fed, **tensors})[0]
        yield name, found, made.expected(name, inputs), inputs.get("attention_mask")


def session_inputs(names: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a graph takes: an empty cache, types of tokens, and the inputs."""
    found: dict[str, np.ndarray] = {}
    for name, info in names.items():
        if name in inputs:
            found[name] = inputs[name]
        elif name.startswith("past_key_values"):
            _, heads, _, size = info.shape
            found[name] = np.zeros((len(inputs["input_ids"]), heads, 0, size), info.dtype.numpy)
        elif name == "position_ids":
            found[name] = np.maximum(inputs["attention_mask"].cumsum(axis=1) - 1, 0)
        elif name == "token_type_ids":
            found[name] = np.zeros_like(inputs["input_ids"])
    return found
