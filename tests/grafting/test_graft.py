"""Grafts into graphs of other tools, against PyTorch in float64, in plain ONNX Runtime and in our session."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adapter_export import AdapterSession, InputError, add_adapter, graft, plan_graft
from adapter_export.bundle.graphs import MODEL
from adapter_export.runtime.generation.cache import CachedDecoder
from adapter_export.runtime.session import AdapterSession as Session
from tests.finished import ADAPTERS, MISTRAL_WINDOW, OPTIMUM_CACHE, Finished, given, session_inputs, swapped

# Of float32, relative to the largest output.
TOLERANCE = 1e-5
FLOAT32 = [
    ("fp32", "llama"),
    ("fp32", "qwen2"),
    ("fp32", "qwen3"),
    ("optimum", "bert"),
    ("optimum", "distilbert"),
    # Its layers share weights.
    ("optimum", "albert"),
    # Its feed-forward has the tokens of all rows one after the other.
    ("optimum", "opt"),
    ("optimum", "vit"),
    ("optimum", "t5"),
    ("dynamo", "bert"),
    # Its layers share weights.
    ("dynamo", "albert"),
    ("dynamo", "gpt2"),
    ("dynamo", "llama"),
    ("own", "bert"),
    pytest.param("olive", "llama", marks=pytest.mark.thorough),
]
every_graph = pytest.mark.parametrize(("tool", "model_type"), FLOAT32, ids=str)


def error(actual: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None) -> float:
    """Relative to the largest output. What stands at padding is no output."""
    difference = np.abs(actual - wanted)
    if mask is not None and mask.shape == difference.shape[:2]:
        difference = difference[mask.astype(bool)]
    return float(difference.max() / np.abs(wanted).max())


@every_graph
def test_swapped_in_onnx_runtime(tool: str, model_type: str, finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(tool, model_type)
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert manifest.graft is not None
    assert manifest.graft.verified
    plain = made.expected(None, given(made, model_type))
    for name, found, wanted, mask in swapped(made, tmp_path / "bundle", model_type):
        assert error(found, wanted, mask) < TOLERANCE, name
        if name is not None:
            assert error(plain, wanted, mask) > 1000 * TOLERANCE


@pytest.mark.parametrize(("tool", "model_type"), [("fp32", "llama"), ("optimum", "bert")])
def test_every_row_its_own_in_a_bank(
    tool: str, model_type: str, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    made = finished(tool, model_type)
    adapters = {name: folder for name, folder in made.adapters.items() if name != "parallel"}
    graft(made.graph, adapters, tmp_path / "bundle", mode="bank")
    add_adapter(tmp_path / "bundle", {"parallel": made.adapters["ia3"]})
    rows = ["houlsby", None, "lora", "parallel", "pfeiffer"]
    one = given(made, model_type, rows=1)
    inputs = {name: np.repeat(value, len(rows), axis=0) for name, value in one.items()}
    with AdapterSession(tmp_path / "bundle") as session:
        found = next(iter(session.run(session_inputs(session.manifest.inputs, inputs), adapters=rows).values()))
    for row, name in enumerate(rows):
        wanted = made.expected("ia3" if name == "parallel" else name, one)
        assert error(found[row : row + 1], wanted, None) < TOLERANCE, name


def test_embedded(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    graft(made.graph, {"houlsby": made.adapters["houlsby"]}, tmp_path / "bundle", mode="embedded")
    inputs = given(made, "llama")
    with AdapterSession(tmp_path / "bundle") as session:
        found = session.run(session_inputs(session.manifest.inputs, inputs))["logits"]
    assert error(found, made.expected("houlsby", inputs), None) < TOLERANCE


def in_steps(session: Session, prompts: list[list[int]], **choice: Any) -> tuple[list[list[int]], np.ndarray]:
    generation = session.generate(prompts, max_new_tokens=6, ignore_eos=True, **choice)
    logits = np.stack([step.logits for step in generation], axis=1)
    return [list(row.tokens) for row in generation.completions()], logits


@pytest.mark.parametrize(
    ("tool", "model_type"), [("fp32", "llama"), ("fp32", "gemma2"), (OPTIMUM_CACHE, "llama"), (OPTIMUM_CACHE, "gpt2")]
)
def test_generation_of_prompts_of_different_lengths(
    tool: str, model_type: str, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """The attention of the builder takes batches that are padded on the right. Gemma 2 has a window of 4 tokens."""
    made = finished(tool, model_type)
    graft(made.graph, made.adapters, tmp_path / "bundle", mode="bank")
    # GenAI cannot choose an adapter for each row.
    assert not (tmp_path / "bundle/genai_config.json").exists()
    prompts, names = [[5, 9, 7, 11, 20], [8], [6, 30, 12]], ["lora", None, "pfeiffer"]
    with AdapterSession(tmp_path / "bundle") as session:
        tokens, logits = in_steps(session, prompts, adapters=names)
    for row, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        text = {"input_ids": np.array([[*prompt, *tokens[row][:-1]]])}
        wanted = made.expected(name, text)[0, len(prompt) - 1 :]
        assert np.abs(logits[row] - wanted).max() < TOLERANCE * np.abs(wanted).max()


def test_a_window_that_the_builder_left_out(
    finished: Callable[..., Finished], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mistral's: up to its length, the graph computes what the model does. Longer texts are refused."""
    made = finished("fp32", "mistral")
    manifest = graft(made.graph, {"lora": made.adapters["lora"]}, tmp_path / "bundle", model=made.model)
    assert manifest.longest_text == MISTRAL_WINDOW
    assert f"the model's the last {MISTRAL_WINDOW}; texts are limited to {MISTRAL_WINDOW} tokens" in caplog.text
    prompt = [5, 9, 7]
    with AdapterSession(tmp_path / "bundle") as session:
        tokens, logits = in_steps(session, [prompt], adapter="lora")
        wanted = made.expected("lora", {"input_ids": np.array([[*prompt, *tokens[0][:-1]]])})[0, len(prompt) - 1 :]
        assert np.abs(logits[0] - wanted).max() < TOLERANCE * np.abs(wanted).max()
        with pytest.raises(InputError, match=r"prompt 0: .*8"):
            in_steps(session, [[5, 9, 7, 11]], adapter="lora")


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_prompt_needs_the_logits_of_its_last_tokens_only(
    model_type: str, finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """Gemma 2 caps its logits."""
    made = finished("fp32", model_type)
    manifest = graft(made.graph, {"lora": made.adapters["lora"]}, tmp_path / "bundle")
    info = manifest.graphs[manifest.model]
    assert info.logits_to_keep
    ids = np.array([[5, 9, 7, 11, 20], [8, 4, 3, 2, 6]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(5) + 0 * ids}
    with AdapterSession(tmp_path / "bundle") as session:
        decoder = CachedDecoder(session.bound(["lora", "lora"])[manifest.model], info, 2)
        given = {name: value for name, value in feeds.items() if name in info.inputs}
        every = decoder.logits(given).copy()
        decoder.forget()
        last = decoder.run(given)
    wanted = made.expected("lora", {"input_ids": ids})
    assert np.abs(every - wanted).max() < TOLERANCE * np.abs(wanted).max()
    assert np.abs(last - wanted[:, -1]).max() < TOLERANCE * np.abs(wanted).max()


def test_int4_changes_in_the_direction_of_the_adapter(finished: Callable[..., Finished], tmp_path: Path) -> None:
    """The graph's own weights are another model's. What an adapter does to the two is alike."""
    made = finished("int4", "llama")
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    inputs = given(made, "llama")
    fed = session_inputs(manifest.inputs, inputs)
    base = made.expected(None, inputs)
    with AdapterSession(tmp_path / "bundle") as session:
        before = session.run(fed)["logits"]
        effects = {name: session.run(fed, name)["logits"] - before for name in ADAPTERS}
        np.testing.assert_array_equal(session.run(fed)["logits"], before)
    wanted = {name: made.expected(name, inputs) - base for name in ADAPTERS}
    for name, effect in effects.items():
        own = {other: cosine(effect, value) for other, value in wanted.items()}
        assert own[name] > 0.9
        assert max(own, key=lambda other: own[other]) == name


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_other_tools_weights_are_not_rewritten(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    before = {path.name: path.read_bytes() for path in made.graph.iterdir()}
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle")
    assert {path.name: path.read_bytes() for path in made.graph.iterdir()} == before
    assert (tmp_path / "bundle/model.onnx.data").read_bytes() == before["model.onnx.data"]
    assert json.loads((tmp_path / "bundle/genai_config.json").read_text()) == json.loads(before["genai_config.json"])
    assert manifest.graft is not None
    assert not manifest.graft.verified
    assert {"genai_config.json", "tokenizer.json", "model.onnx.data"} <= set(manifest.files)


def with_output(made: Finished, folder: Path, name: str) -> Path:
    """The graph, its first output named otherwise."""
    shutil.copytree(made.graph, folder)
    model = onnx.load(str(folder / MODEL))
    old = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [name if output == old else output for output in node.output]
        node.input[:] = [name if value == old else value for value in node.input]
    model.graph.output[0].name = name
    onnx.save(model, str(folder / MODEL))
    return folder


def test_an_output_that_olive_has_renamed(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("optimum", "bert")
    manifest = graft(with_output(made, tmp_path / "graph", "last_hidden_state_Q4"), made.adapters, tmp_path / "bundle")
    assert [*manifest.outputs] == ["last_hidden_state"]


def test_two_outputs_of_the_same_value(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("optimum", "bert")
    folder = Path(shutil.copytree(made.graph, tmp_path / "graph"))
    model = onnx.load(str(folder / MODEL))
    again = onnx.ValueInfoProto()
    again.CopyFrom(model.graph.output[0])
    again.name = "again"
    model.graph.node.append(onnx.helper.make_node("Identity", ["last_hidden_state"], ["again"]))
    model.graph.output.append(again)
    onnx.save(model, str(folder / MODEL))
    graft(folder, made.adapters, tmp_path / "bundle")
    inputs = given(made, "bert")
    with AdapterSession(tmp_path / "bundle") as session:
        found = session.run(session_inputs(session.manifest.inputs, inputs), "houlsby")
    np.testing.assert_array_equal(found["again"], found["last_hidden_state"])


def test_a_graph_without_the_output_of_its_task(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished(OPTIMUM_CACHE, "gpt2")
    folder = with_output(made, tmp_path / "graph", "scores")
    with pytest.raises(InputError, match=r"model\.onnx: expected an output 'logits', found scores, present"):
        graft(folder, made.adapters, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_neither_torch_nor_transformers_is_loaded(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    program = (
        "import sys, adapter_export\n"
        "graph, model, adapter, output = sys.argv[1:]\n"
        "adapter_export.graft(graph, {'one': adapter}, output, model=model)\n"
        "print({'torch', 'transformers', 'onnxscript'} & set(sys.modules))"
    )
    arguments = [str(path) for path in (made.graph, made.model, made.adapters["pfeiffer"], tmp_path / "bundle")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_dry_run_says_where_and_writes_nothing(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp32", "llama")
    plan = plan_graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert (plan.sites, plan.task, plan.verified) == (len(manifest.sites), "causal-lm", True)
    assert {site.site for adapter in plan.adapters for site in adapter.sites} == {
        f"{site.module}{'.input' if site.port == 'input' else ''}" for site in manifest.sites
    }
    plan_graft(made.graph, made.adapters, tmp_path / "other")
    assert not (tmp_path / "other").exists()


class TestWrongPlaces:
    """Names that lie are found by the weights."""

    @pytest.fixture
    def exchanged(self, tmp_path: Path) -> Callable[..., Path]:
        """Called as (graph, one, other) -> a copy of the graph whose nodes have exchanged these parts of names."""

        def make(graph: Path, one: str, other: str) -> Path:
            folder = Path(shutil.copytree(graph, tmp_path / "exchanged"))
            model = onnx.load(str(folder / MODEL), load_external_data=False)
            for node in model.graph.node:
                node.name = node.name.replace(one, "?").replace(other, one).replace("?", other)
            onnx.save(model, str(folder / MODEL))
            return folder

        return make

    @pytest.mark.parametrize("tool", ["fp32", "int4"])
    def test_two_layers(
        self, tool: str, finished: Callable[..., Finished], exchanged: Callable[..., Path], tmp_path: Path
    ) -> None:
        made = finished(tool, "llama")
        folder = exchanged(made.graph, "layers.0/", "layers.1/")
        for name in ADAPTERS:
            with pytest.raises(InputError, match=r"site layers\.\d\.[\w.]+: the weight of node '.*' is not that of"):
                graft(folder, {name: made.adapters[name]}, tmp_path / "bundle", model=made.model)
        assert not (tmp_path / "bundle").exists()

    def test_two_layers_of_the_same_shape(
        self, finished: Callable[..., Finished], exchanged: Callable[..., Path], tmp_path: Path
    ) -> None:
        made = finished("optimum", "bert")
        folder = exchanged(made.graph, "self/key", "self/value")
        with pytest.raises(InputError, match=r"site [\w.]+self\.\w+: the weight of node '.*' is not that of"):
            graft(folder, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle", model=made.model)

    def test_parts_of_a_packed_layer(self, finished: Callable[..., Finished], tmp_path: Path) -> None:

        made = finished("fp32", "llama")
        folder = Path(shutil.copytree(made.graph, tmp_path / "exchanged"))
        model = onnx.load(str(folder / MODEL))
        for tensor in model.graph.initializer:
            if "qkv_proj" in tensor.name:
                weight = numpy_helper.to_array(tensor)
                query, key, value = np.split(weight, [weight.shape[1] // 2, weight.shape[1] * 3 // 4], axis=1)
                tensor.CopyFrom(numpy_helper.from_array(np.concatenate([query, value, key], axis=1), tensor.name))
        (folder / "model.onnx.data").unlink()
        onnx.save(model, str(folder / MODEL))
        with pytest.raises(InputError, match=r"site layers\.0\.self_attn\.[kv]_proj: the weight of node"):
            graft(folder, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle", model=made.model)


class TestRefusals:
    def test_a_place_that_the_graph_does_not_show(self, finished: Callable[..., Finished], tmp_path: Path) -> None:

        made = finished("optimum", "bert")
        model = onnx.load(str(made.graph / MODEL))
        for node in model.graph.node:
            node.name = node.name.replace("/layer.1/attention/self/key/", "/layer.1/attention/self/renamed/")
        onnx.save(model, str(tmp_path / MODEL))
        (tmp_path / "config.json").write_bytes((made.graph / "config.json").read_bytes())
        with pytest.raises(InputError, match=r"encoder\.layer\.1\.attention\.self\.key"):
            graft(tmp_path / MODEL, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle")

    def test_an_unknown_tool(self, finished: Callable[..., Finished], tmp_path: Path) -> None:

        made = finished("optimum", "bert")
        model = onnx.load(str(made.graph / MODEL))
        model.producer_name = "somebody"
        onnx.save(model, str(tmp_path / MODEL))
        with pytest.raises(InputError, match=r"expected a graph of one of .*, found producer 'somebody'"):
            graft(tmp_path / MODEL, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle")

    def test_missing_weights(self, finished: Callable[..., Finished], tmp_path: Path) -> None:

        made = finished("fp32", "llama")
        folder = Path(shutil.copytree(made.graph, tmp_path / "graph"))
        (folder / "model.onnx.data").unlink()
        with pytest.raises(InputError, match=r"model\.onnx\.data: no such file, though model\.onnx has weights there"):
            graft(folder, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"mode": "merged"}, "--mode merged: expected one of swappable, embedded, bank"),
            ({"mode": "embedded"}, "--adapter: expected one adapter in mode embedded, found 5"),
        ],
    )
    def test_modes(
        self, settings: dict[str, Any], message: str, finished: Callable[..., Finished], tmp_path: Path
    ) -> None:
        made = finished("optimum", "bert")
        with pytest.raises(InputError, match=message):
            graft(made.graph, made.adapters, tmp_path / "bundle", **settings)

    def test_a_task_head(
        self, finished: Callable[..., Finished], classifier_checkpoints: dict[str, Path], tmp_path: Path
    ) -> None:
        """It is left out of a graph of features, with a note, as by `onnx --task features`."""
        made = finished("optimum", "bert")
        manifest = graft(made.graph, {"one": classifier_checkpoints["ia3_two"]}, tmp_path / "bundle")
        assert manifest.adapter("one").labels is None

    def test_a_graph_that_takes_adapters_already(self, finished: Callable[..., Finished], tmp_path: Path) -> None:
        made = finished("optimum", "bert")
        graft(made.graph, {"ia3": made.adapters["ia3"]}, tmp_path / "bundle")
        with pytest.raises(InputError, match=r"model\.onnx: takes adapters already; expected a graph without"):
            graft(tmp_path / "bundle", {"lora": made.adapters["lora"]}, tmp_path / "again")
