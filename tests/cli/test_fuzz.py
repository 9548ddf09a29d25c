"""No file makes a command end with exit 3, which is for mistakes of ours: a seeded selection. `make fuzz` has more."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles import Exported
from tests.fuzz.commands import Subject, trial
from tests.merging.models import write_adapter, write_model

# Of each kind of folder; more by FUZZ_TRIALS=10000, other ones by FUZZ_SEED.
TRIALS = int(os.environ.get("FUZZ_TRIALS", "60"))
SEED = os.environ.get("FUZZ_SEED", "")
# ONNX Runtime can end the process for a graph that was changed: `tests.fuzz.commands` gives it none, and the digests of
# a bundle are what keeps one that was damaged from it.
GRAPHS = (".onnx", ".onnx.data")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an IA3 adapter for it, by PEFT's format."""
    folder = tmp_path_factory.mktemp("plain")
    write_model(folder / "model", shards=2)
    write_adapter(folder / "adapter", target_modules=r".*(k_proj|v_proj|down_proj)")
    return folder


@pytest.fixture
def subjects(
    swappable_bundle: Exported,
    llama_bundle: Exported,
    plain: Path,
    classifier_checkpoints: dict[str, Path],
    tmp_path: Path,
) -> Callable[[str], Subject]:
    def make(kind: str) -> Subject:
        inspect = ("inspect", "{it}")
        good = classifier_checkpoints["ia3_two"]
        spare = str(tmp_path / "spare")
        match kind:
            case "bundle":
                run = ("run", "--bundle", "{it}", "--adapter", "ia3_two", "--text", "a good day", "--text", "so bad")
                add = ("add", "--bundle", "{it}", "--adapter", f"new={good}")
                return Subject(swappable_bundle.bundle, (inspect, run, run, add), GRAPHS)
            case "decoder":
                run = ("run", "--bundle", "{it}", "--adapter", "ia3", "--text", "a good day", "--max-new-tokens", "3")
                return Subject(llama_bundle.bundle, (run, run, run, inspect), GRAPHS)
            case "peft":
                merge = ("merge", "--model", str(plain / "model"), "--adapter", "{it}", "--output", "{out}")
                return Subject(plain / "adapter", (inspect, merge, merge))
            case "model":
                merge = ("merge", "--model", "{it}", "--adapter", str(plain / "adapter"), "--output", "{out}")
                return Subject(plain / "model", (inspect, merge, merge))
            case _:
                import shutil

                shutil.copytree(swappable_bundle.bundle, spare, dirs_exist_ok=True)
                add = ("add", "--bundle", spare, "--force", "--adapter", "houlsby_four={it}")
                return Subject(classifier_checkpoints["houlsby_four"], (inspect, add, add))

    return make


@pytest.mark.parametrize("kind", ["bundle", "decoder", "peft", "model", "adapterhub"])
def test_no_file_ends_with_exit_3(kind: str, subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    subject = subjects(kind)
    ends = Counter(trial(subject, f"{SEED}{kind} {number}", tmp_path / "work") for number in range(TRIALS))
    codes = Counter(end.partition(": exit ")[2][0] for end in ends.elements())
    # Some changes matter to nobody, most are seen.
    assert codes["2"] > TRIALS // 5
    assert codes["0"] > 0
