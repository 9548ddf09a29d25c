"""`check_parity`: right bundles of every mode and task pass, faint adapters are inconclusive, bad input is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError, ProviderError
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.parity import pytorch_models
from adapter_export.parity import run as module
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.retries import Measured, Rerun
from adapter_export.parity.report import NO_ADAPTER, ParityReport, summary
from adapter_export.parity.run import check_parity
from tests.bundles import Exported
from tests.cuda.machine import why_not_on_gpu
from tests.parity.mutants import with_faint

CHECKS = ["files", "labels", "tokens", "base", "witness", "swap", "rows", "provider"]


def judged(exported: Exported) -> ParityReport:
    return check_parity(exported.bundle, exported.base, exported.adapters)


def reasons(report: ParityReport) -> list[tuple[str, ...]]:
    return [item.judgement.reasons for item in report.results if item.judgement.reasons]


def test_every_adapter_of_a_bundle_and_none(swappable_bundle: Exported) -> None:
    done: list[tuple[int, int]] = []
    files = sorted(swappable_bundle.bundle.rglob("*"))
    report = check_parity(
        swappable_bundle.bundle, swappable_bundle.base, swappable_bundle.adapters, progress=lambda *n: done.append(n)
    )
    assert report.verdict is Verdict.PASS, reasons(report)
    assert [check.name for check in report.checks] == CHECKS
    rows = {row["adapter"]: row for row in summary(report)}
    assert list(rows) == [NO_ADAPTER, *swappable_bundle.adapters]
    assert done == [(n, 32) for n in range(32)]
    for name in swappable_bundle.adapters:
        assert rows[name]["cases"] == {"pass": 32, "inconclusive": 0, "fail": 0}
        # The errors have the size of float32's rounding, and the effect is that of the body.
        assert 1e-8 < rows[name]["error"] < 1e-5
        assert 1e-8 < rows[name]["off_error"] < 1e-5
        assert rows[name]["effect"] > 0.01
        assert rows[name]["cosine"] > 1 - 1e-8
    # Without a head there is nothing to measure, and the report says so.
    assert rows[NO_ADAPTER]["error"] is None
    assert any("no task head" in note for note in report.notes)
    assert report.placement == {"CPUExecutionProvider": 1.0}
    assert sorted(swappable_bundle.bundle.rglob("*")) == files


def test_a_bank_is_judged_in_mixed_batches(bank_bundle: Exported) -> None:
    report = judged(bank_bundle)
    assert report.verdict is Verdict.PASS, reasons(report)
    for name in bank_bundle.adapters:
        assert all(item.judgement.error and item.judgement.error.max < 1e-5 for item in report.of(name))
    assert any("beside rows of other adapters" in note for note in report.notes)


def test_a_base_model_with_a_head_is_measured_without_an_adapter(headed_bundle: Exported) -> None:
    report = judged(headed_bundle)
    assert report.verdict is Verdict.PASS, reasons(report)
    assert all(item.judgement.error and item.judgement.error.max < 1e-5 for item in report.of(NO_ADAPTER))
    assert report.notes == ()


def test_every_output_is_judged(features_bundle: Exported) -> None:
    report = judged(features_bundle)
    assert report.verdict is Verdict.PASS, reasons(report)
    assert {item.output for item in report.results} == {"last_hidden_state", "pooler_output"}
    assert {item.adapter for item in report.results} == {NO_ADAPTER, "ia3", "pfeiffer"}


@pytest.mark.parametrize("bundle", ["merged_bundle", "embedded_bundle"])
def test_a_graph_without_an_off_state(bundle: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    (name,) = (info for info in exported.adapters if info in ("ia3_three", "houlsby_four"))
    report = check_parity(exported.bundle, exported.base, {name: exported.adapters[name]})
    assert report.verdict is Verdict.PASS, reasons(report)
    assert {item.adapter for item in report.results} == {name}
    assert all(item.judgement.off_error is None and item.judgement.cosine for item in report.results)
    assert "no state without its adapter" in report.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "task"), [("vit", "image-classification"), ("llama", "causal-lm")])
def test_images_and_language_models(
    model_type: str,
    task: str,
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base, info = (make(model_type, task, num_hidden_layers=1) for make in (tiny_model, tiny_info))
    adapters = {
        "ia3": save_checkpoint(random_adapter(info, "ia3", 1), info),
        "houlsby": save_checkpoint(random_adapter(info, "bottleneck", 2), info),
    }
    export_onnx(base, adapters, tmp_path / "bundle", mode="swappable", task=task, cache=False)
    report = check_parity(tmp_path / "bundle", base, adapters)
    assert report.verdict is Verdict.PASS, reasons(report)
    assert len(report.results) == (3 if model_type == "vit" else 32) * 3


# Adapters with little or no effect


def test_a_decoder_with_a_cache(llama_bundle: Exported) -> None:
    report = judged(llama_bundle)
    assert report.verdict is Verdict.PASS, reasons(report)
    rows = {row["adapter"]: row for row in summary(report)}
    assert list(rows) == [NO_ADAPTER, *llama_bundle.adapters]
    for row in rows.values():
        assert row["cases"] == {"pass": 33, "inconclusive": 0, "fail": 0}
        assert 1e-8 < row["error"] < 1e-5
        assert row["tokens"] == {"count": 64, "clear": 64, "agreed": 64, "differing": ()}
    assert [check.name for check in report.checks] == [
        "files",
        "labels",
        "tokens",
        "base",
        "witness",
        "swap",
        "rows",
        "provider",
        "greedy",
    ]
    assert report.checks[-1].detail == "192 tokens, 192 with a clear margin, 192 of them PyTorch's"
    assert {result.output for result in report.results} == {"logits"}


@pytest.mark.parametrize("bundle", ["t5_bundle", "whisper_bundle"])
def test_an_encoder_and_a_decoder_in_two_graphs(bundle: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    report = judged(exported)
    assert report.verdict is Verdict.PASS, reasons(report)
    rows = {row["adapter"]: row for row in summary(report)}
    assert list(rows) == [NO_ADAPTER, *exported.adapters]
    assert {result.output for result in report.results} == {"logits", "encoder_last_hidden_state"}
    for row in rows.values():
        assert row["cases"]["pass"] == (2 * 32 if bundle == "t5_bundle" else 2 * 18) + 1
        assert 1e-8 < row["error"] < 1e-5
        assert row["tokens"] == {"count": 64, "clear": 64, "agreed": 64, "differing": ()}
    assert report.notes == ()


def test_an_adapter_of_the_decoder_alone(
    t5_bundle: Exported,
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    info = read_manifest(t5_bundle.bundle).base
    whole = random_adapter(info, "ia3")
    sites = {site: site_adapter for site, site_adapter in whole.sites.items() if site.module.startswith("decoder.")}
    late = save_checkpoint(replace(whole, sites=sites), info)
    copied = Path(shutil.copytree(t5_bundle.bundle, tmp_path / "copied"))
    add_adapter(copied, {"late": late})
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: [ParityCase(2, 9, "left"), ParityCase(1, 1)])
    report = check_parity(copied, t5_bundle.base, {**t5_bundle.adapters, "late": late})
    assert report.verdict is Verdict.PASS, reasons(report)
    assert report.notes == ("adapter late changes nothing of encoder_last_hidden_state, in PyTorch neither",)
    shown = {item.output: item.judgement for item in report.of("late") if item.case.length == 9}
    assert shown["logits"].effect is not None
    assert (shown["encoder_last_hidden_state"].effect, shown["encoder_last_hidden_state"].cosine) == (None, None)
    # The encoder's output with the adapter is judged nevertheless.
    assert shown["encoder_last_hidden_state"].error is not None


@pytest.mark.parametrize("size", [0, 1e-6])
def test_a_faint_adapter_is_inconclusive(size: float, swappable_bundle: Exported, tmp_path: Path) -> None:
    report = judged(with_faint(size, swappable_bundle, "ia3_two", tmp_path))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert {item.judgement.verdict for item in report.of("faint")} == {Verdict.INCONCLUSIVE}
    assert all("too little to tell" in item.judgement.reasons[0] for item in report.of("faint"))


# Repeated cases


@pytest.mark.parametrize("bundle", ["swappable_bundle", "llama_bundle"])
def test_a_case_is_repeated_with_the_same_inputs_and_with_new_ones(
    bundle: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: [ParityCase(2, 9, "left")])
    seen: list[ParityCase] = []
    further: list[bool] = []

    def repeat(measured: Measured, criteria: object, rerun: Rerun) -> list[str]:
        for case in next(iter(measured.values())):
            seen.append(case)
            same, other = rerun(case, 0, 5), rerun(case, 1, 1)
            for key in measured:
                first, again, drawn = (found.on for found in (measured[key][case], same[key], other[key]))
                if first is None:  # no head, no numbers
                    continue
                assert again is not None
                assert drawn is not None
                assert (again.actual, again.squares) == (first.actual, first.squares)
                assert first.target.max <= again.target.max < 20 * first.target.max
                further.append(again.target.max > first.target.max)
                assert drawn.squares != first.squares
        return ["looked again"]

    monkeypatch.setattr(module, "retry_sensitive_cases", repeat)
    report = judged(exported)
    assert report.verdict is Verdict.PASS, reasons(report)
    assert "looked again" in report.notes
    assert any(further)
    assert [case.name for case in seen] == ["2 x 9 left", *(["4 x 13 + 16 greedy"] if bundle == "llama_bundle" else [])]


# Refused arguments


def test_an_adapter_of_the_bundle_that_is_not_given(swappable_bundle: Exported) -> None:
    given = {name: path for name, path in swappable_bundle.adapters.items() if name != "ia3_two"}
    with pytest.raises(InputError, match="holds adapter 'ia3_two': expected --adapter ia3_two=DIR"):
        check_parity(swappable_bundle.bundle, swappable_bundle.base, given)


def test_an_adapter_that_the_bundle_does_not_have(swappable_bundle: Exported) -> None:
    given = {**swappable_bundle.adapters, "other": swappable_bundle.adapters["ia3_two"]}
    with pytest.raises(InputError, match=r"--adapter other: not in bundle .* \(it has: houlsby_four, "):
        check_parity(swappable_bundle.bundle, swappable_bundle.base, given)


def test_another_base_model(swappable_bundle: Exported, tiny_model: Callable[..., Path]) -> None:
    other = tiny_model("bert", "text-classification")
    assert weights_sha256(other) != weights_sha256(swappable_bundle.base)
    with pytest.raises(InputError, match=r"weights are \w{12}\.\.\., but the bundle was made from \w{12}\.\.\."):
        check_parity(swappable_bundle.bundle, other, swappable_bundle.adapters)


def test_an_adapter_of_another_base_model(
    swappable_bundle: Exported, tiny_info: Callable[..., ModelInfo], save_checkpoint: Callable[..., Path]
) -> None:
    info = tiny_info("bert", "text-classification")
    adapter = load_adapter(swappable_bundle.adapters["ia3_two"], replace(info, sha256=""))
    other = save_checkpoint(replace(adapter, base_sha256=info.sha256), info)
    with pytest.raises(InputError, match="field 'base_sha256': trained on a base model with weights"):
        check_parity(swappable_bundle.bundle, swappable_bundle.base, {**swappable_bundle.adapters, "ia3_two": other})


def test_another_adapter_under_the_name(swappable_bundle: Exported) -> None:
    given = {**swappable_bundle.adapters, "houlsby_two": swappable_bundle.adapters["ia3_two"]}
    report = check_parity(swappable_bundle.bundle, swappable_bundle.base, given)
    assert report.verdict is Verdict.FAIL
    failed = {item.adapter for item in report.results if item.judgement.verdict is Verdict.FAIL}
    assert failed == {"houlsby_two"}


def test_a_flipped_file_fails_before_anything_is_run(swappable_bundle: Exported, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "copy"))
    path = copied / "adapters/pfeiffer_five.onnx_adapter"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    report = check_parity(copied, swappable_bundle.base, swappable_bundle.adapters)
    assert report.verdict is Verdict.FAIL
    assert report.results == ()
    assert [check.detail.partition(":")[0] for check in report.checks] == [str(path)]


def test_a_folder_that_is_no_bundle(swappable_bundle: Exported, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected manifest\.json"):
        check_parity(tmp_path, swappable_bundle.base, {})


# CUDA


def test_cuda_without_a_gpu_is_an_error(swappable_bundle: Exported) -> None:
    if why_not_on_gpu() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(ProviderError, match="'cuda'"):
        check_parity(swappable_bundle.bundle, swappable_bundle.base, swappable_bundle.adapters, provider="cuda")
