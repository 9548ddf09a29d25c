"""Grafts into the graphs that optimum makes of an encoder and a decoder, against PyTorch in float64."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from adapter_export import AdapterSession, InputError, graft, plan_graft
from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import DECODER, ENCODER, MODEL, past_of
from adapter_export.reading.hashes import sha256
from tests.finished import ADAPTERS, OPTIMUM_THREE, OPTIMUM_TWO, Finished

# Of float32, relative to the largest output.
TOLERANCE = 1e-5
WITH_PAST = "decoder_with_past_model.onnx"
IDS = np.array([[5, 9, 7, 11, 20], [8, 4, 0, 0, 0], [6, 30, 12, 3, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
WRITTEN = np.array([[2, 5, 8, 3], [2, 7, 7, 9], [2, 40, 6, 1]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": WRITTEN}


def check(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(actual - wanted).max() < TOLERANCE * np.abs(wanted).max()


def plain(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def named(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def in_two_steps(bundle: Path, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of WRITTEN, whose tokens the decoder reads in two runs, beginning with an empty cache."""
    states = named(plain(bundle / ENCODER), {"input_ids": IDS, "attention_mask": MASK, **tensors})
    decoder = plain(bundle / DECODER)
    cache = {past_of(name): value for name, value in states.items() if name.startswith("present")}
    for place in decoder.get_inputs():
        if ".decoder." in place.name:
            cache[place.name] = np.zeros((len(IDS), place.shape[1], 0, place.shape[3]), np.float32)
    logits = []
    for tokens in (WRITTEN[:, :1], WRITTEN[:, 1:]):
        outputs = named(decoder, {"input_ids": tokens, "encoder_attention_mask": MASK, **cache, **tensors})
        logits.append(outputs.pop("logits"))
        cache |= {past_of(name): value for name, value in outputs.items()}
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_swapped_in_onnx_runtime(model_type: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_THREE, model_type)
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert [*manifest.graphs] == [ENCODER, DECODER]
    assert manifest.graft is not None
    assert manifest.graft.verified
    assert manifest.graft.sha256 == sha256(made.graph / ENCODER)
    assert manifest.graft.more == {name: sha256(made.graph / name) for name in (DECODER, WITH_PAST)}
    base = made.expected(None, INPUTS)
    for name in (None, *ADAPTERS, None):
        file = tmp_path / f"bundle/adapters/{name}.onnx_adapter"
        wanted = made.expected(name, INPUTS)
        check(in_two_steps(tmp_path / "bundle", {} if name is None else read_adapter_file(file)), wanted)
        assert name is None or np.abs(wanted - base).max() > 1000 * TOLERANCE * np.abs(base).max()


@pytest.mark.parametrize("model_type", ["t5", pytest.param("bart", marks=pytest.mark.thorough)])
def test_without_a_cache_it_is_one_graph(model_type: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_TWO, model_type)
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert ([*manifest.graphs], [*manifest.outputs]) == ([MODEL], ["logits"])
    with AdapterSession(tmp_path / "bundle") as session:
        for name in (None, *ADAPTERS, None):
            check(session.run(INPUTS, name)["logits"], made.expected(name, INPUTS))


def generated(session: AdapterSession, prompts: list[Any], **choice: Any) -> tuple[list[list[int]], np.ndarray]:
    generation = session.generate(prompts, max_new_tokens=5, ignore_eos=True, **choice)
    logits = np.stack([step.logits for step in generation], axis=1)
    return [list(row.tokens) for row in generation.completions()], logits


def test_every_row_generates_with_its_own_adapter(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_THREE, "t5")
    graft(made.graph, made.adapters, tmp_path / "bundle", mode="bank")
    prompts, names = [[5, 9, 7, 11, 20], [8], [6, 30, 12]], ["lora", None, "pfeiffer"]
    start = made.base.module.config.decoder_start_token_id
    with AdapterSession(tmp_path / "bundle") as session:
        tokens, logits = generated(session, prompts, adapters=names)
    for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        text = {"input_ids": np.array([prompt]), "decoder_input_ids": np.array([[start, *tokens[row][:-1]]])}
        check(logits[row], made.expected(name, text)[0])


@pytest.mark.thorough
def test_whisper(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """Its encoder reads sound, and its decoder has no mask."""
    made = finished(OPTIMUM_THREE, "whisper")
    graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    shape = made.base.module.config
    sound = np.random.default_rng(0).normal(size=(2, shape.num_mel_bins, 2 * shape.max_source_positions))
    with AdapterSession(tmp_path / "bundle") as session:
        for name in ADAPTERS:
            tokens, logits = generated(session, list(sound.astype(np.float32)), adapter=name)
            written = np.array([[shape.decoder_start_token_id, *row[:-1]] for row in tokens])
            inputs = {"input_features": sound.astype(np.float32), "decoder_input_ids": written}
            check(logits, made.expected(name, inputs))


def test_an_embedded_adapter(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_THREE, "t5")
    graft(made.graph, {"houlsby": made.adapters["houlsby"]}, tmp_path / "bundle", mode="embedded")
    check(in_two_steps(tmp_path / "bundle", {}), made.expected("houlsby", INPUTS))


def test_the_encoders_graph_has_no_more_than_it_needs(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """Of the decoder, the keys and values of cross-attention alone."""
    made = finished(OPTIMUM_THREE, "t5")
    graft(made.graph, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle")
    graph = onnx.load(str(tmp_path / "bundle" / ENCODER)).graph
    of_decoder = {node.name for node in graph.node if "/decoder/" in node.name and node.op_type == "MatMul"}
    layers = made.base.module.config.num_layers
    assert of_decoder == {
        f"/decoder/block.{layer}/layer.1/EncDecAttention/{name}/MatMul" for layer in range(layers) for name in "kv"
    }
    assert {value.name for value in graph.input} - {value.name for value in graph.initializer} == {
        "input_ids",
        "attention_mask",
    }


def test_weights_beside_the_graphs(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """As optimum leaves those of large models: of each graph in a file of its own."""
    made = finished(OPTIMUM_THREE, "t5")
    folder = tmp_path / "graphs"
    folder.mkdir()
    shutil.copy(made.graph / "config.json", folder)
    for name in (ENCODER.value, DECODER.value, WITH_PAST):
        model = onnx.load(str(made.graph / name))
        settings = {"location": f"{name}_data", "size_threshold": 0}
        onnx.save(model, str(folder / name), save_as_external_data=True, **settings)
    manifest = graft(folder, made.adapters, tmp_path / "bundle", model=made.model)
    assert {f"{name}_data" for name in (ENCODER.value, DECODER.value, WITH_PAST)} <= set(manifest.files)
    tensors = read_adapter_file(tmp_path / "bundle/adapters/lora.onnx_adapter")
    check(in_two_steps(tmp_path / "bundle", tensors), made.expected("lora", INPUTS))


def test_a_dry_run_names_the_files(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_THREE, "t5")
    plan = plan_graft(made.graph, made.adapters, tmp_path / "bundle")
    assert plan.graphs == tuple(made.graph / name for name in (ENCODER, DECODER, WITH_PAST))
    assert plan.sites == len(graft(made.graph, made.adapters, tmp_path / "bundle").sites)


class TestRefusals:
    @pytest.fixture
    def graphs(self, finished: Callable[..., Finished], tmp_path: Path) -> tuple[Finished, Path]:
        """What optimum made of T5, and a copy of it."""
        made = finished(OPTIMUM_THREE, "t5")
        return made, Path(shutil.copytree(made.graph, tmp_path / "graphs"))

    def refused(self, made: Finished, graph: Path, message: str, output: Path, model: Path | None = None) -> None:
        with pytest.raises(InputError, match=message):
            graft(graph, {"ia3": made.adapters["ia3"]}, output, model=model)
        assert not output.exists()

    def changed(self, file: Path, change: Callable[[onnx.ModelProto], None]) -> None:
        model = onnx.load(str(file))
        change(model)
        onnx.save(model, str(file))

    @pytest.mark.parametrize("name", [ENCODER.value, DECODER.value, WITH_PAST, "decoder_model_merged.onnx"])
    def test_one_file_of_several(self, name: str, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs
        self.refused(made, folder / name, rf"{name}: has only a part of an encoder-decoder", tmp_path / "bundle")

    def test_a_missing_decoder(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs
        (folder / DECODER).unlink()
        self.refused(made, folder, rf"expected {DECODER} beside {ENCODER}, found decoder_model_merged", tmp_path / "b")

    def test_a_graph_that_is_none_of_them(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs
        (folder / "other.onnx").touch()
        self.refused(made, folder, r"expected one file \*\.onnx, or .*, found .*other\.onnx", tmp_path / "bundle")

    @pytest.mark.parametrize("file", [ENCODER.value, DECODER.value, WITH_PAST])
    def test_exchanged_layers(self, file: str, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs

        def exchange(model: onnx.ModelProto) -> None:
            for node in model.graph.node:
                node.name = node.name.replace("block.0/", "?").replace("block.1/", "block.0/").replace("?", "block.1/")

        self.changed(folder / file, exchange)
        message = r"site (en|de)coder\.block\.\d\.[\w.]+: the weight of node '.*' is not that of"
        self.refused(made, folder, message, tmp_path / "bundle", made.model)

    def test_an_input_that_no_bundle_feeds(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs

        def add(model: onnx.ModelProto) -> None:
            model.graph.input.append(onnx.helper.make_tensor_value_info("cache_position", 7, ["n"]))

        self.changed(folder / WITH_PAST, add)
        self.refused(made, folder, rf"{WITH_PAST}: input 'cache_position': expected one of", tmp_path / "bundle")

    def test_an_encoder_with_another_output(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs
        shutil.copy(folder / DECODER, folder / ENCODER)
        message = r"expected an encoder with an output 'last_hidden_state' .*, found logits"
        self.refused(made, folder, message, tmp_path / "bundle")

    def test_another_opset(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs

        def change(model: onnx.ModelProto) -> None:
            model.opset_import[0].version += 1

        self.changed(folder / ENCODER, change)
        self.refused(made, folder, r"expected an encoder and a decoder of one opset, found", tmp_path / "bundle")

    def test_states_that_depend_on_the_tokens(self, graphs: tuple[Finished, Path], tmp_path: Path) -> None:
        made, folder = graphs

        def mix(model: onnx.ModelProto) -> None:
            name = "present.0.encoder.key"
            for node in model.graph.node:
                node.output[:] = ["plain" if output == name else output for output in node.output]
                node.input[:] = ["plain" if value == name else value for value in node.input]
            nodes = [
                onnx.helper.make_node("Cast", ["input_ids"], ["tokens"], to=1),
                onnx.helper.make_node("ReduceMax", ["tokens"], ["most"], keepdims=0),
                onnx.helper.make_node("Add", ["plain", "most"], [name]),
            ]
            model.graph.node.extend(nodes)

        self.changed(folder / DECODER, mix)
        self.refused(made, folder, r"cross-attention depend on 'decoder_input_ids'", tmp_path / "bundle")
