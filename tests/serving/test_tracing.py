"""Traces, by a stand-in for OpenTelemetry that records what it is told."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.served import Client


class Spans:
    """Records spans: name, attributes, and what the trace continues."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.attributes: list[dict[str, Any]] = []
        self.continued: list[str | None] = []

    @contextlib.contextmanager
    def start_as_current_span(self, name: str, context: str | None, kind: str) -> Iterator[SimpleNamespace]:
        assert kind == "server"
        self.names.append(name)
        self.continued.append(context)
        self.attributes.append(own := {})
        yield SimpleNamespace(update_name=lambda new: self.names.__setitem__(-1, new), set_attribute=own.__setitem__)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    spans, package = Spans(), ModuleType("opentelemetry")
    kinds = SimpleNamespace(SERVER="server")
    package.trace = SimpleNamespace(get_tracer=lambda _: spans, SpanKind=kinds)  # type: ignore[attr-defined]
    package.propagate = SimpleNamespace(extract=lambda headers: headers.get("traceparent"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry", package)
    return spans


def test_each_request_is_a_span_of_the_trace_it_names(classifiers: Client, spans: Spans) -> None:
    classifiers.get("/v2/models/ia3_two", traceparent="00-abc")
    classifiers.get("/v2/models/nobody")
    assert spans.names == ["GET /v2/models/{model}"] * 2
    assert spans.continued == ["00-abc", None]
    assert spans.attributes[0]["adapter_export.model"] == "ia3_two"
    assert "adapter_export.model" not in spans.attributes[1]


def test_without_the_package_requests_are_answered(classifiers: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert classifiers.get("/v2").status == 200
