"""The samples for JavaScript, in the real onnxruntime-node, which reads required inputs alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapter_export.runtime.session import AdapterSession
from tests import node
from tests.bundles import Exported

TOKENS = [2, 17, 5, 40, 9, 3]
# float32, another version of ONNX Runtime.
TOLERANCE = 1e-5


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    node.beside(tmp_path)

    def run_in_node(bundle: Path) -> subprocess.CompletedProcess[str]:
        command = ["node", str(tmp_path / "run.mjs"), str(bundle), *map(str, TOKENS)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run_in_node


def test_every_adapter_and_none(
    required_bundle: Exported, run: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    done = run(required_bundle.bundle)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    ids = np.array([TOKENS])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with AdapterSession(required_bundle.bundle) as session:
        assert [*answers] == ["", *session.adapters]
        for name, outputs in answers.items():
            expected = session.run(inputs, name or None)["logits"]
            assert outputs["logits"]["dims"] == list(expected.shape)
            np.testing.assert_allclose(outputs["logits"]["data"], expected.ravel(), rtol=0, atol=TOLERANCE)


def test_a_changed_file_is_refused(
    required_bundle: Exported, run: Callable[[Path], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    path = copied / "adapters" / "ia3_two.onnx_adapter"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run(copied)
    assert done.returncode != 0
    assert "ia3_two.onnx_adapter: not the file that the manifest lists" in done.stderr
