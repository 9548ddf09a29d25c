"""Bundles in the real ONNX Runtime GenAI, against PyTorch in float64 and our own session."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import Manifest, TensorInfo, read_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.dtypes import DType
from adapter_export.export.genai import GENAI_CONFIG, genai_config
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.session import AdapterSession
from samples import environments
from samples.assets import AssetError
from tests import tiny
from tests.bundles import Exported
from tests.decoders import POSITIONS

NEW = 24
LENGTHS = (5, 1, 17, 9)
# Of logits of some 10; of two closer ones either may be chosen. Measured: 4.8e-6.
CLOSE = 2e-5

# Runs where there is nothing but GenAI, ONNX Runtime and NumPy. Prompts of a job are one batch; a null among the
# adapters is none. Logits are those that each token was chosen from.
PROGRAM = """
import json, sys
import numpy as np
import onnxruntime_genai as og

job = json.load(sys.stdin)
model = og.Model(job["bundle"])
adapters = og.Adapters(model)
for name, file in job["files"].items():
    adapters.load(file, name)
prompts = np.array(job["prompts"], np.int32)
runs = []
for name in job["adapters"]:
    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=len(prompts), max_length=prompts.shape[1] + job["new"])
    generator = og.Generator(model, params)
    if name is not None:
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(prompts)
    tokens, logits = [], []
    while not generator.is_done():
        logits.append(np.array(generator.get_logits())[:, 0])
        generator.generate_next_token()
        tokens.append(generator.get_next_tokens().tolist())
    runs.append({"tokens": np.transpose(tokens).tolist(), "logits": np.stack(logits, axis=1).tolist()})
print(json.dumps({"type": model.type, "runs": runs}))
"""


@pytest.fixture(scope="session")
def genai() -> Callable[..., list[dict[str, Any]]]:
    """Called as (bundle, adapters, prompts, new=NEW) -> of each adapter tokens [rows, steps], logits [rows, steps, n].

    Prompts are padded on the right, as GenAI does.
    """
    try:
        python = environments.python(environments.GENAI)
    except AssetError as error:
        pytest.skip(str(error))

    def run(
        bundle: Path, adapters: Sequence[str | None], prompts: Sequence[Sequence[int]], new: int = NEW
    ) -> list[dict[str, Any]]:
        width = max(map(len, prompts))
        files = {name: str(bundle / "adapters" / f"{name}.onnx_adapter") for name in adapters if name is not None}
        rows = [[*prompt, *[tiny.PAD] * (width - len(prompt))] for prompt in prompts]
        job = {"bundle": str(bundle), "adapters": adapters, "files": files, "prompts": rows, "new": new}
        command = [str(python), "-I", "-c", PROGRAM]
        result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert found["type"] == "decoder"
        return list(found["runs"])

    return run


def prompts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in lengths]


def until_end(tokens: Sequence[int]) -> list[int]:
    """What a row has written: to its end token."""
    return list(tokens[: tokens.index(tiny.SEP) + 1] if tiny.SEP in tokens else tokens)


def assert_right(
    exported: Exported, adapter: str | None, given: Sequence[Sequence[int]], run: Mapping[str, Any]
) -> list[list[int]]:
    """Each logit, and so each token, is that of a full forward in float64 over all tokens before; gives the tokens."""
    import torch

    base = load_base(exported.base, "causal-lm", dtype=torch.float64)
    if adapter is not None:
        inject(base.module, load_adapter(exported.adapters[adapter], base.info))
    written = [until_end(row) for row in run["tokens"]]
    for prompt, tokens, logits in zip(given, written, run["logits"], strict=True):
        with torch.no_grad():
            every = base.module(torch.tensor([[*prompt, *tokens[:-1]]])).logits[0, len(prompt) - 1 :].numpy()
        assert np.abs(np.array(logits)[: len(tokens)] - every).max() < CLOSE
        assert (every.max(axis=1) - every[np.arange(len(tokens)), tokens]).max() < CLOSE
    return written


# Rotary positions and grouped-query attention; learned positions; attention that shares the cache's memory.
@pytest.fixture(scope="module", params=["llama", "gpt2", "fused"])
def exported(request: pytest.FixtureRequest) -> Exported:
    bundle: Exported = request.getfixturevalue(f"{request.param}_bundle")
    return bundle


class TestSwappable:
    def test_adapters_switch_and_come_back(self, genai: Callable[..., Any], exported: Exported) -> None:
        order = (None, "ia3", None, "houlsby", "ia3", None)
        (prompt,) = given = prompts((7,))
        runs = genai(exported.bundle, order, given)
        for adapter, run in zip(order, runs, strict=True):
            assert run == runs[order.index(adapter)], "the same adapter, the same bits"
        written = {name: assert_right(exported, name, given, runs[order.index(name)])[0] for name in set(order)}
        assert np.ptp([np.array(run["logits"])[0, 0] for run in runs[2:5]], axis=0).max() > 0.05, "adapters must matter"
        with AdapterSession(exported.bundle) as session:
            for name, tokens in written.items():
                (own,) = session.generate([prompt], name, max_new_tokens=NEW).completions()
                assert list(own.tokens) == tokens

    def test_prompts_of_unequal_lengths(self, genai: Callable[..., Any], exported: Exported) -> None:
        for adapter, run in zip(("houlsby", None), genai(exported.bundle, ("houlsby", None), prompts()), strict=True):
            assert_right(exported, adapter, prompts(), run)


def test_an_adapter_within_the_graph(
    genai: Callable[..., Any], llama_bundle: Exported, export: Callable[..., Exported]
) -> None:
    embedded = export(llama_bundle.base, {"houlsby": llama_bundle.adapters["houlsby"]}, "embedded", "causal-lm")
    (run,) = genai(embedded.bundle, [None], prompts((7,)))
    assert_right(embedded, "houlsby", prompts((7,)), run)


class TestContent:
    @pytest.fixture(scope="class")
    @staticmethod
    def base(llama_bundle: Exported) -> BaseModel:
        return load_base(llama_bundle.base, "causal-lm")

    @pytest.fixture
    def manifest(self, llama_bundle: Exported) -> Manifest:
        return read_manifest(llama_bundle.bundle)

    def test_the_whole_file(self, llama_bundle: Exported, manifest: Manifest) -> None:
        file = llama_bundle.bundle / GENAI_CONFIG
        assert manifest.files[GENAI_CONFIG] == sha256(file)
        assert json.loads(file.read_text()) == {
            "model": {
                "type": "decoder",
                "bos_token_id": tiny.CLS,
                "eos_token_id": [tiny.SEP],
                "pad_token_id": tiny.PAD,
                "context_length": POSITIONS,
                "vocab_size": tiny.VOCABULARY,
                "decoder": {
                    "filename": "model.onnx",
                    "hidden_size": 32,
                    "head_size": 8,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "num_hidden_layers": 2,
                    "inputs": {
                        "input_ids": "input_ids",
                        "attention_mask": "attention_mask",
                        "position_ids": "position_ids",
                        "past_key_names": "past_key_values.%d.key",
                        "past_value_names": "past_key_values.%d.value",
                    },
                    "outputs": {
                        "logits": "logits",
                        "present_key_names": "present.%d.key",
                        "present_value_names": "present.%d.value",
                    },
                },
            },
            "search": {"do_sample": False, "max_length": POSITIONS, "past_present_share_buffer": False},
        }

    @pytest.mark.parametrize(
        ("named", "written"),
        [
            ({"eos_token_id": [7, 5]}, {"eos_token_id": [7, 5], "pad_token_id": 7}),
            ({"eos_token_id": 5, "pad_token_id": 0, "bos_token_id": 1}, {"eos_token_id": [5], "pad_token_id": 0}),
            ({"eos_token_id": -1, "pad_token_id": -1, "bos_token_id": -1}, {}),
            ({"pad_token_id": 9}, {"pad_token_id": 9}),
        ],
    )
    def test_special_tokens(
        self, base: BaseModel, manifest: Manifest, tmp_path: Path, named: dict[str, Any], written: dict[str, Any]
    ) -> None:
        from transformers import GenerationConfig

        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "generation_config.json").write_text(json.dumps(named))
        before, base.module.generation_config = base.module.generation_config, GenerationConfig(**named)
        try:
            content = genai_config(tmp_path, base, manifest)
        finally:
            base.module.generation_config = before
        assert content is not None
        found = {name: value for name, value in content["model"].items() if name in ("eos_token_id", "pad_token_id")}
        assert found == written
        assert content["model"].get("bos_token_id") == (1 if named.get("bos_token_id") == 1 else None)

    def test_only_what_the_graph_reads(self, llama_bundle: Exported, base: BaseModel, manifest: Manifest) -> None:
        content = genai_config(llama_bundle.bundle, base, with_inputs(manifest, position_ids=None))
        assert content is not None
        assert list(content["model"]["decoder"]["inputs"]) == [
            "input_ids", "attention_mask", "past_key_names", "past_value_names",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param({"adapter_ids": TensorInfo(DType.INT64, ("batch",))}, id="an input of its own"),
            pytest.param({"input_ids": None}, id="no tokens"),
            pytest.param(
                {"past_key_values.1.value": TensorInfo(DType.FLOAT32, ("batch", 2, "past_sequence", 4))},
                id="other shape",
            ),
            pytest.param({"past_key_values.1.value": None}, id="keys alone"),
            pytest.param(
                {f"past_key_values.{n}.{kind}": None for n in range(2) for kind in ("key", "value")}, id="none"
            ),
            pytest.param(
                {"past_key_values.0.encoder.key": TensorInfo(DType.FLOAT32, ("batch", 2, "source", 8))},
                id="an encoder's",
            ),
        ],
    )
    def test_none_where_genai_could_not_run_it(
        self, llama_bundle: Exported, base: BaseModel, manifest: Manifest, changed: dict[str, TensorInfo | None]
    ) -> None:
        assert genai_config(llama_bundle.bundle, base, with_inputs(manifest, **changed)) is None


def with_inputs(manifest: Manifest, **changed: TensorInfo | None) -> Manifest:
    """The manifest with inputs of its graph added, changed or, for None, taken away."""
    graph = manifest.graphs[MODEL]
    inputs = {name: info for name, info in {**graph.inputs, **changed}.items() if info is not None}
    return replace(manifest, graphs={MODEL: replace(graph, inputs=inputs)})
