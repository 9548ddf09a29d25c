"""The endpoints that load and unload adapters: the protocol's extension for model repositories."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapter_export.serving.names import VERSION, served_names
from adapter_export.serving.problems import Problem
from adapter_export.serving.repository.board import Repository
from adapter_export.serving.service import note, service_of


async def index(request: Request) -> Response:
    """Lists the models. Adapters of the bundle that are not in memory are loaded when they are used."""
    service = service_of(request)
    state = "READY" if service.ready else "UNAVAILABLE"
    names = served_names(service.engine.session)
    return JSONResponse([{"name": name, "version": VERSION, "state": state, "reason": ""} for name in names])


async def load(request: Request) -> Response:
    """Loads an adapter. The answer comes when every worker has done it."""
    name = request.path_params["model"]
    note(request, action="load")
    await _repository(request).load(name)
    note(request, model=name)
    return JSONResponse({})


async def unload(request: Request) -> Response:
    """Unloads an adapter. The answer comes when every worker has done it."""
    name = request.path_params["model"]
    note(request, action="unload")
    await _repository(request).unload(name)
    note(request, model=name)
    return JSONResponse({})


def _repository(request: Request) -> Repository:
    if (repository := service_of(request).repository) is None:
        raise Problem(403, "adapters cannot be loaded or unloaded: the server was started without --adapters FOLDER")
    return repository


ROUTES = [
    Route("/v2/repository/index", index, methods=["POST"]),
    Route("/v2/repository/models/{model}/load", load, methods=["POST"]),
    Route("/v2/repository/models/{model}/unload", unload, methods=["POST"]),
]
