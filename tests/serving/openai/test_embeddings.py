"""Embeddings of texts: pooled as the folder of the model says, against float64 arithmetic on the hidden states."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.bundle.pooling import Pooling, PoolingKind
from adapter_export.export.export import export_onnx
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder
from tests.bundles import Exported
from tests.served import Client, serving

TEXTS = ["the cat sat", "a dog ran fast in the house"]


def pooled(folder: Path, source: Exported, pooling: Pooling) -> Path:
    shutil.copytree(source.bundle, folder / "bundle")
    write_manifest(folder / "bundle", replace(read_manifest(folder / "bundle"), pooling=pooling))
    return folder / "bundle"


@pytest.fixture(scope="module", params=[Pooling(PoolingKind.MEAN, True), Pooling(PoolingKind.CLS, False)], ids=str)
def served(
    request: pytest.FixtureRequest, features_bundle: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Path, Pooling]]:
    bundle = pooled(tmp_path_factory.mktemp("pooled"), features_bundle, request.param)
    with serving(bundle) as client:
        yield client, bundle, request.param


def expected(bundle: Path, adapter: str | None, text: str, pooling: Pooling) -> np.ndarray:
    with AdapterSession(bundle) as session:
        inputs = TextEncoder(bundle, session.manifest).encode([text]).inputs
        hidden = session.run(inputs, adapter)["last_hidden_state"][0].astype(np.float64)
    vector: np.ndarray = hidden.mean(axis=0) if pooling.kind is PoolingKind.MEAN else hidden[0]
    return vector / np.linalg.norm(vector) if pooling.normalize else vector


@pytest.mark.parametrize("model", ["base", "ia3"])
def test_vectors(served: tuple[Client, Path, Pooling], model: str) -> None:
    client, bundle, pooling = served
    answer = client.post("/v1/embeddings", {"model": model, "input": TEXTS})
    assert answer.status == 200, answer.body
    for number, text in enumerate(TEXTS):
        one = answer.json["data"][number]
        assert (one["index"], one["object"]) == (number, "embedding")
        right = expected(bundle, None if model == "base" else model, text, pooling)
        np.testing.assert_allclose(one["embedding"], right, rtol=1e-4, atol=1e-5)
    packed = client.post("/v1/embeddings", {"model": model, "input": TEXTS[0], "encoding_format": "base64"}).json
    found = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(found, answer.json["data"][0]["embedding"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"input": []}, 400),
        ({"input": ""}, 400),
        ({"input": [1, 2]}, 400),
        ({"input": "a " * 2000}, 400),
        ({"dimensions": 7}, 400),
        ({"encoding_format": "xml"}, 400),
        ({"model": "other"}, 404),
    ],
)
def test_refusals(served: tuple[Client, Path, Pooling], change: dict[str, object], status: int) -> None:
    answer = served[0].post("/v1/embeddings", {"model": "base", "input": "the cat", **change})
    assert answer.status == status, answer.body


def test_without_a_pooling(classifiers: Client) -> None:
    answer = classifiers.post("/v1/embeddings", {"model": "ia3_two", "input": "x"})
    assert answer.status == 404
    assert "names no pooling" in answer.json["error"]["message"]


def test_an_export_records_what_the_model_says(features_bundle: Exported, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(features_bundle.base, model)
    types = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    (model / "modules.json").write_text(json.dumps([{"type": name, "path": "pool"} for name in types]))
    (model / "pool").mkdir()
    (model / "pool" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    export_onnx(model, {}, tmp_path / "bundle", mode="merged", task="features")
    assert read_manifest(tmp_path / "bundle").pooling == Pooling(PoolingKind.MEAN, True)
