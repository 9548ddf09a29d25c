from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.quiet import quiet
from adapter_export.sites import Port, Site

TinyModel = Callable[..., Path]
TinyBase = Callable[..., BaseModel]


@pytest.fixture
def copy_of(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    """Called as (model_type, task) -> a copy of that tiny model's folder, to be changed."""
    return lambda *args: shutil.copytree(tiny_model(*args), tmp_path / "model")


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, task: str = "auto", **options: Any) -> str:
    """The message that loading ends with: one line that names the folder."""
    with pytest.raises(InputError) as error:
        load_base(folder, task, **options)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


class TestLoading:
    def test_a_base_model_is_frozen_in_eval_mode_and_float32(self, tiny_model: TinyModel) -> None:
        import torch

        base = load_base(tiny_model("bert"))
        assert not base.module.training
        assert not any(parameter.requires_grad for parameter in base.module.parameters())
        assert {parameter.dtype for parameter in base.module.parameters()} == {torch.float32}
        assert base.info.sha256 == weights_sha256(tiny_model("bert"))
        assert base.folder == tiny_model("bert")

    @pytest.mark.parametrize(("given", "expected"), [("float64", "float64"), ("float16", "float16")])
    def test_another_type_of_weights(self, given: str, expected: str, tiny_model: TinyModel) -> None:
        import torch

        base = load_base(tiny_model("bert"), dtype=getattr(torch, given))
        assert {parameter.dtype for parameter in base.module.parameters()} == {getattr(torch, expected)}

    @pytest.mark.parametrize(
        ("model_type", "task", "class_name"),
        [
            ("bert", "features", "BertModel"),
            ("bert", "text-classification", "BertForSequenceClassification"),
            ("vit", "image-classification", "ViTForImageClassification"),
            ("gpt2", "causal-lm", "GPT2LMHeadModel"),
            ("llama", "causal-lm", "LlamaForCausalLM"),
            ("t5", "seq2seq-lm", "T5ForConditionalGeneration"),
        ],
    )
    def test_the_task_is_read_from_the_architecture(
        self, model_type: str, task: str, class_name: str, tiny_model: TinyModel
    ) -> None:
        base = load_base(tiny_model(model_type, task))
        assert base.task == task
        assert base.info.architecture == type(base.module).__name__ == class_name
        assert not base.untrained_head

    @pytest.mark.parametrize("architectures", [..., [], None, ["BertForMaskedLM"], ["Nonsense"]])
    def test_a_task_that_cannot_be_read_is_asked_for(self, architectures: Any, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_config(folder, architectures=architectures)
        message = refused(folder)
        assert "config.json: field 'architectures': " in message
        assert "does not tell the task; choose one of features, text-classification, " in message
        assert load_base(folder, "features").task == "features"

    def test_an_unknown_task(self, tiny_model: TinyModel) -> None:
        with pytest.raises(InputError, match="task 'ner': expected one of features, text-classification"):
            load_base(tiny_model("bert"), "ner")

    def test_no_output_and_no_setting_of_transformers_changes(
        self, tiny_model: TinyModel, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from transformers.utils import logging

        before = logging.get_verbosity(), logging.is_progress_bar_enabled()
        load_base(tiny_model("bert"), "text-classification", labels=["a", "b"])
        with pytest.raises(InputError):
            load_base(tiny_model("bert"), "image-classification")
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
        captured = capfd.readouterr()
        assert captured.out == captured.err == ""

    def test_quiet_restores_settings_after_an_error(self) -> None:
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_info()
        try:
            with pytest.raises(KeyError), quiet():
                raise KeyError
            assert logging.get_verbosity() == logging.INFO
            assert logging.is_progress_bar_enabled()
        finally:
            logging.set_verbosity(before)


class TestHeads:
    def test_a_head_that_is_not_in_the_checkpoint_is_untrained(self, tiny_model: TinyModel) -> None:
        base = load_base(tiny_model("bert"), "text-classification", labels=["a", "b", "c", "d"])
        assert base.untrained_head
        assert base.module.classifier.out_features == 4
        assert base.module.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}

    def test_a_head_of_another_size_is_replaced_by_an_untrained_one(self, tiny_model: TinyModel) -> None:
        folder = tiny_model("roberta", "text-classification")
        assert not load_base(folder).untrained_head
        assert not load_base(folder, labels=["a", "b", "c"]).untrained_head
        base = load_base(folder, labels=["a", "b"])
        assert base.untrained_head
        assert base.module.classifier.out_proj.out_features == 2

    def test_a_base_class_reads_the_checkpoint_of_a_task_class(self, tiny_model: TinyModel) -> None:
        base = load_base(tiny_model("bert", "text-classification"), "features")
        assert not base.untrained_head
        assert not base.info.nested


class TestBadFolders:
    def test_an_adapter_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
        assert "expected a base model (config.json), found an adapter (adapter_config.json)" in refused(tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "none").endswith("none: expected a folder, found nothing")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert refused(tmp_path / "file").endswith("file: expected a folder, found a file")

    def test_without_config(self, tmp_path: Path) -> None:
        assert refused(tmp_path).endswith("config.json: no such file")

    def test_broken_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": ')
        assert "config.json: expected JSON, found: Expecting value" in refused(tmp_path)

    def test_without_weights(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        (folder / "model.safetensors").unlink()
        assert "expected model.safetensors or pytorch_model.bin, " in refused(folder)

    @pytest.mark.parametrize("size", [0, 7, 100, 20_000])
    def test_truncated_weights(self, size: int, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        os.truncate(folder / "model.safetensors", size)
        assert "model.safetensors: not a readable safetensors file: " in refused(folder)

    @pytest.mark.parametrize("model_type", ["no-such-model", ..., None, 7, ["bert"]])
    def test_unknown_architecture(self, model_type: Any, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_config(folder, model_type=model_type)
        assert ": cannot be loaded for features: " in refused(folder)

    def test_a_task_the_architecture_has_not(self, tiny_model: TinyModel) -> None:
        assert ": cannot be loaded for image-classification: " in refused(tiny_model("bert"), "image-classification")

    @pytest.mark.parametrize("changes", [{"num_attention_heads": 5}, {"hidden_size": "x"}, {"hidden_act": "nonsense"}])
    def test_an_impossible_config(self, changes: dict[str, Any], copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_config(folder, **changes)
        assert ": cannot be loaded for features: " in refused(folder)

    def test_a_config_of_other_sizes_than_the_weights(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_config(folder, intermediate_size=48)
        assert ": cannot be loaded for features: " in refused(folder)
        # A new head may have another size, the rest may not.
        assert "intermediate.dense" in refused(folder, "text-classification", labels=["a", "b"])

    def test_weights_that_would_be_random_are_named(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_weights(folder, lambda weights: weights.pop("embeddings.LayerNorm.weight"))
        message = refused(folder)
        assert (
            "weights of BertModel are missing from the checkpoint and would be random: embeddings.LayerNorm.weight"
            in message
        )

    def test_many_missing_weights_are_shown_by_some(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert", "text-classification")
        edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "attention" in name])
        message = refused(folder)
        assert "would be random: bert.encoder.layer.0.attention.output.LayerNorm.bias, " in message
        assert message.endswith(" ...")


class TestLayersThatTheConfigDoesNotHave:
    """A config with fewer layers than the checkpoint: transformers loads it, and the rest is told."""

    @pytest.mark.parametrize(("model_type", "field"), [("bert", "num_hidden_layers"), ("gpt2", "n_layer")])
    def test_told(self, model_type: str, field: str, copy_of: Callable[..., Path], caplog: Any) -> None:
        folder = copy_of(model_type)
        load_base(folder)
        assert "of layers that the model" not in caplog.text
        edit_config(folder, **{field: 1})
        load_base(folder)
        assert re.search(r"\d+ tensors of the checkpoint are of layers that the model, by its config", caplog.text)
        assert "layer.1." in caplog.text or "h.1." in caplog.text

    def test_a_head_for_another_task_is_none(self, copy_of: Callable[..., Path], caplog: Any) -> None:
        load_base(copy_of("bert", "text-classification"), "features")
        assert "of layers that the model" not in caplog.text

    def test_out_of_all_proportion(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_config(folder, num_hidden_layers=10**9)
        assert "field 'num_hidden_layers': expected 0 to 10,000, found 1000000000" in refused(folder)


class TestWeightsThatNothingReads:
    """Features of a base model saved without a pooler."""

    @pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "vit"])
    def test_a_pooler_is_left_out_with_its_output(
        self,
        model_type: str,
        copy_of: Callable[..., Path],
        tiny_model: TinyModel,
        inputs_for: Callable[..., dict[str, np.ndarray]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        import torch

        folder = copy_of(model_type)
        edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "pooler" in name])
        base = load_base(folder)
        inputs = {name: torch.from_numpy(value) for name, value in inputs_for(model_type).items()}
        whole = load_base(tiny_model(model_type)).module(**inputs)
        found = base.module(**inputs)
        assert set(found) == set(whole) - {"pooler_output"}
        assert torch.equal(found.last_hidden_state, whole.last_hidden_state)
        assert base.info.unread
        assert all("pooler" in name for name in base.info.unread)
        assert "output pooler_output is left out" in caplog.text

    def test_a_classifier_reads_it(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert")
        edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if "pooler" in name])
        assert "would be random: bert.pooler.dense.bias, bert.pooler.dense.weight" in refused(
            folder, "text-classification"
        )


class TestAnAdapterBesideTheBase:
    """Transformers attaches an adapter that lies in the model's folder."""

    def test_it_is_neither_loaded_nor_hashed(
        self,
        copy_of: Callable[..., Path],
        tiny_model: TinyModel,
        inputs_for: Callable[..., dict[str, np.ndarray]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        import peft
        import torch
        from transformers import AutoModel

        folder = copy_of("bert")
        config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
        peft.get_peft_model(AutoModel.from_pretrained(folder), config).save_pretrained(folder)
        inputs = {name: torch.from_numpy(value) for name, value in inputs_for("bert").items()}
        plain = load_base(tiny_model("bert"))
        expected = plain.module(**inputs).last_hidden_state
        # What makes this a danger: transformers itself gives another result.
        attached = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
        assert not torch.allclose(attached, expected, atol=1e-3)

        base = load_base(folder)
        assert torch.equal(base.module(**inputs).last_hidden_state, expected)
        assert base.info.sha256 == plain.info.sha256
        assert "an adapter lies in this folder" in caplog.text


class TestOtherHeads:
    """The head of another task is not taken for this one's, whatever its names and sizes."""

    def test_a_token_classifier_is_refused(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("distilbert", "text-classification")
        edit_config(folder, architectures=["DistilBertForTokenClassification"])
        message = refused(folder)
        assert (
            "DistilBertForTokenClassification has a head for token-classification, which is not served yet" in message
        )
        assert "--task features" in message

    def test_its_head_is_not_the_model_s_own(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("bert", "text-classification", 2)
        edit_config(folder, architectures=["BertForMultipleChoice"], id2label={"0": "a", "1": "b"})
        base = load_base(folder, "text-classification")
        assert base.untrained_head
        assert base.module.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


class TestQuantizedModels:
    @pytest.mark.parametrize(
        "settings",
        [
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"quant_method": "gptq", "bits": 4},
            {"quant_method": "awq", "bits": 4},
            {"quant_method": "fp8"},
            {"quant_method": "compressed-tensors"},
        ],
    )
    def test_by_the_config(self, settings: dict[str, Any], copy_of: Callable[..., Path]) -> None:
        folder = copy_of("llama")
        edit_config(folder, quantization_config=settings)
        message = refused(folder)
        assert "config.json: field 'quantization_config': the base model is quantized" in message
        assert settings["quant_method"] in message

    @pytest.mark.parametrize(
        "changes",
        [
            {"compression_config": {"format": "pack-quantized"}},
            {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        ],
    )
    def test_by_the_config_elsewhere(self, changes: dict[str, Any], copy_of: Callable[..., Path]) -> None:
        folder = copy_of("llama")
        edit_config(folder, **changes)
        assert "the base model is quantized" in refused(folder)

    def test_masks_as_bytes_are_no_weights(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("gpt2")
        edit_weights(folder, lambda weights: weights.update({"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8)}))
        load_base(folder)

    def test_by_the_weights(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("llama")
        name = "layers.0.mlp.up_proj.weight"
        edit_weights(folder, lambda weights: weights.update({name: weights[name].astype(np.int8)}))
        assert f"tensor {name!r} (I8): the base model is quantized" in refused(folder)

    def test_by_what_lies_beside_the_weights(self, copy_of: Callable[..., Path]) -> None:
        import torch

        folder = copy_of("llama")
        state = {name: torch.from_numpy(value) for name, value in load_file(folder / "model.safetensors").items()}
        (folder / "model.safetensors").unlink()
        torch.save({**state, "layers.0.mlp.up_proj.SCB": torch.ones(64)}, folder / "pytorch_model.bin")
        assert "tensor 'layers.0.mlp.up_proj.SCB': the base model is quantized" in refused(folder)

    def test_gguf(self, copy_of: Callable[..., Path]) -> None:
        folder = copy_of("llama")
        (folder / "model.safetensors").rename(folder / "llama-q4.gguf")
        assert "llama-q4.gguf: GGUF files are not supported" in refused(folder)


class TestShards:
    @pytest.fixture
    def sharded(self, copy_of: Callable[..., Path]) -> Callable[[str], Path]:
        """Called with `safetensors` or `bin` -> a tiny LLaMA in several files of that kind."""

        def make(kind: str) -> Path:
            import torch

            folder = copy_of("llama")
            weights = load_file(folder / "model.safetensors")
            (folder / "model.safetensors").unlink()
            stem, names, where = "model" if kind == "safetensors" else "pytorch_model", sorted(weights), {}
            for number in range(3):
                part = {name: weights[name] for name in names[number::3]}
                file = f"{stem}-0000{number + 1}-of-00003.{kind}"
                where |= dict.fromkeys(part, file)
                if kind == "bin":
                    torch.save({name: torch.from_numpy(value) for name, value in part.items()}, folder / file)
                else:
                    save_file(part, folder / file, metadata={"format": "pt"})
            (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
            return folder

        return make

    @pytest.mark.parametrize("kind", ["safetensors", "bin"])
    def test_they_are_one_model(self, kind: str, sharded: Callable[[str], Path], tiny_model: TinyModel) -> None:
        import torch

        folder = sharded(kind)
        found, expected = load_base(folder), load_base(tiny_model("llama"))
        assert all(
            torch.equal(value, expected.module.state_dict()[name]) for name, value in found.module.state_dict().items()
        )
        (folder / f"other.{kind}").write_bytes(b"not of the model")
        assert load_base(folder).info.sha256 == found.info.sha256

    @pytest.mark.parametrize("kind", ["safetensors", "bin"])
    def test_a_missing_one_is_named(self, kind: str, sharded: Callable[[str], Path]) -> None:
        folder = sharded(kind)
        next(folder.glob(f"*-00002-of-00003.{kind}")).unlink()
        assert f"-00002-of-00003.{kind}' is not in the folder" in refused(folder)

    @pytest.mark.parametrize("kind", ["safetensors", "bin"])
    def test_a_file_elsewhere_is_refused(self, kind: str, sharded: Callable[[str], Path]) -> None:
        folder = sharded(kind)
        index = next(folder.glob("*.index.json"))
        shard = next(folder.glob(f"*-00002-of-00003.{kind}"))
        shard.rename(folder.parent / shard.name)
        index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
        message = refused(folder)
        assert "field 'weight_map': tensor " in message
        assert f"found '../{shard.name}'" in message


class TestForeignCode:
    """Code that comes with a model is never run, whatever the config asks for."""

    @pytest.mark.parametrize("model_type", ["evil", "bert"])
    def test_python_files(self, model_type: str, copy_of: Callable[..., Path], tmp_path: Path) -> None:
        folder, marker = copy_of("bert"), tmp_path / "ran"
        (folder / "modeling_evil.py").write_text(
            f"import os; os.mkdir({str(marker)!r})\n"
            "from transformers import BertConfig, BertModel\n"
            "class EvilConfig(BertConfig): model_type = 'evil'\n"
            "class EvilModel(BertModel): config_class = EvilConfig\n"
        )
        auto_map = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"}
        edit_config(folder, model_type=model_type, auto_map=auto_map)
        if model_type == "bert":
            assert type(load_base(folder, "features").module).__module__.startswith("transformers.")
        else:
            assert ": cannot be loaded for features: " in refused(folder, "features")
        assert not marker.exists()

    def test_the_python_file_would_run(
        self, copy_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import transformers

        # transformers copies such files to where it imports them from.
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr("sys.path", list(sys.path))
        folder, marker = copy_of("bert"), tmp_path / "ran"
        (folder / "modeling_evil.py").write_text(f"import os; os.mkdir({str(marker)!r})\nclass EvilConfig: pass\n")
        edit_config(folder, model_type="evil", auto_map={"AutoConfig": "modeling_evil.EvilConfig"})
        with pytest.raises(AttributeError):
            transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert marker.exists()

    def test_pickles(self, copy_of: Callable[..., Path], tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return os.mkdir, (str(tmp_path / "ran"),)

        folder = copy_of("bert")
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"bomb": Bomb()}))
        assert ": cannot be loaded for features: " in refused(folder)
        assert not (tmp_path / "ran").exists()


class TestDescription:
    @pytest.mark.parametrize(
        ("model_type", "task", "prefix", "nested", "head"),
        [
            ("bert", "features", "bert", False, ()),
            ("bert", "text-classification", "bert", True, ("classifier",)),
            ("albert", "text-classification", "albert", True, ("classifier",)),
            ("distilbert", "text-classification", "distilbert", True, ("pre_classifier", "classifier")),
            ("electra", "text-classification", "electra", True, ("classifier.dense", "classifier.out_proj")),
            ("mpnet", "text-classification", "mpnet", True, ("classifier.dense", "classifier.out_proj")),
            ("roberta", "text-classification", "roberta", True, ("classifier.dense", "classifier.out_proj")),
            ("xlm-roberta", "text-classification", "roberta", True, ("classifier.dense", "classifier.out_proj")),
            ("gpt2", "text-classification", "transformer", True, ("score",)),
            ("gpt2", "causal-lm", "transformer", True, ()),
            ("llama", "text-classification", "model", True, ("score",)),
            ("llama", "causal-lm", "model", True, ()),
            ("t5", "features", "transformer", False, ()),
            ("t5", "seq2seq-lm", "transformer", False, ()),
            ("t5", "text-classification", "transformer", True,
             ("classification_head.dense", "classification_head.out_proj")),
            ("vit", "image-classification", "vit", True, ("classifier",)),
        ],
    )  # fmt: skip
    def test_prefix_and_head(
        self, model_type: str, task: str, prefix: str, nested: bool, head: tuple[str, ...], tiny_base: TinyBase
    ) -> None:
        info = tiny_base(model_type, task).info
        assert (info.model_type, info.hidden_size) == (model_type, 32)
        assert (info.prefix, info.nested, info.head) == (prefix, nested, head)

    def test_module_paths_do_not_depend_on_the_task(self, tiny_base: TinyBase) -> None:
        for model_type, task in (
            ("bert", "text-classification"),
            ("gpt2", "causal-lm"),
            ("vit", "image-classification"),
        ):
            base, nested = tiny_base(model_type).info, tiny_base(model_type, task).info
            # A task class may leave parts of the base out, such as a pooler.
            assert dict(nested.modules).items() <= dict(base.modules).items()
            assert dict(nested.inputs).items() <= dict(base.inputs).items()
        assert tiny_base("t5").info.modules == {
            path: size for path, size in tiny_base("t5", "seq2seq-lm").info.modules.items() if path != "lm_head"
        }

    def test_features_at_sites(self, tiny_base: TinyBase) -> None:
        info = tiny_base("llama").info
        layer = "layers.0"
        # 4 heads of 8, 2 of them for keys and values; 64 in the feed-forward.
        assert info.features(Site(f"{layer}.self_attn.q_proj", Port.OUTPUT)).outputs == 32
        assert info.features(Site(f"{layer}.self_attn.k_proj", Port.OUTPUT)).outputs == 16
        assert info.features(Site(f"{layer}.mlp.down_proj", Port.INPUT)).outputs == 64
        assert info.features(Site(f"{layer}.mlp.down_proj", Port.OUTPUT)).outputs == 32
        assert info.features(Site(f"{layer}.input_layernorm", Port.OUTPUT)).outputs == 32
        assert info.features(Site(layer, Port.OUTPUT)).outputs == 32
        # Conv1D keeps its weight as (in, out).
        info = tiny_base("gpt2").info
        assert info.features(Site("h.0.attn.c_attn", Port.OUTPUT)).outputs == 96
        assert info.features(Site("h.0.attn.c_attn", Port.INPUT)).outputs == 32
        # A norm over something smaller than the hidden state.
        info = tiny_base("qwen3").info
        assert info.features(Site("layers.0.self_attn.k_norm", Port.OUTPUT)).outputs == 8

    @pytest.mark.parametrize("model_type", ["bert", "llama", "t5", "vit", "gpt2"])
    def test_every_described_size_is_the_real_one(
        self, model_type: str, tiny_base: TinyBase, inputs_for: Callable[..., dict[str, np.ndarray]]
    ) -> None:
        import torch

        base = tiny_base(model_type)
        seen: dict[str, int] = {}
        for path in base.info.inputs:
            axis = -1 - base.info.convolutions.get(path, 0)
            base.module.get_submodule(path).register_forward_hook(
                lambda _, __, output, path=path, axis=axis: seen.update({path: output.shape[axis]})
            )
        with torch.no_grad():
            base.module(**{name: torch.from_numpy(array) for name, array in inputs_for(model_type).items()})
        assert seen == {path: base.info.modules[path] for path in seen}
        assert len(seen) > len(base.info.inputs) // 2


def test_a_real_model(minilm: Path) -> None:
    from adapter_export.architectures.layers import layers_of
    from adapter_export.methods.bottleneck import placement_sites

    base = load_base(minilm)
    assert (base.task, base.info.architecture, base.info.hidden_size) == ("features", "BertModel", 384)
    layers = layers_of(base.info.model_type, base.info.modules)
    assert len(layers) == 6
    assert len(placement_sites(layers, "houlsby")) == 6 * 2
    assert len(placement_sites(layers, "pfeiffer")) == 6
