"""Killed at any moment, the output is absent or complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapter_export.merging.merge import merge
from tests.merging.models import write_adapter, write_model


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".adapter-export"}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are a matter of Unix")
@pytest.mark.parametrize("old", [False, True])
def test_absent_or_complete(old: bool, tmp_path: Path) -> None:
    write_model(tmp_path / "model", shards=2)
    write_adapter(tmp_path / "adapter")
    if old:
        merge(tmp_path / "model", write_adapter(tmp_path / "before", 2), tmp_path / "old")
    result = subprocess.run(
        [sys.executable, "-m", "tests.merging.killed", str(tmp_path)], capture_output=True, text=True, check=True
    )
    steps = int(result.stdout)
    assert steps > 30
    complete = content(tmp_path / f"after-{steps}" / "out")
    assert "adapter_export.json" in complete
    allowed = [complete, content(tmp_path / "old")] if old else [complete]
    absent = 0
    for number in range(1, steps):
        output = tmp_path / f"after-{number}" / "out"
        if output.exists():
            assert content(output) in allowed, number
        else:
            absent += 1
        # The next command removes whatever else is left.
        merge(tmp_path / "model", tmp_path / "adapter", output, force=True)
        assert [path.name for path in output.parent.iterdir()] == ["out"]
        assert content(output) == complete
    # With --force there is no moment without an output.
    assert absent == 0 if old else absent > 20
