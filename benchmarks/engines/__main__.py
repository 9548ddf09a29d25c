"""Decoding speed of whole engines on SmolLM2-135M: GenAI's own loop, this project's sessions, llama.cpp and PyTorch.

    python -m benchmarks.engines [ROWS ...]

ROWS: texts that are decoded together, 1 and 8 without it; of several, only the engines in 4 bits. GenAI's graph is of
its model builder in 4 bits, without adapters and with those that `graft` puts into it. Each engine is a process of its
own, and they decode in turns, in an order that turns around in each round: greedily, and the same number of tokens. The
first engine is there twice, as the control. ONNX Runtime lays out memory by the order in which models are loaded; the
process of each engine loads one model only. llama.cpp is compiled once, which takes some minutes; where that fails, its
row is missing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapter_export import export_onnx, graft
from adapter_export.cli.table import print_table
from adapter_export.models.base_model import load_base
from benchmarks.engines.llama import compiled, quantized_gguf
from benchmarks.models import random_adapter, saved
from samples import environments
from samples.assets import AssetError, smollm2

PROMPTS, STEPS, ROUNDS = (32, 400), 32, 8
WORKER = Path(__file__).with_name("worker.py")
GENAI = "GenAI int4"
AGAIN = f"{GENAI}, again (control)"
# k = 32 of d = 576, at all places.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "IA3": ("ia3", {}),
    "LoRA r=8": ("lora", {"rank": 8}),
    "bottleneck k=32": ("bottleneck", {"reduction_factor": 18}),
}
# Of our own exports: the adapter, its method, and the options `quantize` and `fuse`.
OWN = (
    ("IA3", "ia3", "int4", "cpu"),
    ("bottleneck k=32", "bottleneck", "int4", "cpu"),
    ("IA3", "ia3", "int8", "cpu"),
    ("IA3", "ia3", "none", "cpu"),
    ("IA3", "ia3", "int4", "none"),
    ("IA3", "ia3", "int8", "none"),
    ("IA3", "ia3", "none", "none"),
)
LLAMA = "llama.cpp"
# Parts of the names of engines that decode one text only: llama.cpp can no more, the others take minutes for prompts.
SLOW = (LLAMA, "PyTorch", "float32", "int8")


@dataclass
class Engine:
    """A worker and what it has measured: seconds by the clock and of CPU time, one pair a round, by prompt length."""

    process: subprocess.Popen[str]
    seconds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def measure(self, rows: int, prompt: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{rows} {prompt} {STEPS}\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.process.stdout.readline().split())
        self.seconds.setdefault(prompt, []).append((wall, cpu))


def main() -> None:
    batches = [int(rows) for rows in sys.argv[1:]] or [1, 8]
    with tempfile.TemporaryDirectory() as name:
        commands = prepared(Path(name))
        for rows in batches:
            slow = () if rows == 1 else SLOW
            chosen = {name: command for name, command in commands.items() if not any(part in name for part in slow)}
            for threads in sorted({1, os.cpu_count() or 1}):
                measure(chosen, threads, rows, PROMPTS if rows == 1 else PROMPTS[:1])


def prepared(folder: Path) -> dict[str, list[str]]:
    """Makes all graphs. Returns the Python and the arguments of each engine's worker, but for the threads."""
    model, base = smollm2(), load_base(smollm2(), "causal-lm")
    genai, own = str(environments.python(environments.GENAI)), sys.executable
    graph = folder / "genai"
    builder = [genai, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-c", folder / "cache"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*builder, "-i", model, "-o", graph], check=True, **quiet)
    found = {GENAI: [genai, "genai", str(graph)], AGAIN: [genai, "genai", str(graph)]}
    checkpoints = {}
    for title, (method, options) in ADAPTERS.items():
        adapter = replace(random_adapter(base, method, **options), task="causal-lm")
        checkpoints[title] = saved(folder / "checkpoints" / method, adapter, base)
        bundle = folder / f"graft-{method}"
        graft(graph, {method: checkpoints[title]}, bundle, model=model)
        file = str(bundle / "adapters" / f"{method}.onnx_adapter")
        found[f"{GENAI}, {title} grafted and active"] = [genai, "genai", str(bundle), method, file]
        found[f"session, the same graph, {title}"] = [own, "session", str(bundle), method, file]
    for title, method, quantize, fuse in OWN:
        bundle = folder / f"own-{method}-{quantize}-{fuse}"
        export_onnx(model, {method: checkpoints[title]}, bundle, mode="swappable", quantize=quantize, fuse=fuse)
        weights = "float32" if quantize == "none" else quantize
        fused = ", fused" if fuse == "cpu" else ""
        found[f"session, own export, {weights}{fused}, {title}"] = [own, "session", str(bundle), method, ""]
    try:
        found[f"{LLAMA} Q4_1, no adapter"] = [
            str(compiled()),
            "llama",
            str(quantized_gguf(model, folder / "llama")),
        ]
    except AssetError as error:
        print(f"llama.cpp: {error}")
    return {**found, "PyTorch float32, no adapter": [own, "torch", str(model)]}


def measure(commands: dict[str, list[str]], threads: int, rows: int, prompts: tuple[int, ...] = PROMPTS) -> None:
    engines = {title: Engine(_start(command, threads)) for title, command in commands.items()}
    for number in range(ROUNDS):
        for title in list(engines) if number % 2 else reversed(list(engines)):
            for prompt in prompts:
                engines[title].measure(rows, prompt)
    for engine in engines.values():
        engine.process.kill()
        engine.process.wait()
    print_table(
        f"A step of {rows} texts, threads: {threads}: time against {GENAI} ({ROUNDS} rounds of {STEPS} tokens)",
        ("engine", *(f"after {prompt}: {clock}" for prompt in prompts for clock in ("wall", "CPU"))),
        [
            (title, *(f"{_ratio(engine, engines[GENAI], prompt, clock):.2f}" for prompt in prompts for clock in (0, 1)))
            for title, engine in engines.items()
        ],
    )


def _start(command: list[str], threads: int) -> subprocess.Popen[str]:
    python, engine, *arguments = command
    process = subprocess.Popen(
        [python, str(WORKER), engine, str(threads), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(WORKER.parents[2])},
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"worker {engine}: did not start")
    return process


def _ratio(engine: Engine, reference: Engine, prompt: int, clock: int) -> float:
    """The median over the rounds."""
    pairs = zip(engine.seconds[prompt], reference.seconds[prompt], strict=True)
    return statistics.median(one[clock] / other[clock] for one, other in pairs)


if __name__ == "__main__":
    main()
