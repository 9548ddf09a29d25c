"""The session against plain ONNX Runtime and float64 PyTorch; what it refuses; and what happens around it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_file import read_adapter_file, write_adapter_file
from adapter_export.bundle.adapter_format import AdapterContent
from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import adapter_path, read_manifest
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.dtypes import DType
from adapter_export.errors import InputError, ProviderError
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.providers import Provider
from adapter_export.runtime import provider as provider_module
from adapter_export.runtime.adapters import file_cache as file_cache_module
from adapter_export.runtime.adapters.file_cache import AdapterFileCache
from adapter_export.runtime.inputs import check_positions
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.machine import why_not_on_gpu
from tests.tiny import POSITIONS

NAMES = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")


@pytest.fixture(scope="module")
def inputs(inputs_for: Callable[..., dict[str, np.ndarray]], swappable_bundle: Exported) -> dict[str, np.ndarray]:
    batch = inputs_for("bert", 4, 9)
    wanted = read_manifest(swappable_bundle.bundle).inputs
    return {name: batch.get(name, np.zeros_like(batch["input_ids"])) for name in wanted}


@pytest.fixture
def session(swappable_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(swappable_bundle.bundle) as opened:
        yield opened


@pytest.fixture
def copied(swappable_bundle: Exported, tmp_path: Path) -> Path:
    """The swappable bundle again, to be changed."""
    return Path(shutil.copytree(swappable_bundle.bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(swappable_bundle: Exported, inputs: Mapping[str, np.ndarray]) -> dict[str | None, np.ndarray]:
    """Logits of plain ONNX Runtime, with its own LoraAdapter; under None those without an adapter."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    plain = ort.InferenceSession(swappable_bundle.bundle / MODEL, options, providers=["CPUExecutionProvider"])
    logits: dict[str | None, np.ndarray] = {None: plain.run(["logits"], dict(inputs))[0]}
    for name in NAMES:
        adapter = ort.LoraAdapter()
        adapter.Load(str(swappable_bundle.bundle / adapter_path(name)))
        run_options = ort.RunOptions()
        run_options.add_active_adapter(adapter)
        logits[name] = plain.run(["logits"], dict(inputs), run_options)[0]
    return logits


def foreign(
    tmp_path: Path, exported: Exported, name: str, change: Callable[[dict[str, np.ndarray]], Any] = lambda tensors: None
) -> Path:
    """A file with the tensors of the bundle's adapter `name`, changed."""
    tensors = read_adapter_file(exported.bundle / adapter_path(name))
    change(tensors)
    path = tmp_path / "foreign.onnx_adapter"
    write_adapter_file(path, tensors, read_manifest(exported.bundle).base.sha256)
    return path


def main(manifest: Any) -> Any:
    """The graph's part of a manifest's JSON."""
    return manifest["graphs"][MODEL]


def reference(exported: Exported, inputs: Mapping[str, np.ndarray], name: str | None) -> np.ndarray:
    """Logits of the model in PyTorch and float64, the adapter injected."""
    import torch

    base = load_base(exported.base, "text-classification", dtype=torch.float64)
    if name is not None:
        inject(base.module, load_adapter(exported.adapters[name], base.info))
    with torch.no_grad():
        output = base.module(**{key: torch.from_numpy(value) for key, value in inputs.items()})
    logits: np.ndarray = output.logits.numpy()
    return logits


class TestNumbers:
    def test_an_adapter_of_the_bundle_gives_what_plain_onnx_runtime_gives(
        self, session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str | None, np.ndarray]
    ) -> None:
        assert session.adapters == NAMES
        for name in NAMES:
            assert np.array_equal(session.run(inputs, adapter=name)["logits"], expected[name]), name

    @pytest.mark.parametrize("name", NAMES)
    def test_an_adapter_of_the_bundle_gives_what_pytorch_gives(
        self, session: AdapterSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray], name: str
    ) -> None:
        logits = session.run(inputs, adapter=name)["logits"]
        wanted = reference(swappable_bundle, inputs, name)
        assert logits.shape == wanted.shape
        assert np.abs(logits - wanted).max() <= 2e-6 * np.abs(wanted).max()

    def test_adapters_differ(self, expected: dict[str | None, np.ndarray]) -> None:
        logits = list(expected.values())
        for i, one in enumerate(logits):
            for other in logits[:i]:
                assert one.shape != other.shape or np.abs(one - other).max() > 0.01

    def test_a_base_model_without_a_head_answers_no_labels(
        self, session: AdapterSession, inputs: dict[str, np.ndarray]
    ) -> None:
        session.run(inputs, adapter="ia3_two")
        assert session.run(inputs)["logits"].shape == (4, 0)
        assert session.labels() is None

    def test_without_an_adapter_it_is_the_base_model(
        self, headed_bundle: Exported, inputs: dict[str, np.ndarray]
    ) -> None:
        with AdapterSession(headed_bundle.bundle) as session:
            before = session.run(inputs)["logits"]
            adapted = session.run(inputs, adapter="ia3")["logits"]
            after = session.run(inputs)["logits"]
            assert session.labels() == ("LABEL_0", "LABEL_1", "LABEL_2")
            assert session.labels("ia3") == ("low", "high")
        wanted = reference(headed_bundle, inputs, None)
        assert np.abs(before - wanted).max() <= 2e-6 * np.abs(wanted).max()
        assert np.array_equal(before, after)
        assert adapted.shape == (4, 2)

    def test_swapping_back_gives_the_same_bits(self, session: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        for first in NAMES:
            for second in (None, *NAMES):
                before = session.run(inputs, adapter=first)["logits"]
                session.run(inputs, adapter=second)
                assert np.array_equal(session.run(inputs, adapter=first)["logits"], before), (first, second)

    def test_collecting_garbage_changes_nothing(
        self, session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str | None, np.ndarray]
    ) -> None:
        for name in ("ia3_three", "houlsby_four", "pfeiffer_five"):
            session.load(name)
            gc.collect()
            assert np.array_equal(session.run(inputs, adapter=name)["logits"], expected[name])
            session.unload(name)
            gc.collect()
            assert np.array_equal(session.run(inputs, adapter=name)["logits"], expected[name])

    def test_sixteen_threads_each_get_their_own_adapter(
        self, session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str | None, np.ndarray]
    ) -> None:
        barrier = threading.Barrier(16)

        def work(seed: int) -> int:
            rng = np.random.default_rng(seed)
            barrier.wait()
            for _ in range(40):
                name = (None, *NAMES)[rng.integers(6)]
                logits = session.run(inputs, adapter=name)["logits"]
                assert np.array_equal(logits, expected[name]), name
                if name is not None and rng.integers(4) == 0:
                    try:
                        session.unload(name)
                    except InputError:  # another thread was faster
                        continue
            return seed

        with ThreadPoolExecutor(16) as pool:
            assert sorted(pool.map(work, range(16))) == list(range(16))


class TestInGraph:
    @pytest.mark.parametrize(
        ("fixture", "name", "labels"),
        [
            ("embedded_bundle", "houlsby_four", ("north", "east", "south", "west")),
            ("merged_bundle", "ia3_three", ("bad", "so so", "good")),
        ],
    )
    def test_the_one_adapter_always_runs(
        self,
        request: pytest.FixtureRequest,
        inputs: dict[str, np.ndarray],
        expected: dict[str | None, np.ndarray],
        fixture: str,
        name: str,
        labels: tuple[str, ...],
    ) -> None:
        with AdapterSession(request.getfixturevalue(fixture).bundle) as session:
            assert session.adapters == session.loaded == (name,)
            assert session.labels() == session.labels(name) == labels
            logits = session.run(inputs)["logits"]
            assert np.array_equal(session.run(inputs, adapter=name)["logits"], logits)
            assert np.abs(logits - expected[name]).max() < 1e-5
            with pytest.raises(InputError, match=f"'other': mode '.*' holds one adapter in the graph: '{name}'"):
                session.run(inputs, adapter="other")
            with pytest.raises(InputError, match="holds one adapter"):
                session.labels("other")
            for action in (session.load, session.unload):
                with pytest.raises(InputError, match="only 'swappable' and 'bank' load"):
                    action(name)


class TestInputs:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda b: b.pop("attention_mask"), "input 'attention_mask' is missing; expected input_ids, "),
            (lambda b: b.update(extra=b["input_ids"]), "input 'extra': not an input of this graph"),
            (lambda b: b.update(input_ids=b["input_ids"].astype("int32")), "'input_ids': expected int64, found int32"),
            (lambda b: b.update(input_ids=b["input_ids"].astype(">i8")), "'input_ids': expected int64, found >i8"),
            (lambda b: b.update(input_ids=b["input_ids"][0]), r"'input_ids': expected 2 dims \['batch', 'sequence'\]"),
            (lambda b: b.update(input_ids=b["input_ids"].tolist()), "'input_ids': expected a numpy array, found list"),
            (
                lambda b: b.update(attention_mask=b["attention_mask"][:1]),
                "'attention_mask': batch is 1, but 4 in input 'input_ids'",
            ),
            (lambda b: b.update({"classifier.head.bias": np.zeros(2, "f4")}), "'classifier.head.bias': is a tensor of"),
        ],
    )
    def test_wrong_inputs_are_named(
        self,
        session: AdapterSession,
        inputs: dict[str, np.ndarray],
        change: Callable[[dict[str, Any]], Any],
        message: str,
    ) -> None:
        batch = dict(inputs)
        change(batch)
        with pytest.raises(InputError, match=message):
            session.run(batch, adapter="ia3_two")

    def test_what_only_the_graph_can_tell(
        self, session: AdapterSession, inputs: dict[str, np.ndarray], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(InputError, match="ONNX Runtime cannot run these inputs: indices element out of"):
            session.run({**inputs, "input_ids": inputs["input_ids"] + 10_000}, adapter="ia3_two")
        assert capfd.readouterr() == ("", "")

    def test_a_fixed_dim(self) -> None:
        from adapter_export.bundle.manifest import TensorInfo
        from adapter_export.runtime.inputs import check_inputs

        info = {"pixel_values": TensorInfo(DType.FLOAT32, ("batch", 3, 4))}
        check_inputs({"pixel_values": np.zeros((2, 3, 4), "f4")}, info)
        with pytest.raises(InputError, match=r"expected shape \['batch', 3, 4\], found \[2, 1, 4\]"):
            check_inputs({"pixel_values": np.zeros((2, 1, 4), "f4")}, info)

    def test_rows_that_would_be_given_each_others_end_tokens(self) -> None:
        """BART's and T5's classifiers find the end tokens of a whole batch; PyTorch refuses such a batch, too."""
        from adapter_export.bundle.graphs import MODEL
        from adapter_export.bundle.manifest import GraphInfo, Manifest
        from adapter_export.modelinfo import ModelInfo
        from adapter_export.runtime.inputs import check_ends, shared_end

        info = ModelInfo("bart", "BartForSequenceClassification", "model", True, 8, {}, {})
        graphs = {MODEL: GraphInfo({}, {})}
        manifest = Manifest("1", Mode.BANK, "text-classification", DType.FLOAT32, 20, info, graphs, (), (), {})
        config = {"is_encoder_decoder": True, "eos_token_id": 2}
        assert shared_end(manifest, config) == 2
        assert shared_end(manifest, {**config, "is_encoder_decoder": False}) is None
        assert shared_end(replace(manifest, task="seq2seq-lm"), config) is None
        check_ends(np.array([[5, 2, 2], [2, 7, 2]]), 2)
        with pytest.raises(InputError, match=r"'input_ids': rows with 1 and with 3 end tokens \(2\)"):
            check_ends(np.array([[5, 6, 2], [2, 2, 2]]), 2)


class TestLoading:
    def test_an_unknown_adapter_is_never_the_base_model(
        self, session: AdapterSession, inputs: dict[str, np.ndarray]
    ) -> None:
        for action in (lambda: session.run(inputs, adapter="nope"), lambda: session.load("nope")):
            with pytest.raises(InputError, match=f"'nope': expected one of {', '.join(NAMES)}"):
                action()
        with pytest.raises(InputError, match="not in the bundle"):
            session.labels("nope")

    def test_loaded_and_unloaded(self, session: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        assert session.loaded == ()
        session.load("houlsby_two")
        session.run(inputs, adapter="ia3_two")
        assert session.loaded == ("houlsby_two", "ia3_two")
        session.unload("houlsby_two")
        assert session.loaded == ("ia3_two",)
        with pytest.raises(InputError, match=r"'houlsby_two': not loaded \(loaded: ia3_two\)"):
            session.unload("houlsby_two")
        assert session.adapters == NAMES

    def test_a_foreign_file(
        self,
        session: AdapterSession,
        swappable_bundle: Exported,
        inputs: dict[str, np.ndarray],
        expected: dict[str | None, np.ndarray],
        tmp_path: Path,
    ) -> None:
        path = foreign(tmp_path, swappable_bundle, "houlsby_two")
        session.load("mine", path)
        # What happens to the file afterwards is no matter of the session's.
        path.write_bytes(bytes(path.stat().st_size))
        assert np.array_equal(session.run(inputs, adapter="mine")["logits"], expected["houlsby_two"])
        assert session.labels("mine") == ("LABEL_0", "LABEL_1")
        assert session.adapters == (*NAMES, "mine")
        session.load("mine", foreign(tmp_path, swappable_bundle, "pfeiffer_five"))
        assert np.array_equal(session.run(inputs, adapter="mine")["logits"], expected["pfeiffer_five"])
        session.unload("mine")
        assert session.adapters == NAMES
        with pytest.raises(InputError, match="'mine'"):
            session.run(inputs, adapter="mine")

    def test_a_head_alone(
        self, session: AdapterSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        def keep_head(tensors: dict[str, np.ndarray]) -> None:
            for name in [name for name in tensors if ".head." not in name]:
                del tensors[name]

        session.load("head", foreign(tmp_path, swappable_bundle, "ia3_three", keep_head))
        assert session.run(inputs, adapter="head")["logits"].shape == (4, 3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.clear(), "expected tensors, found none"),
            (
                lambda t: t.pop("encoder.layer.1.output.dense.bottleneck_silu.up_bias"),
                "tensor 'encoder.layer.1.output.dense.bottleneck_silu.up_bias' is missing",
            ),
            (
                lambda t: [t.pop(name) for name in list(t) if ".head." in name],
                r"expected a task head \(text-classification\), as the base model has none; found none",
            ),
            (lambda t: t.update(other=np.zeros(3, "f4")), "tensor 'other': the graph has no such tensor"),
            (
                lambda t: t.update({"classifier.head.bias": np.zeros(2, "f8")}),
                "'classifier.head.bias': expected float32, found float64",
            ),
            (
                lambda t: t.update({"classifier.head.bias": np.zeros(3, "f4")}),
                r"'classifier.head.\w+': expected shape \[\d.*\], found",
            ),
            (
                lambda t: t.update({"classifier.head.weight": np.zeros((2, 31), "f4")}),
                r"'classifier.head.weight': expected shape \[.*, 32\], found \[2, 31\]",
            ),
            (
                lambda t: t.update(
                    {"classifier.head.weight": np.zeros((0, 32), "f4"), "classifier.head.bias": np.zeros(0, "f4")}
                ),
                "expected shape",
            ),
            (
                lambda t: t.update({"classifier.head.bias": np.array([0, np.nan], "f4")}),
                "'classifier.head.bias': expected finite values, found NaN",
            ),
        ],
    )
    def test_a_foreign_file_that_does_not_fit(
        self,
        session: AdapterSession,
        swappable_bundle: Exported,
        inputs: dict[str, np.ndarray],
        tmp_path: Path,
        change: Callable[[dict[str, np.ndarray]], Any],
        message: str,
    ) -> None:
        session.load("mine", foreign(tmp_path, swappable_bundle, "ia3_two"))
        before = session.run(inputs, adapter="mine")["logits"]
        path = foreign(tmp_path, swappable_bundle, "houlsby_two", change)
        with pytest.raises(InputError, match=message):
            session.load("mine", path)
        assert np.array_equal(session.run(inputs, adapter="mine")["logits"], before)

    def test_other_files_and_names_are_refused(
        self, session: AdapterSession, swappable_bundle: Exported, tmp_path: Path
    ) -> None:
        path = foreign(tmp_path, swappable_bundle, "ia3_two")
        with pytest.raises(InputError, match="the bundle has one of that name"):
            session.load("ia3_two", path)
        with pytest.raises(InputError, match="adapter name"):
            session.load("../x", path)
        with pytest.raises(InputError, match="no such file"):
            session.load("x", tmp_path / "nope")
        tensors = read_adapter_file(path)
        write_adapter_file(path, tensors, "1" * 64)
        with pytest.raises(InputError, match="belongs to another base model"):
            session.load("x", path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"not a readable \.onnx_adapter file"):
            session.load("x", path)
        assert session.loaded == ()

    def test_a_head_in_part(self, headed_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
        def without_head(tensors: dict[str, np.ndarray]) -> None:
            for name in [name for name in tensors if ".head." in name]:
                del tensors[name]

        with AdapterSession(headed_bundle.bundle) as session:
            session.load("bare", foreign(tmp_path, headed_bundle, "ia3", without_head))
            assert session.run(inputs, adapter="bare")["logits"].shape == (4, 3)
            assert session.labels("bare") == session.labels() == ("LABEL_0", "LABEL_1", "LABEL_2")
            path = foreign(tmp_path, headed_bundle, "ia3", lambda tensors: tensors.pop("classifier.head.bias"))
            with pytest.raises(InputError, match=r"'classifier\.head\.bias' is missing"):
                session.load("part", path)

    def test_an_adapter_added_while_the_session_is_open(
        self,
        copied: Path,
        swappable_bundle: Exported,
        inputs: dict[str, np.ndarray],
        expected: dict[str | None, np.ndarray],
    ) -> None:
        with AdapterSession(copied) as session:
            session.load("ia3_two")
            add_adapter(copied, {"late": swappable_bundle.adapters["houlsby_two"]})
            assert np.array_equal(session.run(inputs, adapter="late")["logits"], expected["houlsby_two"])
            assert session.adapters == (*NAMES, "late")
            session.unload("late")
            assert session.adapters == (*NAMES, "late")
            assert session.labels("late") == ("off", "on")
            add_adapter(copied, {"ia3_two": swappable_bundle.adapters["pfeiffer_five"]}, force=True)
            assert np.array_equal(session.run(inputs, adapter="ia3_two")["logits"], expected["ia3_two"])
            session.load("ia3_two")
            assert np.array_equal(session.run(inputs, adapter="ia3_two")["logits"], expected["pfeiffer_five"])
            assert session.labels("ia3_two") == ("a", "b", "c", "d", "e")

    def test_an_adapter_replaced_between_reading_the_manifest_and_the_file(
        self,
        copied: Path,
        swappable_bundle: Exported,
        inputs: dict[str, np.ndarray],
        expected: dict[str | None, np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        read = AdapterFileCache.read

        def read_late(*arguments: Any) -> dict[str, np.ndarray]:
            monkeypatch.setattr(AdapterFileCache, "read", read)
            add_adapter(copied, {"ia3_two": swappable_bundle.adapters["pfeiffer_five"]}, force=True)
            return read(*arguments)

        with AdapterSession(copied) as session:
            monkeypatch.setattr(AdapterFileCache, "read", read_late)
            assert np.array_equal(session.run(inputs, adapter="ia3_two")["logits"], expected["pfeiffer_five"])


class TestFiles:
    def test_one_changed_number_in_an_adapter_of_the_bundle(self, copied: Path, inputs: dict[str, np.ndarray]) -> None:
        path = copied / adapter_path("houlsby_four")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with AdapterSession(copied) as session:
            with pytest.raises(InputError, match=r"houlsby_four.onnx_adapter: expected a file with sha256 .*, found"):
                session.run(inputs, adapter="houlsby_four")
            assert session.run(inputs, adapter="houlsby_two")["logits"].shape == (4, 2)

    def test_where_numbers_lie_in_files_alike_is_kept_once(self, copied: Path, swappable_bundle: Exported) -> None:
        add_adapter(copied, {"again": swappable_bundle.adapters["ia3_two"]})
        manifest, files = read_manifest(copied), AdapterFileCache()

        def kept() -> int:
            gc.collect()
            return sum(type(item) is AdapterContent for item in gc.get_objects())

        before = kept()
        first = files.read(copied, manifest.adapter("ia3_two"), manifest)
        again = files.read(copied, manifest.adapter("again"), manifest)
        assert kept() == before + 1
        files.read(copied, manifest.adapter("ia3_three"), manifest)
        assert kept() == before + 2
        assert all(np.array_equal(first[name], again[name]) and first[name] is not again[name] for name in first)

    def test_a_file_is_checked_once_and_again_when_touched(
        self, copied: Path, inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parsed = []
        parse = file_cache_module.parse_adapter_file
        monkeypatch.setattr(
            file_cache_module, "parse_adapter_file", lambda path, *rest: parsed.append(path.stem) or parse(path, *rest)
        )
        with AdapterSession(copied) as session:
            assert sorted(parsed) == sorted(NAMES)
            before = session.run(inputs, adapter="ia3_two")["logits"]
            session.load("ia3_two")
            assert sorted(parsed) == sorted(NAMES), "nobody touched it"
            path = copied / adapter_path("ia3_two")
            path.touch()
            session.load("ia3_two")
            assert parsed[len(NAMES) :] == ["ia3_two"]
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            with pytest.raises(InputError, match=r"ia3_two.onnx_adapter: expected a file with sha256 .*, found"):
                session.load("ia3_two")
            assert np.array_equal(session.run(inputs, adapter="ia3_two")["logits"], before)
        with AdapterSession(copied, verify=False) as session:
            del parsed[:]
            session.load("ia3_three")
            assert parsed == ["ia3_three"]
            with pytest.raises(InputError, match=r"expected a file with sha256"):
                session.load("ia3_two")

    def test_a_missing_adapter_file(self, copied: Path, inputs: dict[str, np.ndarray]) -> None:
        (copied / adapter_path("ia3_two")).unlink()
        with AdapterSession(copied) as session, pytest.raises(InputError, match=r"ia3_two.onnx_adapter: no such file"):
            session.run(inputs, adapter="ia3_two")

    def test_another_graph(self, copied: Path, merged_bundle: Exported) -> None:
        shutil.copyfile(merged_bundle.bundle / MODEL, copied / MODEL)
        with pytest.raises(InputError, match=r"model.onnx: expected a file with sha256"):
            AdapterSession(copied)
        with pytest.raises(InputError, match=r"model.onnx: adapter tensor '.*': the manifest lists, the graph lacks"):
            AdapterSession(copied, verify=False)

    def test_files_beside_the_graph_may_be_gone_but_not_changed(self, copied: Path) -> None:
        (copied / "tokenizer.json").unlink()
        AdapterSession(copied).close()
        (copied / "tokenizer_config.json").write_text("{}")
        with pytest.raises(InputError, match=r"tokenizer_config\.json: expected a file with sha256"):
            AdapterSession(copied)
        AdapterSession(copied, verify=False).close()

    def test_another_graph_while_the_session_is_open(
        self, copied: Path, headed_bundle: Exported, inputs: dict[str, np.ndarray]
    ) -> None:
        with AdapterSession(copied) as session:
            shutil.copyfile(headed_bundle.bundle / MANIFEST, copied / MANIFEST)
            with pytest.raises(InputError, match="holds another graph than when it was opened"):
                session.run(inputs, adapter="ia3_two")

    @pytest.mark.parametrize("verify", [True, False])
    def test_a_broken_or_missing_graph(self, copied: Path, verify: bool) -> None:
        model = copied / MODEL
        model.write_bytes(model.read_bytes()[:1000])
        with pytest.raises(InputError, match="sha256" if verify else "ONNX Runtime cannot load it"):
            AdapterSession(copied, verify=verify)
        model.unlink()
        with pytest.raises(InputError, match="no such file"):
            AdapterSession(copied, verify=verify)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(mode="pile"), "field 'mode': expected one of merged, embedded, swappable, bank"),
            (lambda m: m.update(mode="bank"), "adapter tensor .*rows.: the manifest lists, the graph lacks"),
            (lambda m: m["files"].pop("model.onnx"), "field 'files': expected 'model.onnx' among them"),
            (lambda m: main(m)["inputs"].pop("attention_mask"), "input 'attention_mask': the manifest does not list"),
            (
                lambda m: main(m)["outputs"].update(other=main(m)["outputs"]["logits"]),
                "output 'other': the manifest lists",
            ),
            (
                lambda m: main(m)["outputs"]["logits"].update(shape=["batch"]),
                r"output 'logits': the manifest lists it as float32 \['batch'\], the graph has tensor\(float\)",
            ),
            (
                lambda m: main(m)["inputs"]["input_ids"].update(dtype="float64"),
                r"input 'input_ids': the manifest lists it as float64 .*, the graph has tensor\(int64\)",
            ),
            (
                lambda m: next(iter(m["sites"][0]["tensors"].values())).update(shape=[7, 7, 7]),
                r"adapter tensor .*: the manifest lists it as float32 \[7, 7, 7\], the graph has",
            ),
        ],
    )
    def test_a_manifest_of_something_else(self, copied: Path, change: Callable[[Any], Any], message: str) -> None:
        manifest = json.loads((copied / MANIFEST).read_text())
        change(manifest)
        (copied / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=message):
            AdapterSession(copied)

    def test_an_adapter_without_a_file(self, copied: Path, inputs: dict[str, np.ndarray]) -> None:
        manifest = json.loads((copied / MANIFEST).read_text())
        manifest["adapters"][0]["file"] = None
        (copied / MANIFEST).write_text(json.dumps(manifest))
        with AdapterSession(copied) as session, pytest.raises(InputError, match="'ia3_two' has no file"):
            session.run(inputs, adapter="ia3_two")


class TestSession:
    def test_closed(self, swappable_bundle: Exported, inputs: dict[str, np.ndarray]) -> None:
        with AdapterSession(swappable_bundle.bundle) as session:
            session.load("ia3_two")
        assert session.loaded == ()
        with pytest.raises(InputError, match="the session is closed"):
            session.run(inputs, adapter="ia3_two")

    def test_options_reach_onnx_runtime(self, swappable_bundle: Exported, tmp_path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        AdapterSession(swappable_bundle.bundle, options=options).close()
        assert (tmp_path / "optimized.onnx").exists()

    def test_needs_numpy_and_onnxruntime_only_and_says_nothing_on_stderr(
        self, swappable_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "inputs.npz", **inputs)
        # A production image has numpy, onnxruntime and tokenizers: nothing else of ours may be needed.
        absent = ["torch", "transformers", "onnx", "onnx_ir", "accelerate", "ml_dtypes", "safetensors", "click", "rich"]
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
            "import numpy as np\n"
            "from adapter_export import AdapterSession\n"
            f"session = AdapterSession({str(swappable_bundle.bundle)!r})\n"
            f"inputs = dict(np.load({str(tmp_path / 'inputs.npz')!r}))\n"
            "print(session.run(inputs, adapter='houlsby_four')['logits'].shape)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "(4, 4)\n"
        assert done.stderr == ""


class TestProvider:
    def test_unknown(self, swappable_bundle: Exported) -> None:
        with pytest.raises(InputError, match="provider 'tpu': expected one of cpu, cuda"):
            AdapterSession(swappable_bundle.bundle, provider="tpu")

    def test_a_build_without_cuda(self, swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(ProviderError, match="'cuda': this build of ONNX Runtime has only CPUExecutionProvider"):
            AdapterSession(swappable_bundle.bundle, provider="cuda")

    def test_a_session_that_fell_back_to_the_cpu(self) -> None:
        provider_module.check_provider(Provider.CUDA, ["CUDAExecutionProvider", "CPUExecutionProvider"])
        with pytest.raises(ProviderError, match="'cuda': the session would run on CPUExecutionProvider, though"):
            provider_module.check_provider(Provider.CUDA, ["CPUExecutionProvider"])

    def test_cuda_without_a_gpu_is_refused(self, swappable_bundle: Exported) -> None:
        if why_not_on_gpu() is None:
            pytest.skip("this machine has a GPU")
        with pytest.raises(ProviderError, match="'cuda': "):
            AdapterSession(swappable_bundle.bundle, provider="cuda")

    def test_tf32_is_refused_where_there_is_none(self, swappable_bundle: Exported) -> None:
        with pytest.raises(InputError, match="tf32: expected provider 'cuda', which has it; found provider 'cpu'"):
            AdapterSession(swappable_bundle.bundle, tf32=True)

    def test_a_provider_that_fails_in_a_run_is_not_replaced(
        self, session: AdapterSession, inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from onnxruntime.capi import onnxruntime_pybind11_state as status

        (plain,) = session._sessions.values()
        assert not plain._enable_fallback

        def fail(*arguments: Any) -> None:
            raise status.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : out of memory")

        monkeypatch.setattr(plain, "run", fail)
        with pytest.raises(ProviderError, match="the execution provider failed: 11 : EP_FAIL : out of memory"):
            session.run(inputs)


def test_texts_beyond_the_table_of_positions_are_refused(swappable_bundle: Exported) -> None:
    """In one line, before a GPU would read beyond the table. BERT's has room for POSITIONS tokens."""
    with AdapterSession(swappable_bundle.bundle) as session:
        positions = session.manifest.positions
        assert positions == POSITIONS

        def texts(length: int) -> dict[str, np.ndarray]:
            return {name: np.ones((1, length), np.int64) for name in session.manifest.inputs}

        assert session.run(texts(POSITIONS), "ia3_two")["logits"].shape == (1, 2)
        with pytest.raises(InputError, match=rf"input 'input_ids': {POSITIONS + 1} tokens do not fit in the"):
            session.run(texts(POSITIONS + 1), "ia3_two")


@pytest.mark.parametrize(("positions", "fits"), [(8, False), (0, True), (None, True)])
def test_models_without_a_table_read_on(positions: int | None, fits: bool) -> None:
    for inputs in ({"input_ids": np.ones((1, 9), np.int64)}, {"position_ids": np.arange(9)[None]}):
        with nullcontext() if fits else pytest.raises(InputError, match="positions of this model"):
            check_positions(inputs, positions)
