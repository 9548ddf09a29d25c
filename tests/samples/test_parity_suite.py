"""The sample of a repository that tests a bundle, where this package is really installed, and PyTorch is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import load_base
from samples import environments
from samples.assets import AssetError
from tests.bundles import Exported
from tests.parity.mutants import Mutant, make, without
from tests.recorded import SHAPES, Recorded

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples/parity_suite"
TEXT = "what a lovely day"


def output(*command: str | Path) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Python with the base install, and a folder in which this package is installed as a user gets it."""
    try:
        python = environments.python(environments.BASE)
    except AssetError as error:
        pytest.skip(str(error))
    # A copy, as a build writes beside the sources.
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "adapter_export", source / "adapter_export", ignore=ignored)
    pip = (sys.executable, "-m", "pip")
    output(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
    (wheel,) = wheels.glob("*.whl")
    output(*pip, "--python", python, "install", "--quiet", "--no-deps", "--target", site, wheel)
    return python, site


@pytest.fixture(scope="module")
def topics(
    tiny_model: Callable[..., Path],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    export: Callable[..., Exported],
    record: Callable[..., Recorded],
) -> Recorded:
    base = tiny_model("bert")
    info: ModelInfo = load_base(base, "text-classification").info
    adapters = {"topics": save_checkpoint(random_adapter(info, "ia3", 3, labels=("food", "sport")), info)}
    return record(export(base, adapters), SHAPES, [TEXT])


def run(installed: tuple[Path, Path], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    python, site = installed
    command = [str(python), "-W", "error", "-m", "pytest", "-q", "--junitxml=parity.xml", *options]
    environment = {"PYTHONPATH": str(site), "PATH": "", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.real
@pytest.mark.slow
def test_the_sample(installed: tuple[Path, Path], topics: Recorded, tmp_path: Path) -> None:
    python, _ = installed
    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'peft') if u.find_spec(n)])"
    assert output(python, "-c", code).strip() == "[]"
    folder = tmp_path / "repository"
    shutil.copytree(SAMPLE, folder)
    shutil.copytree(topics.exported.bundle, folder / "bundle")
    shutil.copy(topics.file, folder / "parity.npz")
    done = run(installed, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {case.get("name") for case in ET.parse(folder / "parity.xml").iter("testcase")}
    assert {"test_case[base-1x1]", "test_case[topics-3x9-left]", "test_case[topics-text-1]", "test_an_answer"} <= names
    assert len(names) == 2 * (len(SHAPES) + 1) + 2
    # The same tests in two processes, on a wrong bundle.
    shutil.rmtree(folder / "bundle")
    make(Mutant("dropped", "", "topics", without("encoder.layer.1.", ".ia3.")), topics.exported, folder / "bundle")
    done = run(installed, folder, "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    failures = {
        case.get("name"): item.get("message", "")
        for case in ET.parse(folder / "parity.xml").iter("testcase")
        for item in case.iter("failure")
    }
    cases = {name for name in names if name and name.startswith("test_case[topics")}
    assert {*failures} == {*cases, "test_files_labels_and_tokens", "test_an_answer"}
    assert "fail: topics, case 3 x 9 left, logits: e(O) = " in failures["test_case[topics-3x9-left]"]
