"""A real Ray cluster with two applications from a config file: their growth, streams, limits and metrics."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.serving.ray.wanted import LONG, MOST, PROMPT, SHORT

ROWS = 6000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="kills the processes of a node as Linux lists them"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployed")


@pytest.fixture(scope="module")
def writers(export_cached: Callable[..., Exported]) -> Path:
    """A language model with room for long texts."""
    return export_cached("llama", mode="bank", max_position_embeddings=LONG + 100).bundle


@pytest.fixture(scope="module")
def found(
    on_ray: Callable[..., dict[str, Any]],
    folder: Path,
    bank_bundle: Exported,
    writers: Path,
    write_rows: Callable[[Path, int], Path],
) -> dict[str, Any]:
    """What clients saw, see deployed.py."""
    rows = write_rows(folder / "rows.jsonl", ROWS)
    return on_ray("deployed", bank_bundle.bundle, writers, rows, folder / "scores.jsonl")


def test_replicas_follow_the_load(found: dict[str, Any], check_answers: Callable[[list[dict[str, Any]]], None]) -> None:
    grown = found["grown"]
    assert (grown["before"], grown["after"]) == (1, MOST)
    assert {(one["status"], one["retries"]) for one in grown["seen"]} == {(200, 0)}
    check_answers(grown["seen"])


def test_each_node_has_an_ingress(found: dict[str, Any]) -> None:
    assert found["ingresses"] == [1, 1, 1]


def test_a_stream_has_the_text_of_a_session(found: dict[str, Any], writers: Path) -> None:
    with AdapterSession(writers) as session:
        texts = PromptTexts(writers)
        ids = texts.encode(PROMPT["prompt"])
        (row,) = session.generate([ids], PROMPT["model"], max_new_tokens=SHORT).completions()
        expected = texts.completion(ids, row.tokens)
    streamed = found["streamed"]
    assert (streamed["status"], streamed["type"].partition(";")[0]) == (200, "text/event-stream")
    *events, last = streamed["events"]
    assert last == "[DONE]"
    assert len(events) >= SHORT
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == expected
    assert streamed["whole"]["choices"][0]["text"] == streamed["after"]["choices"][0]["text"] == expected


def test_a_client_that_leaves_ends_its_stream(found: dict[str, Any]) -> None:
    (line,) = found["streamed"]["left"]
    print(f"a client that left after 3 events: {line['completion_tokens']} tokens were made")
    assert 3 <= line["completion_tokens"] < LONG / 30


def test_a_stream_whose_replica_ends_is_broken_off_and_not_begun_again(found: dict[str, Any]) -> None:
    events = found["streamed"]["broken"]
    assert 3 <= len(events) < LONG
    assert "[DONE]" not in events
    assert found["streamed"]["broken attempts"] == []


def test_more_requests_than_may_wait_are_refused(found: dict[str, Any]) -> None:
    statuses = [status for status, _ in found["refused"]]
    assert set(statuses) == {200, 429}
    assert {after for status, after in found["refused"] if status == 429} == {"1"}


def test_the_metrics_count_what_is_sent_again(
    found: dict[str, Any], check_answers: Callable[[list[dict[str, Any]]], None]
) -> None:
    seen = found["counted"]["seen"]
    assert {one["status"] for one in seen} == {200}
    assert max(one["retries"] for one in seen) <= 2
    assert found["counted"]["metric"] == sum(one["by ingress"] for one in seen) > 0
    check_answers(seen)


def test_rows_of_a_node_that_ends_are_scored_by_another(
    found: dict[str, Any], folder: Path, check_scores: Callable[[Path, Path], None]
) -> None:
    assert found["killed"]
    assert found["running"]
    assert found["scored"] == 0
    check_scores(folder / "rows.jsonl", folder / "scores.jsonl")
