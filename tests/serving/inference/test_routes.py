"""The Open Inference Protocol against the session itself: every form of input and output, and every refusal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder
from tests.served import Client

ADAPTERS = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")
# Rows of a batch of another shape round differently (measured: 2e-7 of logits of about 1).
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def arrays(rows: int = 2, tokens: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 90, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def entry(name: str, value: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "datatype": "INT64", **more}


def in_json(values: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    return {"inputs": [entry(name, value, data=value.tolist()) for name, value in values.items()], **more}


def text_input(*texts: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}]}


def output(answer: Any, name: str = "logits") -> np.ndarray:
    (found,) = [one for one in answer["outputs"] if one["name"] == name]
    return np.array(found["data"], np.float32).reshape(found["shape"])


class TestInference:
    @pytest.mark.parametrize("adapter", ADAPTERS)
    def test_json(self, classifiers: Client, session: AdapterSession, adapter: str) -> None:
        answer = classifiers.post(f"/v2/models/{adapter}/infer", in_json(arrays(), id="seven"))
        assert (answer.status, answer.json["id"], answer.json["model_name"]) == (200, "seven", adapter)
        expected = session.run(arrays(), adapter)["logits"]
        np.testing.assert_allclose(output(answer.json), expected, **CLOSE)

    def test_flat_data_are_the_same(self, classifiers: Client) -> None:
        nested = classifiers.post("/v2/models/ia3_two/infer", in_json(arrays()))
        flat = in_json(arrays())
        for given in flat["inputs"]:
            given["data"] = np.ravel(given["data"]).tolist()
        assert output(classifiers.post("/v2/models/ia3_two/infer", flat).json).tolist() == output(nested.json).tolist()

    def test_binary(self, classifiers: Client, session: AdapterSession) -> None:
        values = arrays(3, 5)
        head = {
            "inputs": [
                entry(name, value, parameters={"binary_data_size": value.nbytes}) for name, value in values.items()
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
        text = json.dumps(head).encode()
        body = text + b"".join(value.astype("<i8").tobytes() for value in values.values())
        headers = {"Inference-Header-Content-Length": str(len(text))}
        answer = classifiers.send("POST", "/v2/models/houlsby_four/infer", body, headers)
        assert answer.status == 200
        split = int(answer.headers["inference-header-content-length"])
        described = json.loads(answer.body[:split])["outputs"][0]
        assert described["shape"] == [3, 4]
        assert described["parameters"] == {"binary_data_size": 48}
        found = np.frombuffer(answer.body[split:], "<f4").reshape(3, 4)
        np.testing.assert_allclose(found, session.run(values, "houlsby_four")["logits"], **CLOSE)

    def test_texts_are_tokenized_here(self, classifiers: Client, session: AdapterSession) -> None:
        texts = ["the team won", "a"]
        answer = classifiers.post("/v2/models/pfeiffer_five/infer", text_input(*texts))
        assert answer.status == 200, answer.body
        encoder = TextEncoder(session.bundle, session.manifest)
        for row, text in zip(output(answer.json), texts, strict=True):
            alone = session.run(encoder.encode([text]).inputs, "pfeiffer_five")["logits"][0]
            np.testing.assert_allclose(row, alone, **CLOSE)

    def test_classes_with_their_labels(self, classifiers: Client, session: AdapterSession) -> None:
        asked = in_json(arrays(), outputs=[{"name": "logits", "parameters": {"classification": 2}}])
        found = classifiers.post("/v2/models/ia3_three/infer", asked).json["outputs"][0]
        assert (found["datatype"], found["shape"]) == ("BYTES", [2, 2])
        logits = session.run(arrays(), "ia3_three")["logits"]
        labels = session.labels("ia3_three")
        assert labels is not None
        for row, texts in zip(logits, np.reshape(found["data"], (2, 2)), strict=True):
            for index, text in zip(np.argsort(-row), texts, strict=False):
                value, place, label = text.split(":")
                assert (int(place), label) == (index, labels[index])
                assert float(value) == pytest.approx(row[index], abs=1e-5)

    def test_requests_for_different_adapters_at_once(self, classifiers: Client, session: AdapterSession) -> None:
        from concurrent.futures import ThreadPoolExecutor

        asked = [(ADAPTERS[n % 5], arrays(1, 3 + n % 9, seed=n)) for n in range(40)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: classifiers.post(f"/v2/models/{one[0]}/infer", in_json(one[1])), asked))
        for answer, (adapter, values) in zip(answers, asked, strict=True):
            assert answer.status == 200
            np.testing.assert_allclose(output(answer.json), session.run(values, adapter)["logits"], **CLOSE)


class TestDescriptions:
    def test_server(self, classifiers: Client) -> None:
        assert classifiers.get("/v2/health/live").json == {"live": True}
        assert classifiers.get("/v2/health/ready").json == {"ready": True}
        found = classifiers.get("/v2").json
        assert found["name"] == "adapter-export"
        assert "model_repository" not in found["extensions"]

    @pytest.mark.parametrize("version", ["", "/versions/1"])
    def test_model(self, classifiers: Client, version: str) -> None:
        found = classifiers.get(f"/v2/models/houlsby_four{version}").json
        assert [one["name"] for one in found["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
        assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}]
        ready = classifiers.get(f"/v2/models/houlsby_four{version}/ready")
        assert (ready.status, ready.json["ready"]) == (200, True)


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("/v2/models/nobody/infer", "model 'nobody': not found"),
            ("/v2/models/ia3_two/versions/2/infer", "model 'ia3_two': not found"),
            ("/v2/models/ia3_two/infers", "POST /v2/models/ia3_two/infers: Not Found"),
        ],
    )
    def test_what_is_not_there(self, classifiers: Client, path: str, message: str) -> None:
        answer = classifiers.post(path, in_json(arrays()))
        assert (answer.status, answer.json) == (404, {"error": message})

    def test_the_wrong_method(self, classifiers: Client) -> None:
        assert classifiers.get("/v2/models/ia3_two/infer").status == 405

    def test_the_base_model_without_labels(self, classifiers: Client) -> None:
        answer = classifiers.post("/v2/models/base/infer", in_json(arrays()))
        assert (answer.status, answer.json["error"]) == (
            400,
            "model 'base': has no labels of its own; choose an adapter",
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"inputs": []}, "input 'input_ids': expected, not found"),
            ({"inputs": "x"}, "inputs: Input should be a valid"),
            ({"outputs": [{"name": "nothing"}]}, "output 'nothing': expected one of logits"),
            ({"outputs": [{"name": "logits"}, {"name": "logits"}]}, "outputs: expected each name once"),
        ],
    )
    def test_a_request_of_another_form(self, classifiers: Client, change: dict[str, Any], message: str) -> None:
        answer = classifiers.post("/v2/models/ia3_two/infer", {**in_json(arrays()), **change})
        assert answer.status == 400
        assert message in answer.json["error"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"datatype": "INT32"}, "input 'input_ids': expected datatype INT64, found 'INT32'"),
            ({"shape": [2, 8]}, "shape [2, 8] does not hold the 14 values"),
            ({"shape": [2, -7]}, "greater than or equal to 0"),
            ({"shape": [14]}, "expected the same number of rows"),
            ({"data": [[1.5] * 7] * 2}, "expected a list of INT64 values"),
            ({"data": [["1"] * 7] * 2}, "expected a list of INT64 values"),
            ({"data": [[True] * 7] * 2}, "expected a list of INT64 values"),
            ({"data": [[2**70] * 7] * 2}, "expected a list of INT64 values"),
            ({"data": [[1] * 7, [1]]}, "expected a list of INT64 values"),
            ({"data": None}, "expected a list of INT64 values"),
            ({"data": [[90000] * 7] * 2}, "cannot run these inputs"),
            ({"data": [[-1] * 7] * 2}, "input 'input_ids': expected tokens from 0, found -1"),
            ({"name": "other"}, "input 'other': expected input_ids, attention_mask, token_type_ids, or text alone"),
            ({"name": "attention_mask"}, "input 'attention_mask': expected once, found several times"),
            ({"parameters": {"binary_data_size": 8}}, "expected data or binary_data_size, found both"),
        ],
    )
    def test_a_tensor_of_another_form(self, classifiers: Client, change: dict[str, Any], message: str) -> None:
        request = in_json(arrays())
        request["inputs"][0] |= change
        answer = classifiers.post("/v2/models/ia3_two/infer", request)
        assert answer.status == 400, answer.body
        assert message in answer.json["error"]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"inputs": 1e999}', b"null"])
    def test_a_body_that_is_no_request(self, classifiers: Client, body: bytes) -> None:
        answer = classifiers.send("POST", "/v2/models/ia3_two/infer", body)
        assert answer.status == 400
        assert answer.json["error"]

    def test_more_tensors_than_any_graph_has(self, classifiers: Client) -> None:
        request = {"inputs": [{"name": f"x{number}", "shape": [], "datatype": "INT64"} for number in range(2000)]}
        answer = classifiers.post("/v2/models/ia3_two/infer", request)
        assert answer.status == 400
        assert "at most 1024 items" in answer.json["error"]

    @pytest.mark.parametrize("length", ["-1", "999999", "x", "1e3", "²"])
    def test_a_wrong_length_of_the_json_part(self, classifiers: Client, length: str) -> None:
        headers = {"Inference-Header-Content-Length": length}
        body = json.dumps(in_json(arrays())).encode()
        if not length.isascii():
            headers = {"Inference-Header-Content-Length": length.encode("latin-1").decode("latin-1")}
        answer = classifiers.send("POST", "/v2/models/ia3_two/infer", body, headers)
        assert answer.status == 400

    @pytest.mark.parametrize("rest", [b"", b"\0" * 100])
    def test_bytes_that_are_missing_or_left_over(self, classifiers: Client, rest: bytes) -> None:
        values = arrays()
        inputs = [entry(name, value, parameters={"binary_data_size": value.nbytes}) for name, value in values.items()]
        text = json.dumps({"inputs": inputs}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        answer = classifiers.send("POST", "/v2/models/ia3_two/infer", text + rest, headers)
        assert answer.status == 400
        assert "bytes after the JSON part" in answer.json["error"]

    def test_more_rows_than_the_queue_takes(self, classifiers: Client) -> None:
        answer = classifiers.post("/v2/models/ia3_two/infer", in_json(arrays(rows=65)))
        assert (answer.status, answer.json["error"]) == (400, "inputs: expected at most 64 rows, found 65")

    def test_a_text_that_is_no_text(self, classifiers: Client) -> None:
        for texts in ([1], [None], [], [["x", 3]]):
            request = {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]}
            assert classifiers.post("/v2/models/ia3_two/infer", request).status == 400

    def test_a_writer_does_not_infer(self, writers: Client) -> None:
        answer = writers.post("/v2/models/ia3/infer", in_json(arrays()))
        assert answer.status == 400
        assert "/v1/completions" in answer.json["error"]
