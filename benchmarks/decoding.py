"""Decoding speed on SmolLM2-135M: swappable adapters against the base model's own graph, PyTorch, and 8-bit weights.

.venv/bin/python -m benchmarks.decoding

One trace gives all graphs, so that they differ in their adapters alone. One text, one token a step, all at the same
length in every round; with one thread, and with all cores. PyTorch's threads wait for each other in every operator, so
that on cores which others use too it looks several times slower than it is: one thread is the comparison to trust.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import GraphInfo
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.cli.table import print_table
from adapter_export.export.decoding import decoding
from adapter_export.export.lower import lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.passes import run
from adapter_export.export.passes.quantize_weights import QuantizeWeights
from adapter_export.export.saving import save_graphs
from adapter_export.export.storage import Overridable
from adapter_export.export.trace import Trace, trace
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.generation.cache import CachedDecoder
from adapter_export.runtime.generation.decoder_inputs import DecoderFeeds
from benchmarks.models import random_adapter
from benchmarks.timing import interleaved, ratio
from samples.assets import smollm2

PROMPT, LONG_PROMPT = 32, 256
STEPS, PREFILLS = 40, 6
# k = 32 of d = 576.
REDUCTION_FACTOR = 18
RANK = 8
BASE, AGAIN, TORCH, INT8 = "base graph", "base graph again (A/A control)", "PyTorch", "all, int8"
ALL = "all"
# Steps and prefills to measure, by title.
Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Graph:
    """A graph's folder, and what it is fed for each of its adapters."""

    folder: Path
    info: GraphInfo
    adapters: Mapping[str, Mapping[str, np.ndarray]]


def main() -> None:
    base = load_base(smollm2(), "causal-lm")
    adapters = {
        "IA3": random_adapter(base, "ia3"),
        "LoRA r=8": random_adapter(base, "lora", rank=RANK),
        "bottleneck k=32": random_adapter(base, "bottleneck", reduction_factor=REDUCTION_FACTOR),
    }
    with tempfile.TemporaryDirectory() as name:
        graphs = make_graphs(base, adapters, Path(name))
        for threads in sorted({1, os.cpu_count() or 1}):
            measure(base, graphs, threads)
        sizes = [sum(file.stat().st_size for file in graphs[title].folder.iterdir()) for title in (INT8, ALL)]
        print(f"  int8: {sizes[0] / sizes[1]:.3f} of the size")


def make_graphs(base: BaseModel, adapters: Mapping[str, Adapter], folder: Path) -> dict[str, Graph]:
    """The base model's own graph; one for each adapter, one for all, and that in 8 bits."""
    traced = trace(base, union_of_sites(adapters.values()), stage=decoding)
    quantized = replace(traced, model=traced.model.clone())
    run(quantized.model, QuantizeWeights(8))
    chosen: dict[str, tuple[Trace, Mapping[str, Adapter]]] = {
        BASE: (traced, {}),
        **{title: (traced, {title: adapter}) for title, adapter in adapters.items()},
        ALL: (traced, adapters),
        INT8: (quantized, adapters),
    }
    return {title: made(of, held, folder / str(number)) for number, (title, (of, held)) in enumerate(chosen.items())}


def made(traced: Trace, adapters: Mapping[str, Adapter], folder: Path) -> Graph:
    """The trace lowered for those adapters, swappable, as `export_onnx` does."""
    folder.mkdir()
    lowered = lower(traced, union_of_sites(adapters.values()), Overridable())
    save_graphs({MODEL: lowered}, folder)
    tensors = {title: adapter_tensors(adapter) for title, adapter in adapters.items()}
    return Graph(folder, lowered.info, tensors)


def session(graph: Graph, threads: int) -> Any:
    """A session as a user would make it, but whose idle threads leave the cores to the others."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return ort.InferenceSession(str(graph.folder / MODEL), options, providers=["CPUExecutionProvider"])


def measure(base: BaseModel, graphs: Mapping[str, Graph], threads: int) -> None:
    """Print the speed of decoding and of reading a prompt."""
    import torch

    torch.set_num_threads(threads)
    ids = np.random.default_rng(0).integers(1000, 20000, LONG_PROMPT).tolist()
    steps: Calls = {TORCH: TorchSteps(base, ids[:PROMPT])}
    prefills: Calls = {TORCH: partial(TorchSteps, base, ids)}
    for title, begin in runs(graphs, threads).items():
        steps[title] = begin(ids[:PROMPT])
        prefills[title] = partial(begin, ids)
    for what, calls, rounds in (
        (f"a token after {PROMPT}", steps, STEPS),
        (f"{LONG_PROMPT} tokens", prefills, PREFILLS),
    ):
        seconds = interleaved(calls, rounds, warm_up=1)
        print_table(
            f"Speed against the base model's graph: {what}, threads: {threads} ({rounds} interleaved rounds)",
            ("graph", "by the clock", "by CPU time"),
            [
                (title, *(f"{1 / ratio(seconds, title, BASE, clock):.3f}" for clock in ("wall", "cpu")))
                for title in calls
                if title != BASE
            ],
        )


def runs(graphs: Mapping[str, Graph], threads: int) -> dict[str, Callable[[Sequence[int]], Steps]]:
    """How to begin decoding with a prompt, for every graph and adapter that is measured; a session a graph."""
    found: dict[str, Callable[[Sequence[int]], Steps]] = {}
    for title, graph in {BASE: graphs[BASE], AGAIN: graphs[BASE], **graphs}.items():
        opened = session(graph, threads)
        if len(graph.adapters) < 2:
            ((_, fed),) = graph.adapters.items() or [("", {})]
            found[title] = partial(Steps, opened, graph.info, fed)
        else:
            for name, fed in {"no adapter": {}, **graph.adapters}.items():
                found[f"{title}: {name}"] = partial(Steps, opened, graph.info, fed)
    return found


class Steps:
    """Greedy decoding, a token a call."""

    def __init__(self, opened: Any, info: GraphInfo, fed: Mapping[str, np.ndarray], prompt: Sequence[int]) -> None:
        """opened: a session of the graph. fed: the adapter's tensors."""
        self._decoder = CachedDecoder(BoundGraph(opened, "cpu", fed), info, rows=1)
        self._feeds = DecoderFeeds([prompt], 0, info.inputs)
        self._logits = self._decoder.run(self._feeds.first())

    def __call__(self) -> None:
        self._logits = self._decoder.run(self._feeds.following(self._logits.argmax(-1)))


class TorchSteps:
    """The same in PyTorch, by the model's own forward and cache."""

    def __init__(self, base: BaseModel, prompt: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        self._module, self._cache = base.module, DynamicCache(config=base.module.config)
        self._token = torch.tensor([list(prompt)])
        self()

    def __call__(self) -> None:
        import torch

        with torch.inference_mode():
            found = self._module(
                input_ids=self._token, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            ).logits
            self._token = found[:, -1:].argmax(-1)


if __name__ == "__main__":
    main()
