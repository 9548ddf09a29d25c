"""`check_parity` on the GPU: right bundles pass by their witnesses, wrong ones fail; the command says where it ran."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.export.export import export_onnx
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.providers import Provider
from tests.bundles import Exported
from tests.cuda.law import assert_passes

GOLDENS = Path(__file__).parents[1] / "goldens"


def test_every_shape_with_every_adapter(
    swappable_bundle: Exported, provider: Provider, figure: Callable[[str], None]
) -> None:
    """IA3 by PEFT itself, which shares no code with this package."""
    report = check_parity(swappable_bundle.bundle, swappable_bundle.base, swappable_bundle.adapters, provider=provider)
    assert_passes(report, provider, figure)
    assert {report.witnesses[name].partition(" ")[0] for name in ("ia3_two", "ia3_three")} == {"peft"}


@pytest.mark.usefixtures("few_shapes")
@pytest.mark.parametrize("bundle", ["lora_bundle", "bank_bundle", "embedded_bundle", "merged_bundle"])
def test_other_modes(
    bundle: str, provider: Provider, figure: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    report = check_parity(exported.bundle, exported.base, exported.adapters, provider=provider)
    assert_passes(report, provider, figure)
    if bundle == "lora_bundle":
        assert report.witnesses["lora"].startswith("peft ")


@pytest.mark.usefixtures("few_shapes")
@pytest.mark.parametrize("bundle", ["llama_bundle", "t5_bundle"])
def test_generated_text(
    bundle: str, provider: Provider, figure: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    report = check_parity(exported.bundle, exported.base, exported.adapters, provider=provider)
    assert_passes(report, provider, figure)
    assert [check.verdict for check in report.checks if check.name == "greedy"] == [Verdict.PASS]


def test_by_a_record_of_the_library_that_trained_the_adapter(provider: Provider, tmp_path: Path) -> None:
    """A bottleneck of AdapterHub's library, with what that library computes."""
    case, bundle = "bert-learned-scaling", tmp_path / "bundle"
    base, adapter = GOLDENS / "adapterhub" / case / "base", GOLDENS / "adapterhub" / case / "adapter"
    export_onnx(base, {"topics": adapter}, bundle, mode="swappable")
    report = check_parity(bundle, references={"topics": GOLDENS / "records" / f"{case}.npz"}, provider=provider)
    assert report.verdict is Verdict.PASS, report
    assert report.witnesses["topics"].startswith("recorded by adapters ")


@pytest.mark.usefixtures("few_shapes")
def test_another_adapter_under_the_name_fails(swappable_bundle: Exported, provider: Provider) -> None:
    given = {**swappable_bundle.adapters, "houlsby_two": swappable_bundle.adapters["ia3_two"]}
    report = check_parity(swappable_bundle.bundle, swappable_bundle.base, given, provider=provider)
    assert report.verdict is Verdict.FAIL
    failed = {item.adapter for item in report.results if item.judgement.verdict is Verdict.FAIL}
    assert failed == {"houlsby_two"}


def test_the_command_judges_by_a_record_without_pytorch(
    swappable_bundle: Exported, provider: Provider, tmp_path: Path, few_shapes: None
) -> None:
    """The record is of the CPU's PyTorch; a process of its own judges the GPU by it."""
    record = tmp_path / "parity.npz"
    check_parity(swappable_bundle.bundle, swappable_bundle.base, swappable_bundle.adapters, record=record)
    bundle = shutil.copytree(swappable_bundle.bundle, tmp_path / "bundle")
    command = [sys.executable, "-m", "adapter_export", "parity", "--bundle", str(bundle), "--reference", str(record)]
    done = subprocess.run(
        [*command, "--provider", str(provider), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    # No library but our own computes the bottlenecks of this bundle.
    assert (found["verdict"], found["provider"]) == ("pass (unwitnessed)", str(provider))
