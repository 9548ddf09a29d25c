"""A job (`benchmarks.runtimes.jobs`) in samples/c, whose command line has one text and the adapters of its runs."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.graphs import ADAPTER_IDS
from benchmarks.runtimes.jobs import Job, arrays_to_json
from samples import c_program


def answer_in_c(job: Job) -> dict[str, Any]:
    """The answer, with every output of every run. Raises AssetError where the program cannot be built."""
    version = c_program.library().name.removeprefix("libonnxruntime.so.")
    answers: list[list[dict[str, Any]]] = [[{} for _ in one.steps] for one in job.runs]
    with tempfile.TemporaryDirectory(prefix="samples-c-") as folder:
        program = c_program.build(Path(folder))
        for step in range(len(job.runs[0].steps)):
            command = [str(program), str(job.bundle), *_arguments(job, step)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().removeprefix("error: ") or f"ended with status {done.returncode}"
                return {"version": version, "refused": said}
            # Each run has a line for each output.
            for number, line in enumerate(done.stdout.splitlines()):
                _, output, shape, numbers = line.split("\t")
                array = np.array(numbers.split(), np.float32).reshape([int(dim) for dim in shape.split()])
                answers[number // len(job.outputs)][step] |= arrays_to_json({output: array})
    return {"version": version, "answers": answers}


def _arguments(job: Job, step: int) -> list[str]:
    feeds = job.runs[0].steps[step].feeds
    tokens = " ".join(map(str, feeds["input_ids"][0].tolist()))
    if ADAPTER_IDS in feeds:
        return [tokens, *map(str, feeds[ADAPTER_IDS].tolist())]
    return [tokens, *[one.adapter or "-" for one in job.runs if job.binding]]
