"""Encoder-decoder models in two graphs with a cache, in plain ONNX Runtime, against one full forward in PyTorch."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_file import write_adapter_file
from adapter_export.bundle.add import graph_tensors
from adapter_export.bundle.graphs import DECODER, ENCODER, is_past
from adapter_export.bundle.manifest import Manifest, adapter_path, read_manifest
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export import saving
from adapter_export.export.bundle import write_bundle
from adapter_export.export.lower import Lowered
from adapter_export.export.saving import WEIGHTS
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.decoders import LARGE

# Outputs are of order 10; float32 differs from the float32 reference by rounding only. Measured: at most 6e-6.
TOLERANCE = 3e-5
BATCH, LENGTH, WRITTEN = 3, 7, 9
ADAPTERS = ("ia3", "houlsby")


def sessions(folder: Path) -> dict[str, ort.InferenceSession]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return {
        file: ort.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        for file in (ENCODER, DECODER)
    }


class Pair:
    """A tiny encoder-decoder's swappable bundle, with what its texts are."""

    def __init__(self, exported: Exported, inputs: dict[str, np.ndarray]):
        self.base, self.folder = load_base(exported.base, "seq2seq-lm"), exported.bundle
        self.adapters = {name: load_adapter(path, self.base.info) for name, path in exported.adapters.items()}
        self.manifest: Manifest = read_manifest(self.folder)
        self.sessions = sessions(self.folder)
        self.decoded = np.random.default_rng(0).integers(4, 90, (BATCH, WRITTEN))
        self.inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}

    def run(self, adapter: str | None, chunks: list[int]) -> np.ndarray:
        """Logits of the whole batch, decoded `chunks` tokens at a time."""
        options = ort.RunOptions()
        loaded = ort.LoraAdapter()
        if adapter is not None:
            loaded.Load(str(self.folder / adapter_path(adapter)))
            options.add_active_adapter(loaded)
        encoded = self._run(ENCODER, self.inputs, options)
        cache = {name.replace("present", "past_key_values"): encoded[name] for name in encoded if "present" in name}
        wanted = self.manifest.graphs[DECODER].inputs
        for name, info in wanted.items():
            if ".decoder." in name:
                cache[name] = np.zeros((BATCH, int(info.shape[1]), 0, int(info.shape[3])), np.float32)
        fed = {"encoder_attention_mask": self.inputs["attention_mask"]} if "encoder_attention_mask" in wanted else {}
        logits, start = [], 0
        for chunk in chunks:
            outputs = self._run(DECODER, {"input_ids": self.decoded[:, start : start + chunk], **fed, **cache}, options)
            logits.append(outputs.pop("logits"))
            cache |= {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
            start += chunk
        return np.concatenate(logits, axis=1)

    def _run(self, file: str, feeds: dict[str, np.ndarray], options: Any) -> dict[str, np.ndarray]:
        names = list(self.manifest.graphs[file].outputs)
        return dict(zip(names, self.sessions[file].run(names, feeds, options), strict=True))

    def expected(self, adapter: str | None) -> np.ndarray:
        import torch

        injection = inject(self.base.module, self.adapters[adapter]) if adapter else None
        fed = {**self.inputs, "decoder_input_ids": self.decoded}
        with torch.no_grad():
            logits = self.base.module(**{name: torch.from_numpy(value) for name, value in fed.items()}).logits.numpy()
        if injection:
            injection.remove()
        return np.asarray(logits)


@pytest.fixture(scope="module", params=["t5", "bart", "whisper"])
def pair(
    request: pytest.FixtureRequest,
    export_cached: Callable[..., Exported],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> Pair:
    sizes = {"vocab_size": LARGE} if request.param == "t5" else {}
    return Pair(
        export_cached(request.param, "seq2seq-lm", **sizes), inputs_for(request.param, rows=BATCH, length=LENGTH)
    )


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
def test_encoding_once_and_decoding_in_steps_equals_one_full_forward(pair: Pair, adapter: str | None) -> None:
    expected = pair.expected(adapter)
    if adapter:
        assert np.abs(expected - pair.expected(None)).max() > 0.05, "an adapter must matter"
    for chunks in ([WRITTEN], [1] * WRITTEN, [4, 1, 1, 3]):
        assert np.abs(pair.run(adapter, chunks) - expected).max() < TOLERANCE, chunks


def test_each_graph_computes_its_own_part_only(pair: Pair) -> None:
    import onnx

    sites = {}
    for file in (ENCODER, DECODER):
        graph = onnx.load(pair.folder / file).graph
        sites[file] = {node.name.partition("#")[0] for node in graph.node if node.domain == "adapter_export"}
    assert not sites[ENCODER] & sites[DECODER]
    assert len(sites[ENCODER] | sites[DECODER]) == len(pair.manifest.sites)
    for name in sites[ENCODER]:
        assert name.startswith("encoder.") or "EncDecAttention" in name or "encoder_attn" in name
    assert not any(name.startswith("encoder.") for name in sites[DECODER])


def test_the_boundary(pair: Pair) -> None:
    encoder, decoder = pair.manifest.graphs[ENCODER], pair.manifest.graphs[DECODER]
    assert list(encoder.outputs)[:3] == ["last_hidden_state", "present.0.encoder.key", "present.0.encoder.value"]
    plain = [name for name in decoder.inputs if not is_past(name)]
    assert plain == ["input_ids", "encoder_attention_mask"][: len(plain)]
    assert decoder.inputs["past_key_values.0.decoder.key"].shape[2] == "past_sequence"
    assert decoder.outputs["present.1.decoder.value"].shape[2] == "past_sequence + sequence"
    crossed = [name for name in decoder.inputs if ".encoder." in name]
    for name in crossed:
        assert decoder.inputs[name] == encoder.outputs[name.replace("past_key_values", "present")]
    assert len(crossed) == 4
    assert pair.manifest.inputs == decoder.inputs


def test_an_adapter_for_both_graphs_is_one_file(pair: Pair, tmp_path: Path) -> None:
    for name, adapter in pair.adapters.items():
        tensors = graph_tensors(name, adapter, pair.manifest)
        assert set(tensors) <= set(pair.manifest.tensors)
        write_adapter_file(tmp_path / name, tensors, "")
    for session in pair.sessions.values():
        assert {value.name for value in session.get_overridable_initializers()} == set(pair.manifest.tensors)


@pytest.fixture
def large(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The same bundle as if it were large: with a weights file, which all but shapes and scalars are in."""
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE_BYTES", 0)
    monkeypatch.setattr(saving, "INLINE_UP_TO_BYTES", 64)
    made = copy.copy(pair)
    made.folder = tmp_path / "bundle"
    made.folder.mkdir()
    graphs = {
        file: Lowered(ir.load(pair.folder / file), info.inputs, info.outputs, pair.manifest.sites)
        for file, info in pair.manifest.graphs.items()
    }
    made.manifest = write_bundle(made.folder, pair.base, graphs, Mode.SWAPPABLE, pair.adapters)
    made.sessions = sessions(made.folder)
    return made


def test_both_graphs_read_one_weights_file(large: Pair, pair: Pair) -> None:
    files = {path.name for path in large.folder.iterdir() if ".onnx" in path.name}
    assert files == {ENCODER, DECODER, WEIGHTS}
    assert read_manifest(large.folder) == large.manifest
    assert large.manifest.files[WEIGHTS] == hashlib.sha256((large.folder / WEIGHTS).read_bytes()).hexdigest()
    for adapter in (None, *ADAPTERS):
        assert np.abs(large.run(adapter, [4, 1, 1, 3]) - pair.expected(adapter)).max() < TOLERANCE
    prompt = large.inputs["input_features"][0] if "input_features" in large.inputs else [5, 6, 7]
    for adapter in ADAPTERS:
        tokens = [
            AdapterSession(folder).generate([prompt], adapter, max_new_tokens=5, ignore_eos=True).completions()
            for folder in (large.folder, pair.folder)
        ]
        assert tokens[0] == tokens[1]


def test_every_weight_is_stored_once_and_none_that_nobody_reads(large: Pair) -> None:
    """What is in the file are the model's tensors, or their transposes; what else the graphs hold are small constants
    and the adapters' defaults."""
    import onnx

    own = {}
    for name, tensor in large.base.module.state_dict().items():
        array = tensor.numpy()
        own[array.tobytes()] = own[np.ascontiguousarray(array.T).tobytes()] = own.get(array.tobytes(), name)
    stored: dict[str, tuple[str, int]] = {}
    for file in (ENCODER, DECODER):
        graph = onnx.load(large.folder / file, load_external_data=False).graph
        read = {name for node in graph.node for name in node.input}
        for tensor in graph.initializer:
            entry = {item.key: item.value for item in tensor.external_data}
            if not entry or tensor.name in large.manifest.tensors:
                continue
            assert tensor.name in read
            assert entry["location"] == WEIGHTS
            with (large.folder / WEIGHTS).open("rb") as weights:
                weights.seek(int(entry["offset"]))
                content = weights.read(int(entry["length"]))
            assert content in own, tensor.name
            place = stored.setdefault(own[content], (entry["offset"], len(content)))
            assert place == (entry["offset"], len(content)), f"{own[content]} is stored twice"
    assert set(stored) == set(own.values())
    distinct = {parameter.data_ptr(): parameter.nbytes for parameter in large.base.module.state_dict().values()}
    assert sum(length for _, length in stored.values()) == sum(distinct.values())
