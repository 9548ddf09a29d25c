"""Metrics: what was counted is what happened."""

from __future__ import annotations

import re

from tests.bundles import Exported
from tests.served import Client, serving

REQUEST = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["the team won", "a cat sat"]}]}


def metrics(client: Client) -> dict[str, float]:
    text = client.get("/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}


def test_requests_rows_loads_and_evictions(bank_bundle: Exported) -> None:
    with serving(bank_bundle.bundle, slots=1) as client:
        for model in ("ia3_two", "ia3_three", "ia3_two", "nobody"):
            client.post(f"/v2/models/{model}/infer", REQUEST)
        found = metrics(client)
    infer = 'endpoint="/v2/models/{model}/infer"'
    prefix = "adapter_export_"
    assert found[f'{prefix}requests_total{{{infer},model="ia3_two",status="200"}}'] == 2
    assert found[f'{prefix}requests_total{{{infer},model="",status="404"}}'] == 1
    assert found[f'{prefix}request_seconds_count{{{infer},model="ia3_three"}}'] == 1
    assert found[f'{prefix}adapter_rows_total{{model="ia3_two"}}'] == 4
    assert found[f'{prefix}adapter_loads_total{{model="ia3_two"}}'] == 2
    assert found[f'{prefix}adapter_evictions_total{{model="ia3_two"}}'] == 1
    assert found[f"{prefix}batch_rows_total"] == 6
    assert found[f"{prefix}running_requests"] == 1  # the request for the metrics
    assert found[f"{prefix}ready"] == 1


def test_tokens(writers: Client) -> None:
    before = metrics(writers)
    body = {"model": "ia3", "prompt": "the cat", "max_tokens": 7, "temperature": 0, "n": 2}
    writers.post("/v1/completions", body)
    after = metrics(writers)
    assert after["adapter_export_generated_tokens_total"] - before["adapter_export_generated_tokens_total"] == 14
    assert after["adapter_export_generating_rows"] == 0
