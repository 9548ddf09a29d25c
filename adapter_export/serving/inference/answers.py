"""Writes the outputs of an inference request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response

from adapter_export.dtypes import DType
from adapter_export.serving.inference.requests import JSON_LENGTH
from adapter_export.serving.inference.schema import InferenceRequest, OutputParameters
from adapter_export.serving.inference.tensors import BYTES, datatype_of, to_bytes, to_json
from adapter_export.serving.names import VERSION
from adapter_export.serving.problems import Problem


def answer(
    model: str,
    request: InferenceRequest,
    outputs: Mapping[str, np.ndarray],
    dtypes: Mapping[str, DType],
    labels: Sequence[str] | None,
) -> Response:
    """Returns the response with the outputs that the request asks for.

    Args:
        model: Name of the model.
        request: The request.
        outputs: The outputs of the graph by name.
        dtypes: Their data types by name.
        labels: Class names of the last axis of the outputs; None if the outputs are not classes.

    Raises:
        Problem: An output is unknown, asked for twice, or cannot be written in JSON.
    """
    asked = {output.name: output.parameters for output in request.outputs}
    if len(asked) < len(request.outputs):
        raise Problem(400, "outputs: expected each name once")
    if unknown := [name for name in asked if name not in outputs]:
        raise Problem(400, f"output {unknown[0][:200]!r}: expected one of {', '.join(outputs)}", param=unknown[0])
    described, parts = [], []
    for name, parameters in (asked or dict.fromkeys(outputs, OutputParameters())).items():
        values, datatype = outputs[name], datatype_of(dtypes[name])
        if parameters.classification:
            values, datatype = _classes(name, values, labels, parameters.classification), BYTES
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        binary = parameters.binary_data
        if request.parameters.binary_data_output if binary is None else binary:
            parts.append(to_bytes(values))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        elif datatype == BYTES:
            entry["data"] = [text.decode() for text in values.ravel().tolist()]
        else:
            entry["data"] = to_json(name, values)
        described.append(entry)
    content = {"model_name": model, "model_version": VERSION, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    if not parts:
        return JSONResponse(content)
    head = json.dumps(content).encode()
    return Response(
        b"".join([head, *parts]), media_type="application/octet-stream", headers={JSON_LENGTH: str(len(head))}
    )


def _classes(name: str, values: np.ndarray, labels: Sequence[str] | None, most: int) -> np.ndarray:
    """Returns the largest values as texts `value:index:label`, [..., at most `most`]; the form of Triton's clients."""
    if labels is None or values.ndim == 0 or values.shape[-1] != len(labels):
        raise Problem(400, f"output {name!r}: its values are no classes, so there is no classification of them")
    order = np.argsort(-values, axis=-1, kind="stable")[..., :most]
    texts = np.empty(order.shape, object)
    for place in np.ndindex(*order.shape):
        index = int(order[place])
        texts[place] = f"{values[place[:-1]][index]:f}:{index}:{labels[index]}".encode()
    return texts
