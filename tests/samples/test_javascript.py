"""The package for JavaScript: its own tests and types, and in the real onnxruntime-node against AdapterSession."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from adapter_export.bundle.adapter_format import BrokenAdapter, parse_adapter
from adapter_export.runtime.session import AdapterSession
from adapter_export.runtime.text import probabilities
from tests import node
from tests.bundles import Exported

HERE = Path(__file__).parent
LICENSE = node.SAMPLES.parent / "LICENSE"
TOKENS = [2, 17, 5, 40, 9, 3]
# float32, another version of ONNX Runtime.
TOLERANCE = 1e-5

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Called as (script, *arguments, input=): runs it in Node, beside onnxruntime-node and the package."""
    folder = tmp_path_factory.mktemp("node")
    node.beside(folder)
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, folder)

    def run(name: str, *arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["node", str(folder / name), *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with what it is developed with."""
    folder = tmp_path_factory.mktemp("package") / "javascript"
    shutil.copytree(node.JAVASCRIPT, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(node.locked(node.JAVASCRIPT))
    return folder


def passed(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests(package: Path) -> None:
    assert "\n# fail 0\n" in passed(package, "node", "--test", "--test-reporter=tap")


def test_its_types(package: Path) -> None:
    """The sources and a user's code are right by them, and the files are what the sources give."""
    tsc = "node_modules/.bin/tsc"
    passed(package, tsc)
    passed(package, tsc, "--project", "test")
    passed(package, tsc, "--noEmit", "false", "--emitDeclarationOnly", "--outDir", "fresh")
    fresh, kept = ({path.name: path.read_text() for path in (package / name).iterdir()} for name in ("fresh", "types"))
    assert fresh == kept, "run `npm run types` in samples/javascript"


def test_what_would_be_published(package: Path) -> None:
    (packed,) = json.loads(passed(package, "npm", "pack", "--dry-run", "--json", "--ignore-scripts"))
    files = {item["path"] for item in packed["files"]}
    assert {"package.json", "README.md", "LICENSE", "src/index.js", "types/index.d.ts"} <= files
    assert {name.partition("/")[0] for name in files} == {"package.json", "README.md", "LICENSE", "src", "types"}
    assert (package / "LICENSE").read_bytes() == LICENSE.read_bytes()
    described = json.loads((package / "package.json").read_text())
    assert "dependencies" not in described
    assert all(described["peerDependenciesMeta"][name]["optional"] for name in described["peerDependencies"])


def found_in(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_answers(found: dict[str, Any], bundle: Path) -> None:
    """Every adapter, and none, has the numbers of AdapterSession."""
    ids = np.array([TOKENS])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with AdapterSession(bundle) as session:
        assert [*found["outputs"]] == ["", *session.adapters]
        assert [*found["answers"]] == [*session.adapters]
        for name, answer in found["answers"].items():
            expected = session.run(inputs, name)["logits"][0]
            assert answer["labels"] == list(session.labels(name) or ())
            np.testing.assert_allclose(answer["logits"], expected, rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(answer["probabilities"], probabilities(expected), rtol=0, atol=TOLERANCE)
            if found["rows"] is not None:
                row = found["rows"][session.adapters.index(name)]
                np.testing.assert_allclose(row["logits"], expected, rtol=0, atol=TOLERANCE)
        if found["rows"] is None:
            none = session.run(inputs)["logits"]
            assert found["outputs"][""]["dims"] == list(none.shape)
            np.testing.assert_allclose(found["outputs"][""]["data"], none.ravel(), rtol=0, atol=TOLERANCE)


def test_adapters_as_inputs(required_bundle: Exported, script: Script) -> None:
    found = found_in(script("run_bundle.mjs", required_bundle.bundle, *TOKENS))
    assert found["rows"] is None
    check_answers(found, required_bundle.bundle)


def test_a_bank(bank_bundle: Exported, script: Script) -> None:
    found = found_in(script("run_bundle.mjs", bank_bundle.bundle, *TOKENS))
    assert found["rows"] is not None
    check_answers(found, bank_bundle.bundle)


def test_weights_beside_the_graph(required_bundle: Exported, script: Script, tmp_path: Path) -> None:
    """As a bundle has them whose weights are larger than 64 MiB."""
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    graph = onnx.load(copied / "model.onnx")
    onnx.save(graph, copied / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1000)
    assert (copied / "model.onnx.data").stat().st_size > 10_000
    relist(copied, "model.onnx", "model.onnx.data")
    check_answers(found_in(script("run_bundle.mjs", copied, *TOKENS)), required_bundle.bundle)


def relist(bundle: Path, *files: str) -> None:
    """Write the digests of files into the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in files:
        manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_the_example(required_bundle: Exported, script: Script) -> None:
    answers = found_in(script("run.mjs", required_bundle.bundle, *TOKENS))
    found = found_in(script("run_bundle.mjs", required_bundle.bundle, *TOKENS))
    assert answers == found["answers"]


def test_a_changed_file_is_refused(required_bundle: Exported, script: Script, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(required_bundle.bundle, tmp_path / "copied"))
    path = copied / "adapters" / "ia3_two.onnx_adapter"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = script("run.mjs", copied, *TOKENS)
    assert done.returncode != 0
    assert "BundleError: adapters/ia3_two.onnx_adapter: expected sha256" in done.stderr


def test_damaged_files_are_refused_as_in_python(required_bundle: Exported, script: Script) -> None:
    """The reader of the package and that of the runtime agree on every file, and on every tensor of it."""
    good = (required_bundle.bundle / "adapters" / "pfeiffer_five.onnx_adapter").read_bytes()
    files = [good, *damaged(good, 1000)]
    done = script("read_adapters.mjs", text=json.dumps([base64.b64encode(file).decode() for file in files]))
    assert done.returncode == 0, done.stderr
    accepted = 0
    for file, verdict in zip(files, json.loads(done.stdout), strict=True):
        try:
            places = parse_adapter(file).places
        except BrokenAdapter:
            assert "refused" in verdict
            continue
        if "refused" in verdict:
            # What Python reads as views and JavaScript would copy; and numbers that JavaScript does not have.
            assert verdict["refused"].endswith(("tensors overlap", "data type 16 is not supported"))
            continue
        accepted += 1
        found = {name: (dtype, dims, base64.b64decode(data)) for name, dtype, dims, data in verdict["tensors"]}
        expected = {name: place.tensor(file) for name, place in places.items()}
        assert found == {
            name: (tensor.dtype.name, list(tensor.shape), tensor.tobytes()) for name, tensor in expected.items()
        }
    assert 100 < accepted < len(files) - 100


def damaged(good: bytes, count: int) -> list[bytes]:
    """Files with one to four bytes changed in the part before the numbers of the last tensor, or cut short."""
    rng = random.Random(0)
    files = []
    for _ in range(count):
        data = bytearray(good)
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        files.append(bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]))
    return files
