"""What 8 and 4 bits cost SmolLM2-135M on real text, beside float32 and the graph of GenAI's model builder in 4 bits.

    python -m benchmarks.quality

The text is the reference of the Python language, which comes with Python. All graphs read the same chunks of it.
"""

from __future__ import annotations

import pydoc_data.topics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from adapter_export.bundle.graphs import MODEL
from adapter_export.cli.table import print_table
from adapter_export.export.lower import lower
from adapter_export.export.passes import run
from adapter_export.export.passes.quantize_weights import QuantizeWeights
from adapter_export.export.saving import save_graphs
from adapter_export.export.trace import trace
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.tokenizer import load_tokenizer
from samples import environments
from samples.assets import smollm2

CHUNKS, LENGTH = 16, 256
# Topics of some length, of the middle of the list.
TOPICS = ("class", "import", "exceptions", "specialattrs", "callable-types", "formatstrings")
# Gives the logits of a chunk, [tokens, vocabulary].
Read = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    base = load_base(smollm2(), "causal-lm")
    chunks = texts(base)
    with tempfile.TemporaryDirectory() as name:
        readers = {"PyTorch float32": in_torch(base), **in_onnx_runtime(base, Path(name))}
        expected = [log_softmax(readers["PyTorch float32"](chunk)) for chunk in chunks]
        rows = []
        for title, read in readers.items():
            found = [log_softmax(read(chunk)) for chunk in chunks]
            divergence = np.mean([(np.exp(e) * (e - f)).sum(-1).mean() for e, f in zip(expected, found, strict=True)])
            losses = [-f[np.arange(LENGTH - 1), c[1:]].mean() for f, c in zip(found, chunks, strict=True)]
            same = np.mean([e.argmax(-1) == f.argmax(-1) for e, f in zip(expected, found, strict=True)])
            rows.append((title, f"{np.exp(np.mean(losses)):.2f}", f"{divergence:.4f}", f"{same:.3f}"))
    print_table(
        f"{CHUNKS} chunks of {LENGTH} tokens", ("graph", "perplexity", "KL, nats a token", "same likeliest token"), rows
    )


def texts(base: BaseModel) -> list[np.ndarray]:
    tokenizer = load_tokenizer(base.folder)
    tokens = tokenizer("\n".join(pydoc_data.topics.topics[topic] for topic in TOPICS))["input_ids"]
    assert len(tokens) >= CHUNKS * LENGTH
    return list(np.array(tokens[: CHUNKS * LENGTH]).reshape(CHUNKS, LENGTH))


def in_torch(base: BaseModel) -> Read:
    import torch

    def read(chunk: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = base.module(input_ids=torch.from_numpy(chunk)[None]).logits[0].numpy()
        return found

    return read


def in_onnx_runtime(base: BaseModel, folder: Path) -> dict[str, Read]:
    traced = trace(base, {})
    found = {}
    for title, bits in (("float32", 0), ("int8", 8), ("int4", 4)):
        own = replace(traced, model=traced.model.clone())
        if bits:
            run(own.model, QuantizeWeights(bits))
        (folder / title).mkdir()
        save_graphs({MODEL: lower(own, {})}, folder / title)
        found[title] = _reader(folder / title)
    graph, builder = folder / "genai", str(environments.python(environments.GENAI))
    command = [builder, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-c", folder / "cache"]
    subprocess.run([*command, "-i", smollm2(), "-o", graph], check=True, capture_output=True)
    return {**found, "GenAI's builder, int4": _reader(graph)}


def _reader(folder: Path) -> Read:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])

    def read(chunk: np.ndarray) -> np.ndarray:
        fed: dict[str, np.ndarray] = {}
        for value in session.get_inputs():
            if value.name == "input_ids":
                fed[value.name] = chunk[None].astype(np.int64)
            elif value.name == "attention_mask":
                fed[value.name] = np.ones((1, len(chunk)), np.int64)
            else:
                # An empty cache of heads of 64 features.
                fed[value.name] = np.zeros((1, value.shape[1], 0, 64), np.float32)
        found: np.ndarray = session.run(["logits"], fed)[0][0]
        return found

    return read


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


if __name__ == "__main__":
    main()
