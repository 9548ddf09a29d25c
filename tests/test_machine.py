"""What a measurement ran on, as far as the system tells."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from adapter_export import machine
from adapter_export.machine import this_machine


def test_this_machine() -> None:
    found = this_machine()
    assert abs(datetime.fromisoformat(found.date) - datetime.now(timezone.utc)) < timedelta(seconds=10)
    assert found.cores == os.cpu_count()
    assert platform.machine() in found.system
    assert found.versions["numpy"] == np.__version__
    assert found.versions["adapter-export"] == version("adapter-export")
    assert "black" not in found.versions


@pytest.mark.parametrize(
    ("text", "name"),
    [("processor\t: 0\nmodel name\t: A B @ 2 GHz\nmodel name\t: C\n", "A B @ 2 GHz"), ("processor\t: 0\n", None)],
)
def test_the_processor(text: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model where the system states it, as on Linux; else what Python knows, at least the architecture."""
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert this_machine().processor == (name or platform.processor() or platform.machine())
