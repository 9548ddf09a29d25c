"""Scripts that start a Ray cluster of their own, in Ray's environment, and what their answers are compared with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.cli.scoring import Scoring, read_requests, score_here
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import TextEncoder
from samples import environments
from samples.assets import AssetError
from tests.bundles import Exported

ROOT = Path(__file__).resolve().parents[3]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SECONDS = 600
# Ray gives each node 30 seconds to start, whatever else the machine does.
STARTS, TOO_SLOW = 3, "timed out during startup"
SCORED = ("ia3_two", "houlsby_four", "pfeiffer_five")


@pytest.fixture(scope="module")
def on_ray() -> Callable[..., dict[str, Any]]:
    """Called as (script, *arguments) -> the JSON object that a module of this folder prints in Ray's environment."""
    try:
        python = environments.python(environments.RAY)
    except AssetError as error:
        pytest.skip(str(error))

    def run(script: str, *arguments: Path) -> dict[str, Any]:
        command = [str(part) for part in (python, "-m", f"tests.serving.ray.{script}", *arguments)]
        for _ in range(STARTS):
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
            )
            if TOO_SLOW not in done.stderr:
                break
        assert done.returncode == 0, done.stderr[-5000:]
        print(done.stderr[-3000:])
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen

    return run


@pytest.fixture(scope="module")
def check_answers(session: AdapterSession) -> Callable[[list[dict[str, Any]]], None]:
    """Called with what clients have seen: each answer is that of its own adapter for its own text, and of no other."""

    def check(seen: list[dict[str, Any]]) -> None:
        encoder = TextEncoder(session.bundle, session.manifest)
        texts = {one["text"] for one in seen}
        expected = {
            (adapter, text): session.run(encoder.encode([text]).inputs, adapter)["logits"][0]
            for text in texts
            for adapter in session.adapters
        }
        for one in seen:
            for adapter in session.adapters:
                other = np.tile(expected[adapter, one["text"]], one["rows"])
                same = other.size == len(one["logits"]) and np.allclose(one["logits"], other, **CLOSE)
                assert same == (adapter == one["adapter"]), one

    return check


@pytest.fixture(scope="module")
def check_scores(bank_bundle: Exported) -> Callable[[Path, Path], None]:
    """Called as (rows, scores): each row has the result of a process alone, in the same order."""

    def check(rows: Path, scores: Path) -> None:
        requests = read_requests(rows, "text", None)
        alone = b"".join(score_here(Scoring(bank_bundle.bundle), requests)).decode().splitlines()
        found = scores.read_text(encoding="utf-8").splitlines()
        assert len(found) == len(alone) == len(rows.read_text(encoding="utf-8").splitlines())
        for one, other in zip(map(json.loads, found), map(json.loads, alone), strict=True):
            assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), rel=1e-4)
            assert one.pop("probability") == pytest.approx(other.pop("probability"), rel=1e-4)
            assert one == other

    return check


@pytest.fixture(scope="module")
def write_rows() -> Callable[[Path, int], Path]:
    """Called as (path, number) -> a file of so many rows, of three adapters in turns."""

    def write(path: Path, number: int) -> Path:
        rows = [{"text": f"the cat sat {'on ' * (i % 5)}", "adapter": SCORED[i % 3]} for i in range(number)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return path

    return write
