"""A real Ray cluster of three nodes on this machine: an update under load, a node that ends under load, and scoring."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.bundle.remove import remove_adapter
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

ROWS = 600

pytestmark = [
    pytest.mark.slow,
    # Where Ray puts the replicas depends on the load of the machine.
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="kills the processes of a node as Linux lists them"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def found(
    on_ray: Callable[..., dict[str, Any]],
    folder: Path,
    bank_bundle: Exported,
    write_rows: Callable[[Path, int], Path],
) -> dict[str, Any]:
    """What clients saw, see node_loss.py."""
    shutil.copytree(bank_bundle.bundle, folder / "smaller")
    remove_adapter(folder / "smaller", ["pfeiffer_five"])
    rows = write_rows(folder / "rows.jsonl", ROWS)
    return on_ray("node_loss", folder / "smaller", bank_bundle.bundle, rows, folder / "scores.jsonl")


def test_the_server_answers_through_ray(found: dict[str, Any], session: AdapterSession) -> None:
    assert [model["name"] for model in found["models"]] == ["base", *session.adapters]
    assert found["unknown"] == [404, {"error": "model 'nobody': not found"}]
    assert found["metrics"][0] == 404


def test_an_adapter_stays_with_the_replica_that_has_it(found: dict[str, Any]) -> None:
    processes = {adapter: set(files) for adapter, files in found["routed"].items()}
    assert [len(files) for files in processes.values()] == [1, 1, 1]
    # Adapters are spread over the replicas.
    assert len(set().union(*processes.values())) > 1


def test_no_request_fails_during_an_update(
    found: dict[str, Any], check_answers: Callable[[list[dict[str, Any]]], None]
) -> None:
    seen = found["during the update"]
    assert {(one["status"], one["retries"]) for one in seen} == {(200, 0)}
    check_answers(seen)
    # An adapter that the bundle before has not, and the bundle after has.
    assert found["before"] == 404
    assert "pfeiffer_five" in [model["name"] for model in found["models"]]


def test_no_request_is_lost_when_a_node_ends(
    found: dict[str, Any], check_answers: Callable[[list[dict[str, Any]]], None]
) -> None:
    # Whether the node has a proxy at that moment is up to Ray.
    assert found["killed"]["Replica"] == found["killed"]["raylet"] == 1
    seen = found["under load"]
    retries = [one["retries"] for one in seen]
    by_ingress = sum(one["by ingress"] for one in seen)
    slowest = max(one["seconds"] for one in seen)
    print(
        f"{len(seen)} requests; {sum(retries)} times one was sent again, {by_ingress} of these by the ingress, at most "
        f"{max(retries)} times the same; the slowest took {slowest:.1f} s"
    )
    assert {one["status"] for one in seen} == {200}
    assert max(retries) <= 2
    # The node's replica had begun some when it ended.
    assert by_ingress >= 1
    check_answers(seen)


def test_a_request_that_is_sent_again_keeps_its_id(found: dict[str, Any]) -> None:
    seen = found["under load"]
    assert all(one["same id"] for one in seen)
    logged = {line["request_id"]: line["attempt"] for line in found["logged"] if line["status"] == 200}
    assert logged == {one["id"]: one["by ingress"] for one in seen if one["by ingress"]}


def test_scores_are_those_of_one_process(
    found: dict[str, Any], folder: Path, check_scores: Callable[[Path, Path], None]
) -> None:
    assert found["scored"] == 0
    check_scores(folder / "rows.jsonl", folder / "scores.jsonl")
