"""The adapter that a request is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.serving.ray.routing import Adapters, model_of
from tests.bundles import Exported


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v2/models/topics/infer", b"\xff", "topics"),
        ("/v2/models/topics/versions/1/infer", b"", "topics"),
        ("/v2/models/topics", b"", "topics"),
        ("/v2/models/", b"", None),
        ("/v2/repository/models/topics/load", b"", "topics"),
        ("/v1/models/topics", b"", "topics"),
        ("/v2/health/ready", b'{"model": "topics"}', None),
        ("/v1/completions", b'{"model": "topics", "prompt": "a"}', "topics"),
        ("/v1/chat/completions", b'{"model": "topics"}', "topics"),
        ("/v1/embeddings", b'{"model": "topics"}', "topics"),
        ("/v1/completions", b'{"model": ["topics"]}', None),
        ("/v1/completions", b'["topics"]', None),
        ("/v1/completions", b"{", None),
        ("/v1/completions", b"\xff", None),
        ("/v1/completions", b"[" * 100_000, None),
    ],
)
def test_the_name_in_a_request(path: str, body: bytes, name: str | None) -> None:
    assert model_of(path, body) == name


def test_an_adapter_that_is_added_is_known(swappable_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle"))
    adapters = Adapters(bundle)
    assert "ia3_two" in adapters
    assert "base" not in adapters
    assert "another" not in adapters
    add_adapter(bundle, {"another": swappable_bundle.adapters["ia3_two"]})
    assert "another" in adapters
    (bundle / "manifest.json").unlink()
    assert "another" in adapters
