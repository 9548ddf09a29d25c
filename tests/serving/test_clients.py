"""Clients that others wrote, each in an environment of its own, against the session itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.runtime.generation.chat import render_chat
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.session import AdapterSession
from samples import environments
from samples.assets import AssetError
from tests.bundles import Exported
from tests.served import Client, serving

FOLDER = Path(__file__).parent / "clients"
TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
PROMPT = "the cat sat on"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of the clients' environment."""
    try:
        return environments.python(environments.CLIENTS)
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chatting(export_cached: Callable[..., Exported], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of a tiny LLaMA with a chat template."""
    bundle = tmp_path_factory.mktemp("chatting") / "bundle"
    shutil.copytree(export_cached("llama", mode="bank").bundle, bundle)
    (bundle / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return bundle


@pytest.fixture(scope="module")
def chat_server(chatting: Path) -> Iterator[Client]:
    with serving(chatting) as client:
        yield client


def use(python: Path, script: str, *arguments: object) -> Any:
    command = [str(python), "-W", "error::DeprecationWarning:__main__", str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_tritonclient(classifiers: Client, session: AdapterSession, python: Path) -> None:
    found = use(python, "use_tritonclient.py", classifiers.port, "houlsby_four", 11)
    ids = np.random.default_rng(11).integers(5, 90, (3, 6))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    expected = session.run(arrays, "houlsby_four")["logits"]
    for name in ("binary=True", "binary=False", "default, binary=True", "default, binary=False"):
        np.testing.assert_allclose(found[name], expected, **CLOSE, err_msg=name)
    for one in found["async"]:
        np.testing.assert_allclose(one, expected, **CLOSE)
    labels = session.labels("houlsby_four")
    assert labels is not None
    for name in ("classes, binary=True", "classes, binary=False"):
        assert [text.split(":")[2] for text in found[name]] == [labels[row.argmax()] for row in expected]
    assert np.shape(found["text"]) == (1, 4)
    assert found["unknown"] == ["404", "model 'nobody': not found"]
    assert found["live"] == [True, True, True]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["names"] == ["base", *session.adapters]


def test_openai(chat_server: Client, chatting: Path, python: Path) -> None:
    found = use(python, "use_openai.py", chat_server.port, "houlsby", PROMPT)
    with AdapterSession(chatting) as session:
        texts = PromptTexts(chatting)

        def greedy(ids: list[int]) -> str:
            (row,) = session.generate([ids], "houlsby", max_new_tokens=9).completions()
            return texts.completion(ids, row.tokens)

        expected = greedy(texts.encode(PROMPT))
        chat = greedy(texts.encode(render_chat(chatting, [{"role": "user", "content": PROMPT}]), special=False))
    assert [found["whole"], found["stream"], *found["many"]] == [expected] * 10
    assert [found["chat"], found["chat stream"]] == [chat] * 2
    assert found["models"] == ["base", "ia3", "houlsby"]
    assert found["logprob"] < 0
    assert found["usage"] == 9 + len(texts.encode(PROMPT))
    assert found["chat usage"] == 9
    assert found["errors"] == {
        "model": ["NotFoundError", 404],
        "field": ["BadRequestError", 400],
        "value": ["BadRequestError", 400],
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(classifiers: Client) -> None:
    text = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won"]}]}'
    url = f"http://127.0.0.1:{classifiers.port}/v2/models/ia3_two/infer"
    # "Expect: 100-continue" is what curl sends before a large body.
    command = ["curl", "--silent", "--show-error", "--fail", "--header", "Expect: 100-continue", "--data", text, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [1, 2]


def test_locust(classifiers: Client, python: Path, tmp_path: Path) -> None:
    command = [str(python), "-m", "locust", "--headless", "--users", "32", "--spawn-rate", "32", "--run-time", "3s"]
    host = f"http://127.0.0.1:{classifiers.port}"
    command += ["--locustfile", str(FOLDER / "locustfile.py"), "--host", host, "--json", "--only-summary"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 5  # an entry for each model
    assert sum(one["num_requests"] for one in found) > 32
    assert sum(one["num_failures"] for one in found) == 0
