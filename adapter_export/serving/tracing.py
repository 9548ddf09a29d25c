"""Traces for OpenTelemetry, if its package `opentelemetry-api` is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.types import Scope


@contextlib.contextmanager
def span(scope: Scope, facts: Mapping[str, Any]) -> Iterator[None]:
    """Traces a request as a span, which continues the trace that the request's headers name.

    Args:
        scope: The request.
        facts: What is noted about it meanwhile, such as `model`; it becomes the attributes of the span.
    """
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        yield
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    tracer = trace.get_tracer("adapter_export.serving")
    kind = trace.SpanKind.SERVER
    with tracer.start_as_current_span(f"{scope['method']}", propagate.extract(headers), kind=kind) as current:
        try:
            yield
        finally:
            current.update_name(f"{scope['method']} {facts.get('endpoint', '')}".strip())
            for name, value in facts.items():
                current.set_attribute(f"adapter_export.{name}", value)
