"""A job (`benchmarks.runtimes.jobs`) in OpenVINO, which reads ONNX graphs by itself."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np
import openvino as ov

# On some processors it would compute in bfloat16 otherwise.
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}


def main(job: dict[str, Any]) -> list[list[dict[str, Any]]]:
    compiled = ov.Core().compile_model(job["model"], "CPU", SETTINGS)
    return [sequence(compiled, job, one) for one in job["sequences"]]


def sequence(compiled: Any, job: dict[str, Any], one: dict[str, Any]) -> list[dict[str, Any]]:
    name = one["adapter"] or ""
    fed = arrays(job["adapters"][name]["tensors"]) if name in job["adapters"] else {}
    answers: list[dict[str, Any]] = []
    found: dict[str, np.ndarray] = {}
    for step in one["steps"]:
        feeds = {**arrays(step["feeds"]), **fed, **{name: found[source] for name, source in step["carry"].items()}}
        results = compiled(feeds)
        found = {name: np.array(value) for port, value in results.items() for name in port.get_names()}
        answers.append({name: encoded(found[name][:, -1] if job["last"] else found[name]) for name in job["outputs"]})
    return answers


def arrays(encoded: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["dims"])
        for name, value in encoded.items()
    }


def encoded(value: np.ndarray) -> dict[str, Any]:
    return {"type": value.dtype.name, "dims": value.shape, "data": base64.b64encode(value.tobytes()).decode()}


answer: dict[str, Any] = {"version": ov.__version__.partition("-")[0]}
try:
    answer["answers"] = main(json.load(sys.stdin))
except Exception as error:  # whatever the runtime says is the answer
    answer["refused"] = str(error)
print(json.dumps(answer))
