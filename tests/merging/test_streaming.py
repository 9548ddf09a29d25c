"""From safetensors to safetensors: bits, shards, dtypes, what comes along, and what is not imported for it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export import tasks
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging import copying, piecewise
from adapter_export.merging.merge import merge
from adapter_export.reading.hashes import sha256
from tests.merging import models
from tests.merging.models import expected, tensors, write_adapter, write_model


def weights(folder: Path) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        state |= load_file(path)
    return state


def assert_same(found: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert set(found) == set(right)
    for name, tensor in right.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_product_rounded_once(tmp_path: Path, dtype: Any, shards: int) -> None:
    model = write_model(tmp_path / "model", dtype, shards)
    result = merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    assert_same(weights(tmp_path / "out"), expected(tensors(dtype), 1))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(path.name for path in model.iterdir()),
        "adapter_export.json",
        "README.md",
    }
    assert sorted(result.changed) == sorted(f"{name}.weight" for name in models.vectors())


def test_bfloat16(tmp_path: Path) -> None:
    """Against neighbours on both sides, since casts by way of float32 round twice."""
    model = write_model(tmp_path / "model", ml_dtypes.bfloat16)
    merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    before, after = tensors(ml_dtypes.bfloat16), weights(tmp_path / "out")
    for module, vector in models.vectors().items():
        exact = before[f"{module}.weight"].astype(np.float64) * vector
        found = after[f"{module}.weight"]
        error = np.abs(found.astype(np.float64) - exact)
        for side in (np.inf, -np.inf):
            beside = np.nextafter(found, ml_dtypes.bfloat16(side)).astype(np.float64)
            assert (error <= np.abs(beside - exact)).all()


def test_several_adapters_multiply_and_are_rounded_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", np.float16, 2)
    adapters = [write_adapter(tmp_path / f"adapter-{seed}", seed) for seed in (1, 2, 3)]
    merge(model, adapters, tmp_path / "out")
    together = expected(tensors(np.float16), 1, 2, 3)
    assert_same(weights(tmp_path / "out"), together)
    one_by_one = expected(expected(expected(tensors(np.float16), 1), 2), 3)
    assert any(together[name].tobytes() != tensor.tobytes() for name, tensor in one_by_one.items())
    merged = json.loads((tmp_path / "out" / "adapter_export.json").read_text())["merged"]
    assert [item["name"] for item in merged] == ["adapter-1", "adapter-2", "adapter-3"]
    assert {item["base_sha256"] for item in merged} == {weights_sha256(model)}


@pytest.mark.parametrize("piece", [1, 7, 13, 64])
@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_the_size_of_a_piece_does_not_matter(
    model_type: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path],
    tiny_info: Callable[..., Any], random_adapter: Callable[..., Any], save_checkpoint: Callable[..., Path],
) -> None:  # fmt: skip
    """Rows cut anywhere, and rows longer than a piece; linear layers and transposed ones."""
    info = tiny_info(model_type)
    folder = save_checkpoint(random_adapter(info, "ia3", 3), info)
    merge(tiny_model(model_type), folder, tmp_path / "whole")
    monkeypatch.setattr(piecewise, "_PIECE", piece)
    merge(tiny_model(model_type), folder, tmp_path / "pieces")
    assert_same(weights(tmp_path / "pieces"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("piece", [1, 65, 1 << 16])
@pytest.mark.parametrize("inner", [["fc2"], ["patch_embedding", "fc2"]])
def test_convolutions_on_both_sides_give_the_bits_of_peft(
    inner: list[str], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> None:
    """float32 products are exact in float64, so what PEFT rounds once in float32 is the same."""
    import torch
    import transformers
    from peft import IA3Config, get_peft_model

    monkeypatch.setattr(piecewise, "_PIECE", piece)
    folder = tiny_model("clip_vision_model")
    config = IA3Config(target_modules=["patch_embedding", "k_proj", "fc2"], feedforward_modules=inner)
    model = get_peft_model(transformers.CLIPVisionModel.from_pretrained(folder), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    result = merge(folder, tmp_path / "adapter", tmp_path / "out")
    assert any("patch_embedding" in name for name in result.changed)
    found = transformers.CLIPVisionModel.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in model.merge_and_unload().state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_untouched_bytes_and_order_stay(tmp_path: Path) -> None:
    """The header is the very one, so whoever memory-maps by offset finds everything where it was."""
    model = write_model(tmp_path / "model", shards=2)
    merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    for path in model.glob("*.safetensors"):
        given, made = path.read_bytes(), (tmp_path / "out" / path.name).read_bytes()
        start = 8 + int.from_bytes(given[:8], "little")
        assert given[:start] == made[:start]
        assert len(given) == len(made)
    index = json.loads((tmp_path / "out" / models.INDEX).read_text())
    size = sum(tensor.nbytes for tensor in tensors().values())
    assert index["metadata"] == {"total_size": size, "of": "tests"}
    assert index["weight_map"] == json.loads((model / models.INDEX).read_text())["weight_map"]
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_sharded_with_a_new_head(
    tmp_path: Path, tiny_base: Callable[..., Any], random_adapter: Callable[..., Any], tiny_info: Callable[..., Any],
    save_checkpoint: Callable[..., Path],
) -> None:  # fmt: skip
    """Renamed tensors, and new ones, in shards and in their index."""
    import torch
    import transformers

    tiny_base("bert").module.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    shards = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 3
    info = tiny_info("bert", "text-classification")
    adapter = random_adapter(info, "ia3", labels=("x", "y"))
    folder = save_checkpoint(adapter, info)
    (folder / "adapter_export.json").write_text('{"labels": ["x", "y"], "task": "text-classification"}')
    result = merge(tmp_path / "model", folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    assert all(name.startswith("bert.") for name in result.changed)
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values())
    assert torch.equal(model.classifier.weight, torch.tensor(adapter.head["classifier"].weight))
    assert model.config.id2label == {0: "x", 1: "y"}


def test_a_wide_type_stays_aligned_beside_a_new_head(tmp_path: Path) -> None:
    """Some readers need every tensor at a multiple of its values' size."""
    model = write_model(tmp_path / "model", np.float16, architectures=["LlamaForSequenceClassification"])
    state = {
        **tensors(np.float16), "model.odd": np.zeros(3, np.float16), "model.wide": np.arange(3),
        "model.flags": np.array([True, False, True]),
    }  # fmt: skip
    del state["lm_head.weight"]
    save_file(state, model / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", task_type="SEQ_CLS")
    held = load_file(adapter / "adapter_model.safetensors")
    score = np.random.default_rng(0).normal(size=(3, models.HIDDEN)).astype(np.float32)
    save_file({**held, "base_model.model.score.weight": score}, adapter / "adapter_model.safetensors")
    merge(model, adapter, tmp_path / "out")
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    sizes = {"I64": 8, "F16": 2, "BOOL": 1}
    assert all(item["data_offsets"][0] % sizes[item["dtype"]] == 0 for item in header.values())
    found = weights(tmp_path / "out")
    assert_same(found, {**expected(state, 1), "score.weight": score.astype(np.float16)})


_LISTENING = """
import sys
from adapter_export.cli import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({"torch", "transformers", "peft", "onnx", "onnxruntime"} & set(sys.modules)))
"""


def test_no_framework_is_imported(tmp_path: Path) -> None:
    write_model(tmp_path / "model", shards=2)
    write_adapter(tmp_path / "adapter")
    arguments = ["--model", tmp_path / "model", "--adapter", tmp_path / "adapter", "--output", tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, "-c", _LISTENING, "merge", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert_same(weights(tmp_path / "out"), expected(tensors(), 1))


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = write_model(tmp_path / "model", shards=2)
    merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out", progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert len({step[1] for step in seen}) == 1
    others = ("adapter_export.json", "README.md", models.INDEX)
    files = [path for path in (tmp_path / "out").iterdir() if path.name not in others]
    assert seen[-1] == (seen[-1][1], sum(path.stat().st_size for path in files))


class TestCopying:
    @pytest.mark.parametrize("kernel", ["", "none", "refuses", "stops half-way"])
    def test_every_way_gives_the_same_bytes(self, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        real = getattr(os, "copy_file_range", None)

        def other(source: int, target: int, size: int, begin: int, at: int) -> int:
            calls.append(size)
            if kernel == "refuses" or len(calls) > 2:
                raise OSError(errno.EXDEV, "no such copy between these")
            assert real is not None
            return int(real(source, target, min(size, 5), begin, at))

        if kernel == "none":
            monkeypatch.setattr(copying.sys, "platform", "other")
        elif kernel:
            monkeypatch.setattr(os, "copy_file_range", other)
        merge(write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter"), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), expected(tensors(), 1))
        assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"version": "1.0"}'
        assert bool(calls) == (kernel in ("refuses", "stops half-way"))

    def test_shared_extents_are_written_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on a file system that can share them: the whole file first, then only what changes."""

        def share(source: Any, target: Any) -> bool:
            target.write(Path(source.name).read_bytes())
            return True

        def never(*_: Any) -> None:
            raise AssertionError("nothing is left to copy")

        monkeypatch.setattr("adapter_export.merging.stream.clone", share)
        monkeypatch.setattr("adapter_export.merging.stream.copy_range", never)
        model = write_model(tmp_path / "model", shards=2)
        merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), expected(tensors(), 1))

    def test_a_real_error_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "copy_file_range", full)
        with pytest.raises(OSError, match="No space left"):
            merge(write_model(tmp_path / "model", shards=3), write_adapter(tmp_path / "adapter"), tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "model"]

    def test_a_file_that_shrinks_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "short").write_bytes(b"12345")
        with copying.FileIO(tmp_path / "short") as file, pytest.raises(InputError, match="short: became shorter"):
            copying.read_at(file, 2, 4)
        (tmp_path / "short").unlink()
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
        with pytest.raises(InputError, match=r"model\.safetensors: became shorter while it was read"):
            merge(write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter"), tmp_path / "out")


class TestRefusals:
    def refused(self, tmp_path: Path, model: Path, *, match: str, adapter: Path | None = None) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(CannotMerge, match=match) as error:
            merge(model, adapter or write_adapter(tmp_path / "other" / "adapter"), tmp_path / "out")
        assert "\n" not in str(error.value)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        assert sorted(tmp_path.iterdir()) == before

    def test_bin_weights_say_how_to_convert(self, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model")
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
        self.refused(tmp_path, model, match=r"convert them once: python -c .*LlamaForCausalLM.*save_pretrained")

    def test_the_conversion_works(
        self, tmp_path: Path, tiny_model: Callable[..., Path], tiny_base: Callable[..., Any],
        classifier_checkpoints: dict[str, Path],
    ) -> None:  # fmt: skip
        import torch

        model = Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))
        (model / "model.safetensors").unlink()
        torch.save(tiny_base("bert").module.state_dict(), model / "pytorch_model.bin")
        with pytest.raises(CannotMerge) as error:
            merge(model, classifier_checkpoints["ia3_two"], tmp_path / "out")
        command = str(error.value).partition("convert them once: ")[2].replace("python", sys.executable, 1)
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
        sidecar = Path(shutil.copytree(classifier_checkpoints["ia3_two"], tmp_path / "adapter")) / "adapter_export.json"
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "base_sha256": None}))
        merge(tmp_path / "converted", tmp_path / "adapter", tmp_path / "out")

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, ml_dtypes.float8_e4m3fn, np.int32])
    def test_quantized_weights(self, dtype: Any, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model")
        state = tensors()
        name = "model.layers.1.mlp.down_proj.weight"
        save_file({**state, name: state[name].astype(dtype)}, model / "model.safetensors")
        self.refused(tmp_path, model, match=rf"{name} is quantized \((I8|U8|F8_E4M3|I32)\)")

    def test_quantized_tensors_that_are_not_scaled_are_copied(self, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model")
        state = {**tensors(), "model.positions": np.arange(4), "lm_head.weight": np.ones((2, 2), np.int8)}
        save_file(state, model / "model.safetensors")
        merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
        assert_same(weights(tmp_path / "out"), expected(state, 1))

    def test_layers_without_values(self, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model")
        state = {**tensors(), "model.layers.0.mlp.down_proj.weight": np.zeros((8, 0), np.float32)}
        save_file({**state, "model.layers.0.mlp.down_proj.bias": np.zeros(8, np.float32)}, model / "model.safetensors")
        with pytest.raises(InputError, match=r"layers\.0\.mlp\.down_proj"):
            merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")

    def test_a_result_beyond_the_dtype(self, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model", np.float16, 2)
        adapter = write_adapter(tmp_path / "adapter")
        held = load_file(adapter / "adapter_model.safetensors")
        save_file(
            {name: value * np.float32(1e6) for name, value in held.items()}, adapter / "adapter_model.safetensors"
        )
        self.refused(tmp_path, model, match="is not finite in float16 after the merge", adapter=adapter)

    def test_a_module_that_is_no_layer(self, tiny_model: Callable[..., Path]) -> None:
        """No checkpoint's reader lets it through; a method of the future may."""
        from adapter_export.checkpoints.adapter import Adapter
        from adapter_export.merging.model_folder import read_model_folder
        from adapter_export.merging.plan import plan_changes
        from adapter_export.merging.weights import read_weight_headers
        from adapter_export.methods.contract import SiteAdapter
        from adapter_export.methods.ia3 import IA3Operator
        from adapter_export.reading.json_files import read_json
        from adapter_export.sites import Port, Site

        folder = tiny_model("bert")
        config = read_json(folder / "config.json")
        model_folder = read_model_folder(folder, config, read_weight_headers(folder, config))
        site_adapter = SiteAdapter(IA3Operator(), {"l": np.ones(32, np.float32)})
        for module in ("encoder.layer.0.output.LayerNorm", "embeddings.word_embeddings"):
            with pytest.raises(CannotMerge, match=f"{module} is no linear layer or convolution"):
                plan_changes(model_folder, [Adapter("ia3", {Site(module, Port.OUTPUT): site_adapter})])

    def test_a_tied_output_layer(self, tmp_path: Path) -> None:
        model = write_model(tmp_path / "model", tie_word_embeddings=True)
        adapter = write_adapter(tmp_path / "adapter", target_modules=["lm_head"], feedforward_modules=[])
        vector = {"base_model.model.lm_head.ia3_l": np.ones((models.VOCABULARY, 1), np.float32)}
        save_file(vector, adapter / "adapter_model.safetensors")
        with pytest.raises(InputError, match="scales the output layer, which is not supported in any mode"):
            merge(model, adapter, tmp_path / "out")

    @pytest.mark.parametrize("scaled", ["kept", "removed"])
    def test_weights_an_older_writer_found_shared(self, scaled: str, tmp_path: Path) -> None:
        """It left one of the two names out of the file and noted which in its metadata."""
        model = write_model(tmp_path / "model")
        state = tensors()
        names = [f"model.layers.{i}.self_attn.k_proj.weight" for i in range(2)]
        kept, removed = names if scaled == "kept" else reversed(names)
        del state[removed]
        save_file(state, model / "model.safetensors", metadata={removed: kept})
        module = "model.layers.0.self_attn.k_proj"
        adapter = write_adapter(tmp_path / "adapter", target_modules=[module], feedforward_modules=[])
        vector = {f"base_model.model.{module}.ia3_l": models.vectors()[module]}
        save_file(vector, adapter / "adapter_model.safetensors")
        match = r"layers\.0\.self_attn\.k_proj\.weight: its weight is tied to model\.layers\.1"
        self.refused(tmp_path, model, match=match, adapter=adapter)

    def test_the_same_adapter_in_any_form(self, tmp_path: Path) -> None:
        """Twice at once; again; and again after it was written in another file."""
        import torch

        model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter")
        with pytest.raises(CannotMerge, match="adapters adapter and adapter are the same"):
            merge(model, [adapter, adapter], tmp_path / "out")
        merge(model, adapter, tmp_path / "once")
        held = load_file(adapter / "adapter_model.safetensors")
        (adapter / "adapter_model.safetensors").unlink()
        torch.save({name: torch.from_numpy(value) for name, value in held.items()}, adapter / "adapter_model.bin")
        with pytest.raises(CannotMerge, match="already merged into it: adapter"):
            merge(tmp_path / "once", adapter, tmp_path / "twice")

    def test_a_receipt_with_the_file_alone(self, tmp_path: Path) -> None:
        """As the first versions wrote it."""
        model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter")
        digest = sha256(adapter / "adapter_model.safetensors")
        (model / "adapter_export.json").write_text(json.dumps({"merged": [{"adapter_sha256": digest}]}))
        with pytest.raises(CannotMerge, match="already merged into it: adapter"):
            merge(model, adapter, tmp_path / "out")

    def test_two_heads(
        self, tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
    ) -> None:
        both = [classifier_checkpoints["ia3_two"], classifier_checkpoints["ia3_three"]]
        with pytest.raises(CannotMerge, match="2 of the adapters bring a task head"):
            merge(tiny_model("bert"), both, tmp_path / "out")

    def test_no_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="at least one adapter"):
            merge(write_model(tmp_path / "model"), [], tmp_path / "out")


def test_experts_of_a_mixture_merge_one_by_one(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """An adapter that transformers 4 trained on Mixtral, whose experts are modules of their own there and on disk."""
    model = tiny_model("mixtral", "causal-lm")
    before = weights(model)
    rng = np.random.default_rng(0)
    scale = {}
    for name, tensor in before.items():
        if name.endswith(".w2.weight") or "k_proj" in name or "v_proj" in name:
            shape = (1, tensor.shape[1]) if ".w2." in name else (len(tensor), 1)
            scale[name] = rng.normal(1, 0.3, shape).astype(np.float32)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {f"base_model.model.{name.removesuffix('.weight')}.ia3_l": value for name, value in scale.items()},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["k_proj", "v_proj", "w2"],
              "feedforward_modules": ["w2"]}  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    result = merge(model, adapter, tmp_path / "out")
    assert len(result.changed) == 2 * (2 + 4)
    right = {n: (t.astype(np.float64) * scale[n]).astype(t.dtype) if n in scale else t for n, t in before.items()}
    assert_same(weights(tmp_path / "out"), right)


def test_a_mixture_as_transformers_5_trains_it(
    tmp_path: Path, tiny_model: Callable[..., Path], tiny_info: Callable[..., Any]
) -> None:
    """There the experts are one parameter, which PEFT's w2 does not name: keys and values only."""
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    model = tiny_model("mixtral", "causal-lm")
    config = IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    adapted.save_pretrained(tmp_path / "adapter")
    result = merge(model, tmp_path / "adapter", tmp_path / "out")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in result.changed} == {"k_proj", "v_proj"}


def test_every_task_has_a_known_class_name() -> None:
    """A language model's class becomes the task's by its stem."""
    from adapter_export.merging.task_classes import task_class

    for named in ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel", "GPT2ForTokenClassification"):
        found = task_class("gpt2", "text-classification", {"architectures": [named]})
        assert found is not None
        assert found.architecture == "GPT2ForSequenceClassification"
        assert tasks.of_architecture(found.architecture) == "text-classification"
    assert task_class("gpt2", "text-classification", {}) is None
    assert task_class("unheard_of", "text-classification", {"architectures": ["UnheardOfModel"]}) is None
