"""The measurements, as JSON has them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.machine import this_machine
from benchmarks.runtimes.cases import jobs
from benchmarks.runtimes.jobs import Arrays, Job, arrays_from_json
from benchmarks.runtimes.made import make
from benchmarks.runtimes.runtimes import RUNTIMES, Answer, NotTried
from samples.assets import minilm, smollm2

# Title on the page -> model, task, and methods of its two adapters (`made.make`).
MODELS: Mapping[str, tuple[Callable[[], Path], str, Mapping[str, Mapping[str, object]]]] = {
    "MiniLM": (minilm, "features", {"ia3": {}, "bottleneck": {"reduction_factor": 8}}),
    "SmolLM2-135M": (smollm2, "causal-lm", {"lora": {"rank": 8}, "bottleneck": {"reduction_factor": 18}}),
}


def measure(titles: Collection[str]) -> dict[str, Any]:
    """What the page says: `machine`, and `runtimes` with a version and cells by model and form, or with the reason that
    it was not tried.

    Args:
        titles: The runtimes to measure.
    """
    found: dict[str, Any] = {title: {"cells": {}} for title in RUNTIMES if title in titles}
    for model, (fetched, task, methods) in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="runtimes-") as folder:
            print(f"{model}: exporting", flush=True)
            made = jobs(make(fetched(), task, methods, Path(folder)))
            for title, answered in RUNTIMES.items():
                if title not in found:
                    continue
                print(f"{model}: {title}", flush=True)
                try:
                    answers = {form: answered(job) for form, job in made.items()}
                except NotTried as reason:
                    found[title] = {"not tried": str(reason)}
                    continue
                found[title]["version"] = next(iter(answers.values()))["version"]
                found[title]["cells"][model] = {form: cell(job, answers[form]) for form, job in made.items()}
    return {"machine": asdict(this_machine()), "runtimes": found}


def cell(job: Job, answer: Answer) -> dict[str, Any]:
    """What a runtime did with one job.

    One of
        {"error": float}      the largest error of all runs;
        {"ignores": float}    runs with an adapter gave the bits of those without; the largest error of the latter;
        {"refused": text}     the last line of what the runtime said.
    """
    if "refused" in answer:
        lines = [line.strip() for line in answer["refused"].splitlines() if line.strip()]
        return {"refused": lines[-1] if lines else "no reason given"}
    found = [[arrays_from_json(step) for step in steps] for steps in answer["answers"]]
    errors = [
        max(_error(actual, expected) for actual, expected in zip(steps, one.expected, strict=True))
        for steps, one in zip(found, job.runs, strict=True)
    ]
    none = [number for number, one in enumerate(job.runs) if one.adapter is None]
    if len(none) < len(job.runs) and all(_same(steps, found[none[0]]) for steps in found):
        return {"ignores": errors[none[0]]}
    return {"error": max(errors)}


def _same(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> bool:
    return all(
        np.array_equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in (a.keys() | b.keys())
    )


def _error(actual: Arrays, expected: Arrays) -> float:
    """max|actual - expected| / rms(expected), the largest of the outputs; infinite where a number is none."""
    assert actual.keys() == expected.keys()
    errors = []
    for name, wanted in expected.items():
        assert actual[name].shape == wanted.shape, (name, actual[name].shape, wanted.shape)
        error = float(np.abs(actual[name].astype(np.float64) - wanted).max() / np.sqrt(np.mean(wanted**2)))
        errors.append(error if np.isfinite(error) else float("inf"))
    return max(errors)
