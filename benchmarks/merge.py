"""Merging without building the model against PEFT's load, merge and save, and against `cp -r`: whole processes.

    python -m benchmarks.merge

The model has TinyLlama's shape (1.1 billion parameters, float16, 2.2 GB in shards) with random weights, and lies in
`.cache` while this runs, with one copy at a time: 5 GB of disk, and 3 GB of memory for PEFT. Every process starts with
the model in the page cache and no write pending.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapter_export.checkpoints.safetensors_header import Entry, arranged, encode_header, read_header
from adapter_export.cli.table import print_table

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "benchmark-merge"
ROUNDS = 3
SHARDS = 5
HIDDEN, LAYERS, FFN, HEADS, KEY_VALUE_HEADS, VOCABULARY = 2048, 22, 5632, 32, 4, 32000
KEY_VALUE = HIDDEN // HEADS * KEY_VALUE_HEADS
OURS, AGAIN, PEFT, COPY = "adapter-export merge", "the same again (control)", "PEFT", "cp -r"

# What PEFT's documentation tells to do, with the dtype of the checkpoint.
_PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3], max_shard_size="500MB")
"""

# The kernel counts the memory of the process that starts another as its own until then: so a small one starts it.
_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere), 0)
print(json.dumps([time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
sys.exit(status != 0)
"""


@dataclass(frozen=True)
class Cost:
    """Seconds until the process ended, and until what it wrote was on the disk; its CPU seconds; its peak bytes."""

    wall: float
    durable: float
    cpu: float
    peak: int


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the model, in its order."""
    layer = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, FFN),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_proj": (KEY_VALUE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    }
    return {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()},
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }


def make_model(folder: Path, layers: int = LAYERS) -> Path:
    """A random float16 model in `folder`, written tensor by tensor."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = shapes(layers)
    limit = sum(map(math.prod, tensors.values())) / SHARDS
    shards: list[list[str]] = [[]]
    held = 0
    for name, shape in tensors.items():
        if held > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += math.prod(shape)
    rng = np.random.default_rng(0)
    where = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        entries = arranged((name, "F16", tensors[name], 2 * math.prod(tensors[name])) for name in names)
        with (folder / file).open("wb") as shard:
            shard.write(encode_header(entries, {"format": "pt"}))
            for name in entries:
                values = rng.standard_normal(tensors[name], np.float32) * np.float32(0.02)
                shard.write((values + (values.ndim == 1)).astype(np.float16).tobytes())
                where[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def make_adapter(folder: Path, half: bool, layers: int = LAYERS) -> Path:
    """A PEFT IA3 checkpoint with random vectors; half: with values that float16 holds exactly."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    sizes = {"self_attn.k_proj": (KEY_VALUE, 1), "self_attn.v_proj": (KEY_VALUE, 1), "mlp.down_proj": (1, FFN)}
    vectors = {
        f"base_model.model.model.layers.{i}.{name}.ia3_l": rng.normal(1, 0.1, shape).astype(np.float32)
        for i in range(layers)
        for name, shape in sizes.items()
    }
    if half:
        vectors = {name: value.astype(np.float16).astype(np.float32) for name, value in vectors.items()}
    save_file(vectors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "IA3", "task_type": "CAUSAL_LM", "base_model_name_or_path": "model", "inference_mode": True,
        "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def commands(model: Path, adapter: Path, output: Path) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "adapter_export", "merge", "--model", str(model), "--adapter", str(adapter)]
    ours += ["--output", str(output)]
    peft = [sys.executable, "-c", _PEFT, str(model), str(adapter), str(output)]
    return {OURS: ours, AGAIN: ours, PEFT: peft, COPY: ["cp", "-r", str(model), str(output)]}


def measured(command: Sequence[str]) -> Cost:
    """Run a process to its end, from a quiet disk. Its own figures, from the kernel; no sampling."""
    os.sync()
    started = time.perf_counter()
    launched = subprocess.run(
        [sys.executable, "-ISc", _LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    os.sync()
    durable = time.perf_counter() - started
    if launched.returncode:
        raise SystemExit(f"{command[0]} failed: {launched.stderr}")
    wall, cpu, peak = json.loads(launched.stdout)
    return Cost(wall, durable, cpu, peak)


def tensors_of(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every float16 tensor of a model, one at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        header = read_header(path)
        for name, entry in header.tensors.items():
            yield name, _values(path, header.start, entry)


def compare(model: Path, adapter: Path, ours: Path, peft: Path) -> list[tuple[str, str, str, str]]:
    """Values where the two outputs differ, and how many values of each differ from the exact product rounded once."""
    from safetensors.numpy import load_file

    vectors = load_file(adapter / "adapter_model.safetensors")
    theirs = {
        name: (path, read_header(path)) for path in peft.glob("*.safetensors") for name in read_header(path).tensors
    }
    base = dict(tensors_of(model))
    counts = {"scaled": [0, 0, 0, 0], "untouched": [0, 0, 0, 0]}
    for name, mine in tensors_of(ours):
        path, header = theirs[name]
        other = _values(path, header.start, header.tensors[name])
        vector = vectors.get(f"base_model.model.{name.removesuffix('.weight')}.ia3_l")
        # numpy's cast from float64 to float16 rounds once, to nearest even.
        exact = base[name] if vector is None else (base[name] * vector.astype(np.float64)).astype(np.float16)
        bits = [array.view(np.uint16) for array in (mine, other, exact)]
        found = (mine.size, *((a != b).sum() for a, b in ((bits[0], bits[1]), (bits[0], bits[2]), (bits[1], bits[2]))))
        kind = "untouched" if vector is None else "scaled"
        counts[kind] = [a + int(b) for a, b in zip(counts[kind], found, strict=True)]
    return [(kind, *(f"{value:,}" for value in values)) for kind, values in counts.items()]


def _values(path: Path, start: int, entry: Entry) -> np.ndarray:
    return np.memmap(path, np.float16, "r", start + entry.begin, entry.shape)


def _report(costs: Mapping[str, list[Cost]], size: int) -> None:
    reference = costs[PEFT]
    rows = []
    for name, runs in costs.items():
        ratio = statistics.median(run.wall / other.wall for run, other in zip(runs, reference, strict=True))
        memory = statistics.median(run.peak / other.peak for run, other in zip(runs, reference, strict=True))
        wall, durable, cpu, peak = (
            statistics.median(getattr(run, field) for run in runs) for field in ("wall", "durable", "cpu", "peak")
        )
        rows.append(
            (name, f"{wall:.1f}", f"{durable:.1f}", f"{cpu:.1f}", f"{peak / 1e6:,.0f}", f"{ratio:.2f}", f"{memory:.3f}")
        )
    columns = ("process", "wall s", "on disk s", "CPU s", "peak MB", "wall / PEFT", "memory / PEFT")
    print_table(f"Merging an IA3 adapter into {size / 1e9:.1f} GB of float16, {ROUNDS} rounds, medians", columns, rows)


def main(layers: int = LAYERS) -> None:
    shutil.rmtree(CACHE, ignore_errors=True)
    try:
        model = make_model(CACHE / "model", layers)
        size = sum(path.stat().st_size for path in model.iterdir())
        half, full = (make_adapter(CACHE / name, name == "half", layers) for name in ("half", "full"))
        output = CACHE / "output"
        costs: dict[str, list[Cost]] = {name: [] for name in (OURS, AGAIN, PEFT, COPY)}
        for number in range(ROUNDS):
            names = list(costs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                costs[name].append(measured(commands(model, half, output)[name]))
                shutil.rmtree(output)
        _report(costs, size)
        for title, adapter in (("values float16 holds", half), ("float32 values", full)):
            outputs = {name: CACHE / f"output-{name[:4]}" for name in (OURS, PEFT)}
            for name, folder in outputs.items():
                measured(commands(model, adapter, folder)[name])
            columns = ("tensors", "values", "ours not PEFT's", "ours not exact", "PEFT's not exact")
            rows = compare(model, adapter, outputs[OURS], outputs[PEFT])
            print_table(f"Bits, an adapter of {title}; exact: the product rounded once", columns, rows)
            for folder in outputs.values():
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(CACHE, ignore_errors=True)


if __name__ == "__main__":
    main()
