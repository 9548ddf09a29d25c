"""What an application on Ray can be told."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter_export.errors import InputError
from adapter_export.serving.ray import build
from adapter_export.serving.ray.arguments import checked

ROOT = Path(__file__).resolve().parents[3]


def test_texts_of_a_command_line_become_values(tmp_path: Path) -> None:
    found = checked({"bundle": str(tmp_path), "max_batch": "8", "max_replicas": "3", "cpus": "0.5"})
    assert (found.bundle, found.max_batch, found.max_replicas, found.cpus) == (tmp_path, 8, 3, 0.5)
    settings = found.settings()
    assert (settings.bundle, settings.max_batch, settings.token) == (tmp_path, 8, None)
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_config_file_of_the_page() -> None:
    page = (ROOT / "docs/ray.md").read_text(encoding="utf-8")
    (application,) = yaml.safe_load(page.partition("<<END\n")[2].partition("\nEND")[0])["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    assert checked(application["args"]).max_replicas == 8
    assert [deployment["name"] for deployment in application["deployments"]] == ["Ingress", "Replica"]


def test_the_token_is_read_where_it_is_used(tmp_path: Path) -> None:
    found = checked({"bundle": tmp_path, "token_file": tmp_path / "token"})
    with pytest.raises(InputError, match="token"):
        found.settings()
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    assert found.settings().token == "secret"
    assert b"secret" not in pickle.dumps(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "bundle: Field required"),
        ({"bundle": "b", "maxbatch": 3}, "maxbatch: "),
        ({"bundle": "b", "max_batch": "many"}, "max_batch: "),
        ({"bundle": "b", "max_batch": 0}, "max_batch: expected a whole number from 1"),
        ({"bundle": "b", "replicas": 0}, "replicas: "),
        ({"bundle": "b", "min_replicas": 2}, "min_replicas: expected only with max_replicas"),
        ({"bundle": "b", "target_requests": 2}, "target_requests: expected only with max_replicas"),
        ({"bundle": "b", "min_replicas": 3, "max_replicas": 2}, "min_replicas: expected at most 2, found 3"),
        ({"bundle": "b", "replicas": 2, "max_replicas": 2}, "replicas: expected only without max_replicas"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(given)
    assert str(caught.value).startswith(message)
    with pytest.raises((InputError, ModuleNotFoundError)):
        build(given)
