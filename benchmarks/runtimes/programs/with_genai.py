"""A job (`benchmarks.runtimes.jobs`) in ONNX Runtime GenAI: it keeps the cache itself, and reads one token a step."""

from __future__ import annotations

import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def main(job: dict[str, Any]) -> list[list[dict[str, Any]]]:
    model = og.Model(str(Path(job["model"]).parent))
    adapters = og.Adapters(model)
    if job["binding"] == "initializer":
        for name, item in job["adapters"].items():
            adapters.load(item["file"], name)
    return [sequence(model, adapters, job, one) for one in job["sequences"]]


def sequence(model: Any, adapters: Any, job: dict[str, Any], one: dict[str, Any]) -> list[dict[str, Any]]:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=64)
    generator = og.Generator(model, params)
    if one["adapter"] and job["binding"] == "initializer":
        generator.set_active_adapter(adapters, one["adapter"])
    answers = []
    for step in one["steps"]:
        ids = step["feeds"]["input_ids"]
        generator.append_tokens(np.frombuffer(base64.b64decode(ids["data"]), np.int64).astype(np.int32))
        logits = np.array(generator.get_logits(), np.float32)[:, -1]
        data = base64.b64encode(logits.tobytes()).decode()
        answers.append({"logits": {"type": "float32", "dims": logits.shape, "data": data}})
    return answers


answer: dict[str, Any] = {"version": f"{version('onnxruntime-genai')} (ONNX Runtime {version('onnxruntime')})"}
try:
    answer["answers"] = main(json.load(sys.stdin))
except Exception as error:  # whatever the runtime says is the answer
    answer["refused"] = str(error)
print(json.dumps(answer))
