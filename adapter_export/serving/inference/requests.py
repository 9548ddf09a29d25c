"""Reads the inputs of an inference request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adapter_export.bundle.manifest import TensorInfo
from adapter_export.serving.bodies import parsed
from adapter_export.serving.inference.schema import InferenceRequest, RequestInput
from adapter_export.serving.inference.tensors import (
    from_bytes,
    from_json,
    texts_from_bytes,
    texts_from_json,
)
from adapter_export.serving.problems import Problem

# The input of texts, which are tokenized here. It takes the place of the graph's own inputs.
TEXT = "text"
# The header with the number of bytes of the JSON part, if bytes of tensors follow it.
JSON_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a request.

    Attributes:
        request: The JSON part.
        arrays: The inputs of the graph by name; empty if there are texts.
        texts: The texts; None if there are none.
    """

    request: InferenceRequest
    arrays: Mapping[str, np.ndarray]
    texts: list[str] | None


def read_inputs(body: bytes, json_length: str | None, wanted: Mapping[str, TensorInfo]) -> Inputs:
    """Reads a request.

    Args:
        body: The body of the request.
        json_length: The header JSON_LENGTH; None if the complete body is JSON.
        wanted: The inputs of the graph by name.

    Raises:
        Problem: The request is broken, or has other inputs than the graph.
    """
    length = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit()) or int(json_length) > len(body):
            raise Problem(
                400, f"header {JSON_LENGTH}: expected a number of bytes of the body, found {json_length[:40]!r}"
            )
        length = int(json_length)
    request = parsed(InferenceRequest, body[:length])
    parts = _parts(request, memoryview(body)[length:])
    names = [given.name for given in request.inputs]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise Problem(400, f"input {repeated[:200]!r}: expected once, found several times", param=repeated)
    if names == [TEXT] and TEXT not in wanted:
        (given,) = request.inputs
        what = f"input {TEXT!r}"
        part = parts.get(TEXT)
        if part is None:
            return Inputs(request, {}, texts_from_json(what, given.datatype, given.shape, given.data))
        return Inputs(request, {}, texts_from_bytes(what, given.datatype, given.shape, part))
    if unknown := [name for name in names if name not in wanted]:
        raise Problem(
            400, f"input {unknown[0][:200]!r}: expected {', '.join(wanted)}, or {TEXT} alone", param=unknown[0]
        )
    if missing := [name for name in wanted if name not in names]:
        raise Problem(400, f"input {missing[0]!r}: expected, not found", param=missing[0])
    return Inputs(
        request,
        {given.name: _array(given, parts.get(given.name), wanted[given.name]) for given in request.inputs},
        None,
    )


def _array(given: RequestInput, part: memoryview | None, info: TensorInfo) -> np.ndarray:
    what = f"input {given.name!r}"
    if part is None:
        return from_json(what, given.datatype, given.shape, given.data, info.dtype)
    return from_bytes(what, given.datatype, given.shape, part, info.dtype)


def _parts(request: InferenceRequest, rest: memoryview) -> dict[str, memoryview]:
    """Returns the bytes of the inputs in binary form, which follow the JSON part in the order of the inputs."""
    parts: dict[str, memoryview] = {}
    at = 0
    for given in request.inputs:
        size = given.parameters.binary_data_size
        if size is None:
            continue
        if given.data is not None:
            raise Problem(400, f"input {given.name[:200]!r}: expected data or binary_data_size, found both")
        parts[given.name] = rest[at : at + size]
        at += size
    if at != len(rest):
        raise Problem(400, f"body: expected {at} bytes after the JSON part, found {len(rest)}")
    return parts
