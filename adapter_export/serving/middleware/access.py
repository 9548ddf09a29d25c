"""Logs and counts every request, and turns errors into answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_export.serving.problems import CLIENT_CLOSED, ClientGone, Problem, problem_of
from adapter_export.serving.service import Service
from adapter_export.serving.tracing import span

# Asked every few seconds by orchestrators.
_QUIET = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})

log = logging.getLogger("adapter_export.serving")


class Access:
    """The outermost layer. A request gets one line in the log, without anything of its texts or tensors."""

    def __init__(self, app: ASGIApp, service: Service, routes: Sequence[Route]) -> None:
        """Wraps the application.

        Args:
            app: The layers inside.
            service: The service.
            routes: The endpoints.
        """
        self._app, self._service, self._routes = app, service, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service, began = self._service, time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        service.metrics.begun()
        # The path with the names of its parameters. Other paths could be anything.
        endpoint = next((route.path for route in self._routes if route.matches(scope)[0] is not Match.NONE), "")
        facts = scope.setdefault("adapter_export", {})
        facts["endpoint"] = endpoint
        failure = None
        try:
            with span(scope, facts):
                await self._app(scope, receive, watched)
        except (ClientDisconnect, ClientGone):
            status = CLIENT_CLOSED
        except Exception as error:  # of any kind: the client gets an answer
            failure = error
            problem = _problem(error, service)
            if not status:
                await _answer(scope, problem)(scope, receive, watched)
            status = problem.status
        finally:
            seconds = time.perf_counter() - began
            service.metrics.ended(endpoint, facts.get("model", ""), status or CLIENT_CLOSED, seconds)
            line = {"method": scope["method"], **facts, "status": status or CLIENT_CLOSED}
            internal = failure is not None and problem_of(failure) is None
            level = logging.DEBUG if endpoint in _QUIET else logging.INFO
            log.log(
                logging.ERROR if internal else level,
                "request",
                exc_info=failure if internal else None,
                extra={"facts": {**line, "seconds": round(seconds, 6)}},
            )


def _problem(error: Exception, service: Service) -> Problem:
    problem = problem_of(error)
    if problem is None:
        return Problem(500, "internal error; the server's log has more")
    # Clients need not know where files are.
    problem.message = problem.message.replace(str(service.settings.bundle), "bundle")
    if service.settings.adapters is not None:
        problem.message = problem.message.replace(str(service.settings.adapters), "adapters")
    return problem


def _answer(scope: Scope, problem: Problem) -> Response:
    """Returns a problem in the form of the API that was called."""
    return JSONResponse(problem_body(scope["path"], problem), problem.status, problem.headers)


def problem_body(path: str, problem: Problem) -> dict[str, object]:
    """Returns the body of a response with a problem.

    Args:
        path: The path of the request. OpenAI's API has another form than the Open Inference Protocol.
        problem: The problem.
    """
    if not path.startswith("/v1"):
        return {"error": problem.message}
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    code = codes.get(problem.status)
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": code}}


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
