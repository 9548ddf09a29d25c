"""The token, the size of bodies, and times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.bundles import Exported
from tests.served import Client, serving

INFER = "/v2/models/ia3_two/infer"
TOKEN = {"Authorization": "Bearer right"}
REQUEST = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won"]}]}


@pytest.fixture(scope="module")
def guarded(bank_bundle: Exported) -> Iterator[Client]:
    with serving(bank_bundle.bundle, token="right", max_body=2000) as client:
        yield client


class TestToken:
    @pytest.mark.parametrize(
        "given", ["", "right", "Bearer", "Bearer wrong", "Bearer right2", "Basic right", "Bearer \xe9"]
    )
    def test_another_token_is_refused(self, guarded: Client, given: str) -> None:
        for path in (INFER, "/metrics", "/v1/models", "/nothing"):
            answer = guarded.post(path, REQUEST, Authorization=given)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("given", ["Bearer right", "bearer right"])
    def test_the_token_is_accepted(self, guarded: Client, given: str) -> None:
        assert guarded.post(INFER, REQUEST, Authorization=given).status == 200
        assert guarded.get("/metrics", Authorization=given).status == 200

    def test_health_needs_none(self, guarded: Client) -> None:
        assert guarded.get("/v2/health/live").status == 200
        assert guarded.get("/v2/health/ready").status == 200


class TestBodies:
    def test_a_large_body_is_refused_before_it_is_read(self, guarded: Client) -> None:
        connection = guarded.connect()
        connection.putrequest("POST", INFER)
        connection.putheader("Authorization", "Bearer right")
        connection.putheader("Content-Length", "2001")
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()

    def test_a_length_that_is_not_stated(self, guarded: Client) -> None:
        connection = guarded.connect()
        connection.request("POST", INFER, iter([b"x" * 1000] * 3), TOKEN, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read()) == {"error": "body: expected at most 2000 bytes"}
        connection.close()

    def test_compressed_bodies_are_refused(self, guarded: Client) -> None:
        answer = guarded.send("POST", INFER, b"x", {**TOKEN, "Content-Encoding": "gzip"})
        assert answer.status == 415


def test_a_body_has_so_much_time(bank_bundle: Exported) -> None:
    with serving(bank_bundle.bundle, seconds=0.3) as client:
        connection = client.connect()
        connection.putrequest("POST", INFER)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        response = connection.getresponse()
        assert response.status == 408
        assert json.loads(response.read()) == {"error": "body: not complete within 0.3 seconds"}
        connection.close()
        assert client.post(INFER, REQUEST).status == 200


def test_a_request_has_so_much_time(export_cached: Callable[..., Exported]) -> None:
    with serving(export_cached("llama", mode="bank").bundle, seconds=0.2, max_batch=1) as client:
        asked = {"model": "ia3", "prompt": "the cat", "max_tokens": 60, "temperature": 1.0, "n": 16, "seed": 1}
        began = time.monotonic()
        answer = client.post("/v1/completions", asked)
        assert time.monotonic() - began < 10
        assert (answer.status, answer.json["error"]["type"]) == (504, "server_error")
        streamed = client.post("/v1/completions", {**asked, "stream": True})
        assert streamed.status == 200
        assert "not finished within 0.2 seconds" in streamed.events[-1]["error"]["message"]
        assert client.application is not None
        generator = client.application.service.engine.generator
        assert generator is not None
        while generator.statistics().running:
            time.sleep(0.01)
