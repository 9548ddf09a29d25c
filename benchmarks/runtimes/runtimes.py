"""The runtimes: each takes a job and gives an answer (`benchmarks.runtimes.jobs`)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runtimes.c_sample import answer_in_c
from benchmarks.runtimes.jobs import Job
from samples import environments
from samples.assets import AssetError
from tests import node
from tests.pages import browser

PROGRAMS = Path(__file__).parent / "programs"
_WEB = "onnxruntime-web@1.30.0"
Answer = Mapping[str, Any]


class NotTried(Exception):
    """A runtime that is not here, with the reason."""


def _answered(command: list[str | Path], job: Job) -> Answer:
    text = json.dumps(job.to_json())
    done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        # A crash, which the program could not answer with.
        return {"version": "", "refused": f"ended with status {done.returncode}: {done.stderr.strip()[-300:]}"}
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return answer


def in_python(job: Job) -> Answer:
    return _answered([sys.executable, PROGRAMS / "plain.py"], job)


def in_node(job: Job) -> Answer:
    # Node looks for packages beside the script.
    with tempfile.TemporaryDirectory() as folder:
        try:
            node.beside(Path(folder))
        except pytest.skip.Exception as reason:
            raise NotTried(str(reason)) from None
        for name in ("node.mjs", "sequences.mjs"):
            Path(folder, name).write_bytes((PROGRAMS / name).read_bytes())
        return _answered(["node", Path(folder, "node.mjs")], job)


def in_browser(job: Job) -> Answer:
    try:
        web = node.installed(_WEB) / "node_modules" / "onnxruntime-web"
        return browser.drive(PROGRAMS / "browser.mjs", web, text=json.dumps(job.to_json()))
    except pytest.skip.Exception as reason:
        raise NotTried(str(reason)) from None


def in_c(job: Job) -> Answer:
    try:
        return answer_in_c(job)
    except AssetError as reason:
        raise NotTried(str(reason)) from None


def in_genai(job: Job) -> Answer:
    return _in_environment(environments.GENAI, "with_genai.py", job)


def in_openvino(job: Job) -> Answer:
    return _in_environment(environments.OPENVINO, "with_openvino.py", job)


def in_openvino_inlined(job: Job) -> Answer:
    """Another graph beside that of the bundle, with which it shares the weights: functions replaced by what they do."""
    import onnx
    from onnx.inliner import inline_local_functions

    path = job.bundle / "inlined.onnx"
    if not path.exists():
        onnx.save(inline_local_functions(onnx.load(job.model, load_external_data=False)), path)
    return in_openvino(replace(job, model=path))


def _in_environment(environment: environments.Environment, program: str, job: Job) -> Answer:
    try:
        python = environments.python(environment)
    except AssetError as reason:
        raise NotTried(str(reason)) from None
    return _answered([python, "-I", PROGRAMS / program], job)


# By the names that the page has, in its order.
RUNTIMES: Mapping[str, Callable[[Job], Answer]] = {
    "ONNX Runtime, Python": in_python,
    "ONNX Runtime, C": in_c,
    "ONNX Runtime, Node": in_node,
    "ONNX Runtime, browser": in_browser,
    "ONNX Runtime GenAI": in_genai,
    "OpenVINO": in_openvino,
    "OpenVINO, functions inlined": in_openvino_inlined,
}
