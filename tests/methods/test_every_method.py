"""Every registered method goes all the way, on rectangular and on shared layers, Conv1D and fused projections.

A new method is found by itself. Expected values are PyTorch's in float64, with the adapter injected and not merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export import AdapterSession, DynamicBatcher, add_adapter, export_onnx, merge
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging import piecewise
from adapter_export.methods import registry
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.training.train import _initial_tensors

# Of float32 graphs and weights, relative to the size of the outputs.
TOLERANCE = 2e-5
OUTPUT = "last_hidden_state"
# Where the adapters stand: None is the method's own choice.
MODELS: Mapping[str, tuple[str, str | None]] = {
    "bert": ("bert", None),
    "rectangular": ("bert", r"encoder\.layer\.\d\.(intermediate|output)\.dense"),
    "shared": ("albert", None),
    "fused": ("gpt2", None),
    "fused-conv1d": ("gpt2", r"h\.\d\.attn\.c_attn"),
}
every_method = pytest.mark.parametrize("method", registry.names())
# The others differ from these in their shapes alone.
_FIRST = ("bert", "fused-conv1d")
every_model = pytest.mark.parametrize(
    "place", [place if place in _FIRST else pytest.param(place, marks=pytest.mark.thorough) for place in MODELS]
)


@dataclass(frozen=True)
class Subject:
    """A base model in float64, adapters of one method with all tensors random, and inputs without padding."""

    base: BaseModel
    adapters: dict[str, Adapter]
    folders: dict[str, Path]
    inputs: dict[str, np.ndarray]

    def expected(self, name: str | None) -> np.ndarray:
        import torch

        values = {key: torch.from_numpy(value) for key, value in self.inputs.items()}
        injection = None if name is None else inject(self.base.module, self.adapters[name])
        with torch.no_grad():
            found: np.ndarray = self.base.module(**values).last_hidden_state.numpy()
        if injection is not None:
            injection.remove()
        return found


@pytest.fixture
def subject(
    method: str,
    place: str,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    text_batch: Callable[..., dict[str, np.ndarray]],
) -> Subject:
    import torch

    model_type, target = MODELS[place]
    base = tiny_base(model_type, dtype=torch.float64)
    adapters = {name: random_adapter(base.info, method, seed, target=target) for seed, name in enumerate("abc")}
    inputs = text_batch(rows=4, padding="none")
    return Subject(base, adapters, {k: save_checkpoint(v, base.info) for k, v in adapters.items()}, inputs)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() <= TOLERANCE * np.sqrt(np.square(expected).mean())


def given(session: AdapterSession, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that the graph takes; types of tokens are all 0."""
    names = session.manifest.graphs[session.manifest.model].given
    return {name: inputs.get(name, np.zeros_like(inputs["input_ids"])) for name in names}


def mergeable(adapter: Adapter) -> bool:
    return all(one.operator.unmergeable(site.port) is None for site, one in adapter.sites.items())


@every_model
@every_method
def test_modes_additions_sessions_and_batches(subject: Subject, tmp_path: Path) -> None:
    base, first = subject.base.folder, {"a": subject.folders["a"], "b": subject.folders["b"]}
    expected = {name: subject.expected(name) for name in (None, *subject.adapters)}
    assert np.abs(expected["a"] - expected[None]).max() > 100 * TOLERANCE
    settings: dict[str, Any] = {"task": "features", "tokenizer": False}
    export_onnx(base, {"a": first["a"]}, tmp_path / "embedded", mode="embedded", **settings)
    with AdapterSession(tmp_path / "embedded") as session:
        assert_close(session.run(given(session, subject.inputs))[OUTPUT], expected["a"])
    for mode in ("swappable", "bank"):
        export_onnx(base, first, tmp_path / mode, mode=mode, **settings)
        add_adapter(tmp_path / mode, {"c": subject.folders["c"]})
    with AdapterSession(tmp_path / "swappable") as session:
        for name, wanted in expected.items():
            assert_close(session.run(given(session, subject.inputs), adapter=name)[OUTPUT], wanted)
    rows = ["c", None, "a", "b"]
    with AdapterSession(tmp_path / "bank", slots=3) as session, DynamicBatcher(session) as batcher:
        inputs = given(session, subject.inputs)
        actual = session.run(inputs, adapters=rows)[OUTPUT]
        own = [{name: value[row] for name, value in inputs.items()} for row in range(len(rows))]
        futures = [batcher.submit(one, adapter=name) for one, name in zip(own, rows, strict=True)]
        for row, name in enumerate(rows):
            assert_close(actual[row], expected[name][row])
            assert_close(futures[row].result()[OUTPUT], expected[name][row])


@every_model
@every_method
def test_merged_in_small_pieces_or_refused(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(piecewise, "_PIECE", 7)
    if not mergeable(subject.adapters["a"]):
        with pytest.raises(CannotMerge):
            merge(subject.base.folder, subject.folders["a"], tmp_path / "merged")
        with pytest.raises(CannotMerge):
            export_onnx(
                subject.base.folder, {"a": subject.folders["a"]}, tmp_path / "bundle", mode="merged", task="features"
            )
        assert not list(tmp_path.iterdir())
        return
    merge(subject.base.folder, subject.folders["a"], tmp_path / "merged")
    merged = load_base(tmp_path / "merged", "features", dtype=torch.float64)
    assert_close(Subject(merged, {}, {}, subject.inputs).expected(None), subject.expected("a"))
    export_onnx(tmp_path / "merged", {}, tmp_path / "bundle", mode="merged", task="features", tokenizer=False)
    with AdapterSession(tmp_path / "bundle") as session:
        assert_close(session.run(given(session, subject.inputs))[OUTPUT], subject.expected("a"))


@every_method
def test_no_method_is_trained_on_a_convolution_yet(method: str, tiny_base: Callable[..., BaseModel]) -> None:
    """IA3 of convolutions is read from PEFT (`tests/checkpoints/peft/test_convolutions.py`); all else is refused."""
    one = registry.get(method)
    with pytest.raises(InputError, match="is a convolution, where no adapter is trained yet"):
        _initial_tensors(tiny_base("vit"), one, one.Options(), r".*projection", 0)
