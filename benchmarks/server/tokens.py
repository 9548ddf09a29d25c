"""16 clients of SmolLM2 with adapters: rows that join and leave between tokens, or one request at a time."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adapter_export.cli.table import print_table
from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import load_base
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.session import AdapterSession
from benchmarks.models import random_adapter, saved
from benchmarks.server.clients import Job, Result, send
from benchmarks.server.running import Running, percentile, running
from samples.assets import smollm2


@dataclass(frozen=True)
class Own:
    """What a request gives alone: the texts of its tokens, and at each how far apart the two largest logits are."""

    tokens: list[str]
    margins: list[float]


CLIENTS, REQUESTS, ROUNDS = 16, 48, 3
_SEED = 7


def main(folder: Path) -> None:
    bundle = _bundle(folder)
    with AdapterSession(bundle) as session:
        asked, own = _requests(session, PromptTexts(bundle))
    with (
        running("continuous batching", bundle) as continuous,
        running("one request at a time", bundle, "--max-batch", "1") as single,
    ):
        servers = (
            continuous,
            Running("continuous batching, again (control)", continuous.port, continuous.process),
            single,
        )
        found: dict[str, list[Result]] = {server.name: [] for server in servers}
        for number in range(ROUNDS):
            for place in range(len(servers)):
                server = servers[(number + place) % len(servers)]
                found[server.name].append(send(Job(server.port, asked, CLIENTS, once=True)))
        rates = {name: [_tokens(one) / one.seconds for one in results] for name, results in found.items()}
        rows = []
        for server in servers:
            ratios = [own_ / other for own_, other in zip(rates[server.name], rates[single.name], strict=True)]
            seconds = [second for one in found[server.name] for _, second, _ in one.answers]
            different = [_differences(one, own) for one in found[server.name]]
            rows.append(
                (
                    server.name,
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    f"{percentile(seconds, 0.99) / percentile(seconds, 0.5):.2f}",
                    f"{server.bytes / 1e6:,.0f}",
                    str(sum(len(one.failed) for one in found[server.name])),
                    str(sum(len(rows_) for rows_ in different)),
                )
            )
        print_table(
            f"{CLIENTS} clients, {REQUESTS} requests of SmolLM2-135M ({ROUNDS} rounds)",
            ("", "tokens per second", "p99 : p50", "MB", "failed", "rows with other tokens"),
            rows,
        )
        for name, results in found.items():
            for one in results:
                for line in _differences(one, own):
                    print(f"{name}: {line}")


def _bundle(folder: Path) -> Path:
    """A bank of SmolLM2 with random adapters of two methods."""
    base = load_base(smollm2(), "causal-lm")
    made = {
        "scaled": ("ia3", {}),
        "bottleneck": ("bottleneck", {"reduction_factor": 18}),
        "thin": ("lora", {"rank": 8}),
    }
    checkpoints = {
        name: saved(folder / name, replace(random_adapter(base, method, seed=seed, **options), task="causal-lm"), base)
        for seed, (name, (method, options)) in enumerate(made.items())
    }
    export_onnx(smollm2(), checkpoints, folder / "bundle", mode="bank", task="causal-lm")
    return folder / "bundle"


def _requests(session: AdapterSession, texts: PromptTexts) -> tuple[list[tuple[str, str]], list[Own]]:
    """Greedy requests, and what each of them gives alone."""
    rng = np.random.default_rng(_SEED)
    names = [None, *session.adapters]
    asked, own = [], []
    for number in range(REQUESTS):
        prompt = rng.integers(100, 40_000, int(rng.integers(4, 64))).tolist()
        new, adapter = int(rng.integers(8, 65)), names[number % len(names)]
        body = {
            "model": adapter or "base",
            "prompt": prompt,
            "max_tokens": new,
            "temperature": 0,
            "logprobs": 0,
        }
        asked.append(("/v1/completions", json.dumps(body)))
        tokens, margins = [], []
        for step in session.generate([prompt], adapter, max_new_tokens=new):
            two = np.partition(step.logits[0], -2)[-2:]
            tokens.append(int(step.tokens[0] or 0))
            margins.append(float(two[1] - two[0]))
        own.append(Own(texts.token_texts(tokens), margins))
    return asked, own


def _tokens(result: Result) -> int:
    return sum(json.loads(text)["usage"]["completion_tokens"] for _, _, text in result.answers)


def _differences(result: Result, own: list[Own]) -> list[str]:
    """A line for each row whose tokens differ from those of its own run."""
    lines = []
    for number, _, text in result.answers:
        expected = own[number]
        found = json.loads(text)["choices"][0]["logprobs"]["tokens"]
        if found != expected.tokens:
            pairs = enumerate(zip(found, expected.tokens, strict=False))
            place = next((n for n, (one, other) in pairs if one != other), -1)
            lines.append(
                f"request {number}: differs from token {place} of {len(found)}; the two largest logits are "
                f"{expected.margins[place]:.1e} apart"
            )
    return lines
