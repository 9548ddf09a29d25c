"""Checkpoints at the edges of AdapterHub's format: what the library `adapters` computed with them, and what we do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.tensor_files import read_tensors
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import complete_head
from adapter_export.models.injection import inject
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.runtime.session import AdapterSession

GOLDENS = Path(__file__).parent / "adapterhub-borders"
# Largest difference allowed where outputs are of order 1, from rounding the stored outputs; and in float32.
TOLERANCE, IN_FLOAT32 = 5e-6, 1e-5
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@dataclass(frozen=True)
class Case:
    """task: what the adapter is used for. asked: whether the user has to say so. classes: number of them. labels,
    problem_type: see `Adapter`."""

    task: str = "text-classification"
    classes: int = 0
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None
    asked: bool = False

    @property
    def output(self) -> str:
        return "last_hidden_state" if self.task == "features" else "logits"


CASES = {
    "bart-default-head": Case(classes=2, problem_type=SINGLE),
    "bert-default-head": Case(classes=2, labels=("neg", "pos"), problem_type=SINGLE),
    "bert-mlm-base-without-pooler": Case("features", asked=True),
    "bert-multilabel-head": Case(classes=4, labels=("a", "b", "c", "d"), problem_type=MULTI),
    "bert-named-adapters": Case(classes=3),
    "bert-qa-head": Case("features", asked=True),
    "bert-string-config": Case(classes=3),
    "bert-tagging-head": Case("features", asked=True),
    "qwen2-interface-extended": Case("causal-lm"),
    "qwen2-interface-pfeiffer": Case("causal-lm"),
    "roberta-legacy-v1": Case(classes=2, problem_type=SINGLE),
}

# Their graphs are like those of others.
THOROUGH = {"bert-tagging-head", "qwen2-interface-extended"}


def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / case / "io.npz") as golden:
        return {name: golden[name] for name in golden.files}


def base_of(case: str) -> BaseModel:
    import torch

    labels = [f"c{number}" for number in range(CASES[case].classes)] or None
    return load_base(GOLDENS / case / "base", CASES[case].task, labels=labels, dtype=torch.float64)


def difference(case: str, found: np.ndarray, which: str) -> float:
    """The largest from the library's output `on` or `off`, at positions that are no padding."""
    golden = arrays(case)
    if case == "bert-tagging-head":
        # The library's output is that of the head, which is left out here: a linear layer over the body's.
        head = read_tensors(GOLDENS / case / "adapter/pytorch_model_head.bin")
        found = found @ head["heads.ner.1.weight"].T + head["heads.ner.1.bias"]
    difference, mask = np.abs(found - golden[which]), golden["attention_mask"].astype(bool)
    return float((difference[mask] if difference.shape[:2] == mask.shape else difference).max())


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_the_library(case: str) -> None:
    """These were refused, computed otherwise, or without a word on what they mean."""
    import torch

    base = base_of(case)
    adapter = load_adapter(GOLDENS / case / "adapter", base.info)
    assert (adapter.labels, adapter.problem_type) == (CASES[case].labels, CASES[case].problem_type)
    assert adapter.num_labels == (CASES[case].classes or None)
    golden = arrays(case)
    inputs = {name: torch.from_numpy(array) for name, array in golden.items() if name not in ("on", "off")}
    injection = inject(base.module, complete_head(base.module, base.info.head, adapter))
    with torch.no_grad():
        on = base.module(**inputs)[CASES[case].output].numpy()
        with injection.disabled():
            off = base.module(**inputs)[CASES[case].output].numpy()
    assert difference(case, off, "on") > 0.1, "a golden adapter must matter"
    assert difference(case, on, "on") < TOLERANCE
    if "off" in golden:
        assert difference(case, off, "off") < TOLERANCE


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("bert-tagging-head", "head_type 'tagging' in head_config.json: found a head for token-classification"),
        ("bert-qa-head", "model_class 'BertForQuestionAnswering' in head_config.json: found a head for question-answ"),
    ],
)
def test_heads_that_no_graph_has_are_refused_by_name(case: str, told: str, tmp_path: Path) -> None:
    adapter = GOLDENS / case / "adapter"
    for task in ("auto", "text-classification"):
        with pytest.raises(InputError) as error:
            export_onnx(GOLDENS / case / "base", {"t": adapter}, tmp_path / "b", mode="embedded", task=task)
        assert told in str(error.value)
        assert "--task features exports the body without the head" in str(error.value)
    assert not (tmp_path / "b").exists()


def test_no_case_is_left_out() -> None:
    assert {folder.name for folder in GOLDENS.iterdir()} == set(CASES)


def outputs(folder: Path, manifest: Manifest, case: str, adapter: str | None) -> np.ndarray:
    """Of the graph in plain ONNX Runtime: none of our code has a part in the run."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / manifest.model, options, providers=["CPUExecutionProvider"])
    golden = arrays(case)
    feeds = {value.name: golden.get(value.name, np.zeros_like(golden["input_ids"])) for value in session.get_inputs()}
    run, swapped = ort.RunOptions(), ort.LoraAdapter()
    if adapter is not None:
        swapped.Load(str(folder / "adapters" / f"{adapter}.onnx_adapter"))
        run.add_active_adapter(swapped)
    result: np.ndarray = session.run([CASES[case].output], feeds, run)[0]
    return result


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.thorough) if case in THOROUGH else case
        for case in sorted(set(CASES) - {"bert-default-head"})
    ],
)
def test_in_onnx_runtime(case: str, tmp_path: Path) -> None:
    about = CASES[case]
    manifest = export_onnx(
        GOLDENS / case / "base",
        {"t": GOLDENS / case / "adapter"},
        tmp_path / "bundle",
        mode="swappable",
        task=about.task if about.asked else "auto",
        cache=False,
    )
    assert manifest.task == about.task
    assert difference(case, outputs(tmp_path / "bundle", manifest, case, "t"), "on") < IN_FLOAT32
    if "off" in arrays(case):
        assert difference(case, outputs(tmp_path / "bundle", manifest, case, None), "off") < IN_FLOAT32


@dataclass(frozen=True)
class Mixed:
    """A base model with a head of its own, the golden adapter with pooler and classifier, one with a classifier alone,
    and what each should give: by name, None for no adapter."""

    base: Path
    adapters: Mapping[str, Path]
    expected: Mapping[str | None, np.ndarray]
    case: str = "bert-default-head"


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory,
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Mixed:
    import torch

    case = "bert-default-head"
    folder = tmp_path_factory.mktemp("mixed") / "base"
    headed = load_base(GOLDENS / case / "base", "text-classification", labels=["down", "up", "aside"])
    torch.manual_seed(5)
    headed.module.classifier.weight.data.normal_()
    headed.module.save_pretrained(folder)
    base = load_base(folder, "text-classification", dtype=torch.float64)
    plain = random_adapter(base.info, "bottleneck", labels=("one", "two", "three", "four"), placement="pfeiffer")
    adapters = {"default": GOLDENS / case / "adapter", "plain": save_checkpoint(plain, base.info)}
    golden = arrays(case)
    inputs = {name: torch.from_numpy(array) for name, array in golden.items() if name not in ("on", "off")}
    expected: dict[str | None, np.ndarray] = {"default": golden["on"]}
    with torch.no_grad():
        expected[None] = base.module(**inputs).logits.numpy()
        inject(base.module, plain)
        expected["plain"] = base.module(**inputs).logits.numpy()
    return Mixed(folder, adapters, expected)


@pytest.mark.parametrize("mode", ["swappable", "bank"])
def test_a_pooler_in_one_head_changes_no_other(mode: str, mixed: Mixed, tmp_path: Path) -> None:
    """The pooler of a default head is swapped with it; who brings none goes on with the base model's."""
    bundle = tmp_path / "bundle"
    manifest = export_onnx(mixed.base, mixed.adapters, bundle, mode=mode)
    assert manifest.base.head == ("bert.pooler.dense", "classifier")
    golden = arrays(mixed.case)
    feeds = {name: array for name, array in golden.items() if name not in ("on", "off")}
    feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    with AdapterSession(bundle) as session:
        for name, expected in mixed.expected.items():
            found = session.run(feeds, adapters=[name] * len(expected))["logits"]
            assert np.abs(found - expected).max() < IN_FLOAT32
    report = check_parity(bundle, mixed.base, mixed.adapters)
    assert report.verdict is Verdict.PASS, report

    with pytest.raises(InputError, match=r"task head: expected bert\.pooler\.dense, classifier for"):
        add_adapter(bundle, {"again": mixed.adapters["plain"]})
    add_adapter(bundle, {"again": mixed.adapters["default"]})
    with AdapterSession(bundle) as session:
        found = session.run(feeds, adapters=["again"] * 3)["logits"]
        assert np.abs(found - mixed.expected["default"]).max() < IN_FLOAT32


def test_a_graph_without_the_pooler_takes_no_head_that_brings_one(mixed: Mixed, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    manifest = export_onnx(mixed.base, {"plain": mixed.adapters["plain"]}, bundle, mode="swappable")
    assert manifest.base.head == ("classifier",)
    with pytest.raises(InputError, match=r"its head begins with the pooler .*export the bundle anew"):
        add_adapter(bundle, {"default": mixed.adapters["default"]})


def test_merging_a_head_that_begins_with_the_pooler(mixed: Mixed, tmp_path: Path) -> None:
    import torch

    from adapter_export.merging.merge import merge

    # An IA3 that scales nothing, so that the head alone matters.
    info: ModelInfo = load_base(mixed.base, "text-classification").info
    folder = Path(shutil.copytree(Path(__file__).parent / "adapterhub/bert-ia3/adapter", tmp_path / "adapter"))
    for name in ("head_config.json", "pytorch_model_head.bin"):
        shutil.copy(GOLDENS / mixed.case / "adapter" / name, folder / name)
    for base in (mixed.base, GOLDENS / mixed.case / "base"):
        adapter = load_adapter(folder, info)
        exact = load_base(base, "text-classification", dtype=torch.float64)
        inject(exact.module, adapter)
        output = tmp_path / f"merged-{base.parent.name}"
        merge(base, folder, output)
        merged = load_base(output, "text-classification", dtype=torch.float64)
        golden = arrays(mixed.case)
        inputs = {name: torch.from_numpy(array) for name, array in golden.items() if name not in ("on", "off")}
        with torch.no_grad():
            expected, found = exact.module(**inputs).logits, merged.module(**inputs).logits
        # The merged weights are rounded to float32.
        assert (found - expected).abs().max() < 1e-5
        assert json.loads((output / "config.json").read_text())["id2label"] == {"0": "neg", "1": "pos"}
