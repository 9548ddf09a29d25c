"""A job (`benchmarks.runtimes.jobs`) in ONNX Runtime for Python, as it is without this project."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def main(job: dict[str, Any]) -> list[list[dict[str, Any]]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # else a warning for each tensor that adapters fill
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    return [sequence(session, job, one) for one in job["sequences"]]


def sequence(session: Any, job: dict[str, Any], one: dict[str, Any]) -> list[dict[str, Any]]:
    run, fed, answers, found = ort.RunOptions(), {}, [], {}
    adapter = ort.LoraAdapter()
    if job["binding"] == "input":
        fed = arrays(job["adapters"][one["adapter"] or ""]["tensors"])
    elif job["binding"] == "initializer" and one["adapter"]:
        adapter.Load(job["adapters"][one["adapter"]]["file"])
        run.add_active_adapter(adapter)
    for step in one["steps"]:
        feeds = {**arrays(step["feeds"]), **fed, **{name: found[source] for name, source in step["carry"].items()}}
        found = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds, run), strict=True))
        answers.append({name: encoded(found[name][:, -1] if job["last"] else found[name]) for name in job["outputs"]})
    return answers


def arrays(encoded: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["dims"])
        for name, value in encoded.items()
    }


def encoded(value: np.ndarray) -> dict[str, Any]:
    return {"type": value.dtype.name, "dims": value.shape, "data": base64.b64encode(value.tobytes()).decode()}


answer: dict[str, Any] = {"version": ort.__version__}
try:
    answer["answers"] = main(json.load(sys.stdin))
except Exception as error:  # whatever the runtime says is the answer
    answer["refused"] = str(error)
print(json.dumps(answer))
