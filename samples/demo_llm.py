"""A language model all the way: train, export, generate, prove, measure. `make demo-llm`; results: `out/demo-llm`.

SmolLM2-135M learns to write like the reference of the Python language, twice: as IA3, and as bottlenecks of width 32.
One swappable bundle holds both adapters, in float32 and once more in 8 bits; everything runs side by side with PyTorch.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from adapter_export import (
    AdapterSession,
    PromptTexts,
    check_parity,
    export_onnx,
    load_pytorch,
    print_report,
    read_manifest,
    train,
)
from samples.assets import smollm2
from samples.table import print_table

OUT = Path(__file__).resolve().parent.parent / "out" / "demo-llm"
# Enough to take on the style, few enough for two or three minutes of training on two cores.
TRAIN_TEXTS, TEST_TEXTS, MAX_LENGTH = 320, 48, 64
# SmolLM2 has 576 features: 576 / 18 = 32.
METHODS: dict[str, dict[str, Any]] = {
    "ia3": {"learning_rate": 2e-2},
    "bottleneck": {"learning_rate": 2e-3, "reduction_factor": 18},
}
TRAINING: dict[str, Any] = {"epochs": 1, "batch_size": 16, "max_length": MAX_LENGTH}
PROMPTS = ("A friend is", "When a cat", "The weather")
NEW_TOKENS, SPEED_TOKENS, ROUNDS = 64, 32, 3
# Two logits nearer than this share of their size may change places by rounding alone.
CLEAR = 1e-4

LEGEND = """
torch, ORT, int8: perplexity of texts that were not trained on, in PyTorch, in ONNX Runtime, and with 8-bit weights.
same: places in those texts where float32 and 8 bits find the same token most likely. greedy: tokens written in a batch
of unequal prompts that are PyTorch's own choice too, of those where PyTorch's choice is clear. tokens/s: ONNX Runtime,
one text. : torch, int8 :: times as fast as transformers' generate with its cache; 8 bits times as fast as float32.
control: float32 against itself. All with one thread."""

# From tokens of one text to the logits after each of them, [tokens, vocabulary].
Reader = Callable[[Sequence[int]], np.ndarray]


def texts() -> list[str]:
    """Paragraphs of prose from the Python language's reference, which comes with every Python (as `help` topics)."""
    from pydoc_data.topics import topics

    paragraphs = [" ".join(part.split()) for topic in topics.values() for part in re.split(r"\n\s*\n", topic)]
    prose = [text for text in paragraphs if re.match("[A-Z][a-z]* [a-z]", text) and text.endswith(".")]
    return sorted({text for text in prose if len(text) >= 80})


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Training and test texts, as files with a column `text`."""
    drawn = random.Random(0).sample(texts(), TRAIN_TEXTS + TEST_TEXTS)
    files = folder / "train.jsonl", folder / "test.jsonl"
    for path, part in zip(files, (drawn[:TRAIN_TEXTS], drawn[TRAIN_TEXTS:]), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
    return files


def encoded(session: AdapterSession, file: Path) -> list[list[int]]:
    """Tokens of the texts, cut and ended as in training."""
    end, *_ = session.generation_config.eos
    tokenizer = PromptTexts(session.bundle)
    rows = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    return [[*tokenizer.encode(row)[: MAX_LENGTH - 1], end] for row in rows]


def open_session(bundle: Path) -> AdapterSession:
    """A session of one thread, to be compared with PyTorch of one thread: with more, PyTorch's wait for each other in
    every operator, and on cores that others use too it looks several times slower than it is."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return AdapterSession(bundle, options=options)


def onnx_reader(session: Any, adapter: str | None) -> Reader:
    """Reads a text in one run with an empty cache."""

    def logits(tokens: Sequence[int]) -> np.ndarray:
        ids = np.array([tokens])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(tokens))[None]}
        cache = {
            name: np.zeros((1, info.shape[1], 0, info.shape[3]), info.dtype)
            for name, info in session.manifest.inputs.items()
            if name not in given
        }
        return session.run({**given, **cache}, adapter=adapter)["logits"][0]

    return logits


def torch_reader(module: Any) -> Reader:
    import torch

    def logits(tokens: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.tensor([tokens])).logits[0].numpy()

    return logits


def read(reader: Reader, rows: Sequence[Sequence[int]]) -> tuple[float, np.ndarray]:
    """Guess every token of the texts but each one's first: the perplexity, and the tokens found most likely."""
    losses, best = [], []
    for row in rows:
        logits = reader(row)[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(row) - 1), row[1:]])
        best.append(logits.argmax(-1))
    return math.exp(np.concatenate(losses).mean()), np.concatenate(best)


def write_on(session: Any, bundle: Path, adapter: str | None, prompts: Sequence[str] = PROMPTS) -> None:
    """Print what follows each prompt, token by token as it comes."""
    tokenizer = PromptTexts(bundle)
    for prompt in prompts:
        print(f"  {prompt}", end="", flush=True)
        tokens = tokenizer.encode(prompt)
        stream = tokenizer.stream(tokens)
        settings = {"max_new_tokens": 40, "repetition_penalty": 1.2}
        for step in session.generate([tokens], adapter, **settings):
            (token,) = step.tokens
            if step.finish != ("stop",):
                print(re.sub(r"\s+", " ", stream.push(token)), end="", flush=True)
        print(stream.rest())


def unlike_torch(
    reader: Reader, session: Any, prompts: Sequence[Sequence[int]], adapter: str | None
) -> tuple[int, int]:
    """Greedy tokens of all prompts in one batch, and PyTorch reading each row alone, without a cache or padding.

    Returns how many tokens have a clear margin in PyTorch, and how many of those are not PyTorch's own choice.
    """
    generation = session.generate(prompts, adapter, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    clear = wrong = 0
    for prompt, row in zip(prompts, generation.completions(), strict=True):
        logits = reader([*prompt, *row.tokens[:-1]])[len(prompt) - 1 :]
        second, first = np.partition(logits, -2, axis=-1)[:, -2:].T
        sure = first - second > CLEAR * np.abs(logits).max(-1)
        clear += int(sure.sum())
        wrong += int((sure & (logits.argmax(-1) != row.tokens)).sum())
    return clear, wrong


def in_turns(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every function in every round, after one that does not count; the order rotates."""
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            functions[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def times_as_fast(seconds: Mapping[str, list[float]], name: str, reference: str) -> float:
    """Median over rounds."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[reference], strict=True))


def speeds(module: Any, sessions: Mapping[str, Any], prompt: Sequence[int], adapter: str | None) -> dict[str, Any]:
    """Greedy generation in turns, one thread: transformers with its cache, the sessions, the first of them again."""
    import torch

    def in_torch() -> None:
        ids = torch.tensor([prompt])
        module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=SPEED_TOKENS,
            max_new_tokens=SPEED_TOKENS,
            do_sample=False,
        )

    def in_onnx(session: Any) -> Callable[[], None]:
        return lambda: session.generate([prompt], adapter, max_new_tokens=SPEED_TOKENS, ignore_eos=True).completions()

    functions = {"torch": in_torch, **{name: in_onnx(session) for name, session in sessions.items()}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return in_turns({**functions, "again": functions[next(iter(sessions))]}, ROUNDS)
    finally:
        torch.set_num_threads(threads)


def weight_bytes(bundle: Path) -> int:
    """Size of the graph with its weights."""
    return sum(path.stat().st_size for path in bundle.glob("model.onnx*"))


def say(text: str) -> None:
    print(f"[{time.process_time():5.0f} s CPU] {text}", flush=True)


def main() -> None:
    """Raises SystemExit, with exit code 1, when a check fails."""
    started = time.monotonic()
    model = smollm2()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    train_file, test_file = write_texts(OUT)
    adapters: dict[str, Path] = {}
    for method, options in METHODS.items():
        result = train(model, method, "causal-lm", train_file, OUT / "adapters" / method, **TRAINING, **options)
        adapters[method] = result.output
        say(f"{method}: {result.parameters:,} parameters trained, {result.steps} updates")

    bundles = {"float32": OUT / "bundle", "int8": OUT / "bundle-int8"}
    for kind, bundle in bundles.items():
        export_onnx(model, adapters, bundle, mode="swappable", quantize="int8" if kind == "int8" else "none")
        say(f"{kind}: one swappable bundle with both, {weight_bytes(bundle) / 1e6:,.0f} MB")
    reports = {kind: check_parity(bundle, model, adapters) for kind, bundle in bundles.items()}
    say("checked parity of both against float64 PyTorch")
    for report in reports.values():
        print_report(report)

    sessions = {kind: open_session(bundle) for kind, bundle in bundles.items()}
    bundle = bundles["float32"]
    rows, prompts = encoded(sessions["float32"], test_file), [PromptTexts(bundle).encode(text) for text in PROMPTS[:2]]
    manifest = read_manifest(bundle)
    table, wrongs = [], []
    for adapter in (None, *adapters):
        print(f"\nwith {adapter or 'no adapter'}:")
        write_on(sessions["float32"], bundle, adapter)
        module = load_pytorch(model, None if adapter is None else adapters[adapter], task="causal-lm")
        in_torch = torch_reader(module)
        (plain, best), (eighth, best8) = (read(onnx_reader(session, adapter), rows) for session in sessions.values())
        clear, wrong = unlike_torch(in_torch, sessions["float32"], prompts, adapter)
        seconds = speeds(module, sessions, rows[0][:16], adapter)
        torch_perplexity, _ = read(in_torch, rows)
        if wrong or not math.isclose(plain, torch_perplexity, rel_tol=1e-3):
            wrongs.append(f"{adapter}: ONNX Runtime does not write or read as PyTorch does")
        info = None if adapter is None else manifest.adapter(adapter)
        table.append(
            (
                adapter or "none",
                "-" if info is None else f"{info.parameters:,}",
                "-" if info is None else f"{(bundle / info.file).stat().st_size / 1e3:,.0f}",
                f"{torch_perplexity:.2f}",
                f"{plain:.2f}",
                f"{eighth:.2f}",
                f"{np.mean(best == best8):.3f}",
                f"{clear - wrong}/{clear}",
                f"{SPEED_TOKENS / statistics.median(seconds['float32']):.1f}",
                f"{times_as_fast(seconds, 'float32', 'torch'):.2f}",
                f"{times_as_fast(seconds, 'int8', 'float32'):.2f}",
                f"{times_as_fast(seconds, 'again', 'float32'):.2f}",
            )
        )
    sizes = [weight_bytes(bundle) for bundle in bundles.values()]
    print_table(
        f"SmolLM2-135M, two adapters, one bundle; {TRAIN_TEXTS} training and {TEST_TEXTS} test texts; "
        f"8 bits: {sizes[1] / sizes[0]:.3f} of the size; {time.monotonic() - started:.0f} s in all",
        (
            "adapter",
            "trained",
            "kB",
            "torch",
            "ORT",
            "int8",
            "same",
            "greedy",
            "tokens/s",
            ": torch",
            "int8 :",
            "control",
        ),
        table,
    )
    print(LEGEND)
    wrongs += [
        f"parity of {kind}: {report.verdict.value}"
        for kind, report in reports.items()
        if report.verdict.value != "pass"
    ]
    if wrongs:
        raise SystemExit("\n".join(wrongs))


if __name__ == "__main__":
    main()
