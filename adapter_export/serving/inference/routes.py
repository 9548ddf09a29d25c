"""The endpoints of the Open Inference Protocol."""

from __future__ import annotations

import asyncio

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapter_export import tasks
from adapter_export.serving.inference.answers import answer
from adapter_export.serving.inference.metadata import model_metadata, server_metadata
from adapter_export.serving.inference.requests import JSON_LENGTH, TEXT, read_inputs
from adapter_export.serving.names import VERSION, adapter_of, refuse_without_labels
from adapter_export.serving.problems import Problem
from adapter_export.serving.service import Service, note, service_of
from adapter_export.serving.waiting import unless_gone


async def live(request: Request) -> Response:
    """Answers as long as the process runs."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Says whether the server takes requests: not before the bundle is open, and not while the server ends."""
    is_ready = service_of(request).ready
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


async def server(request: Request) -> Response:
    """Describes the server."""
    return JSONResponse(server_metadata(can_load=service_of(request).repository is not None))


async def model(request: Request) -> Response:
    """Describes a model."""
    service = service_of(request)
    name, adapter = _model(request, service)
    return JSONResponse(model_metadata(service.engine.session, name, adapter))


async def model_ready(request: Request) -> Response:
    """Says whether a model takes requests."""
    service = service_of(request)
    name, _ = _model(request, service)
    return JSONResponse({"name": name, "ready": service.ready}, 200 if service.ready else 503)


async def infer(request: Request) -> Response:
    """Runs a model."""
    service = service_of(request)
    name, adapter = _model(request, service)
    engine, manifest = service.engine, service.engine.session.manifest
    if engine.generates:
        raise Problem(400, f"model {name!r}: generates tokens; use /v1/completions or /v1/chat/completions")
    graph = manifest.graphs[manifest.model]
    inputs = read_inputs(await request.body(), request.headers.get(JSON_LENGTH), graph.given)
    refuse_without_labels(engine.session, name, adapter, tasks.get(manifest.task).labelled)
    if inputs.texts is None:
        work = engine.run_batch(inputs.arrays, adapter)
    else:
        work = _run_texts(service, inputs.texts, adapter)
    outputs = await unless_gone(request, work, service.settings.seconds)
    dtypes = {key: info.dtype for key, info in graph.outputs.items()}
    return answer(name, inputs.request, outputs, dtypes, engine.session.labels(adapter))


async def _run_texts(service: Service, texts: list[str], adapter: str | None) -> dict[str, np.ndarray]:
    """Tokenizes and runs texts, each as a row of its own length."""
    engine = service.engine
    if engine.encoder is None or engine.batcher is None:
        raise Problem(400, f"input {TEXT!r}: this bundle does not read texts", param=TEXT)
    if not texts:
        raise Problem(400, f"input {TEXT!r}: expected at least one text, found none", param=TEXT)
    engine.check_rows(len(texts))
    encode = engine.encoder.encode
    encoded = await asyncio.to_thread(lambda: [encode([text]) for text in texts])
    rows = [{name: value[0] for name, value in one.inputs.items()} for one in encoded]
    found = await engine.run(rows, adapter)
    for name in found[0]:
        if len({row[name].shape for row in found}) > 1:
            raise Problem(
                400,
                f"input {TEXT!r}: output {name!r} has a value for each token, so send one text a request",
                param=TEXT,
            )
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def _model(request: Request, service: Service) -> tuple[str, str | None]:
    """Returns the name of the model in the path, and its adapter."""
    name = request.path_params["model"]
    adapter = adapter_of(service.engine.session, name, request.path_params.get("version", VERSION))
    note(request, model=name)
    return name, adapter


def _versions(path: str) -> list[str]:
    """Returns the path of a model with and without its version."""
    return [f"/v2/models/{{model}}{path}", f"/v2/models/{{model}}/versions/{{version}}{path}"]


ROUTES = [
    Route("/v2", server),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    *(Route(path, model) for path in _versions("")),
    *(Route(path, model_ready) for path in _versions("/ready")),
    *(Route(path, infer, methods=["POST"]) for path in _versions("/infer")),
]
