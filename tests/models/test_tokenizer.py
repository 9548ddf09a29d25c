"""The tokenizer that a bundle gets, against the one that transformers loads from the model's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.errors import InputError
from adapter_export.models.tokenizer import SAMPLES, exportable_tokenizer, load_tokenizer, samples_for, write_tokenizer
from adapter_export.runtime.text import read_tokenizer

# Characters and pairs of them, so that texts become more than unknown tokens.
_LETTERS = [chr(code) for code in range(33, 127)] + list("éàüñßİêèç你好世界Приветשםنم😀")
_WORDS = ["hello", "Hello", "fox", "Fox", "quick", "movie", "caf", "cafe", "naive", "the", "The", "##s", "##x", "##e"]


def bert(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A BERT's folder with vocab.txt, and tokenizer_config.json where `config` is given."""
    from transformers import BertConfig

    folder.mkdir()
    BertConfig(vocab_size=500).save_pretrained(folder)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *_WORDS]
    vocabulary += [f"##{letter}" for letter in _LETTERS if f"##{letter}" not in vocabulary]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def raw(folder: Path, **settings: Any) -> None:
    """A tokenizer.json that BERT's own settings contradict."""
    from tokenizers import Tokenizer, normalizers
    from transformers import BertTokenizer

    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.save(str(folder / "tokenizer.json"))


def byte_level(folder: Path) -> Path:
    """A GPT-2's folder with vocab.json and merges.txt alone."""
    from tokenizers import pre_tokenizers
    from transformers import GPT2Config

    folder.mkdir()
    GPT2Config(vocab_size=300).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "a"), ("t", "h"), ("th", "e")]
    vocabulary = [*alphabet, *(left + right for left, right in merges), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return folder


def assert_written_as_loaded(model: Path, target: Path) -> Any:
    """What transformers loads, after the bundle's was found to make its tokens of every sample."""
    from transformers import AutoTokenizer

    wanted = AutoTokenizer.from_pretrained(model)
    target.mkdir(exist_ok=True)
    write_tokenizer(exportable_tokenizer(model), target)
    written = read_tokenizer(target)
    for text in samples_for(wanted):
        assert written.encode(text) == wanted(text)["input_ids"], text
    # Whoever loads the bundle's with transformers gets the same once more.
    shutil.copyfile(model / "config.json", target / "config.json")
    again = AutoTokenizer.from_pretrained(target)
    assert [again(text)["input_ids"] for text in SAMPLES] == [wanted(text)["input_ids"] for text in SAMPLES]
    return wanted


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("with_json", [True, False])
def test_the_config_counts_over_the_file(tmp_path: Path, lowercase: bool, with_json: bool) -> None:
    """Tokenizer.json lowercases and tokenizer_config.json does not, or the reverse; vocab.txt alone."""
    model = bert(tmp_path / "model", {"do_lower_case": lowercase, "strip_accents": False})
    if with_json:
        raw(model, lowercase=not lowercase)
        config = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps({**config, "do_lower_case": lowercase}))
    wanted = assert_written_as_loaded(model, tmp_path / "bundle")
    same = wanted("Hello Fox")["input_ids"] == wanted("hello fox")["input_ids"]
    assert same is lowercase


def test_vocab_txt_alone(tmp_path: Path) -> None:
    """Such a folder trains; its bundle had no tokenizer."""
    wanted = assert_written_as_loaded(bert(tmp_path / "model"), tmp_path / "bundle")
    assert wanted("fox")["input_ids"] == wanted("FOX")["input_ids"]


def test_vocab_json_and_merges_alone(tmp_path: Path) -> None:
    assert_written_as_loaded(byte_level(tmp_path / "model"), tmp_path / "bundle")


@pytest.mark.parametrize("split", [True, False])
def test_added_tokens_and_special_ones_as_text(tmp_path: Path, split: bool) -> None:
    from transformers import AutoTokenizer

    model = bert(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<new>", "Naïve"])
    tokenizer.save_pretrained(model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "split_special_tokens": split}))
    wanted = assert_written_as_loaded(model, tmp_path / "bundle")
    assert (wanted.sep_token_id in wanted("a [SEP] b")["input_ids"][:-1]) is not split


def test_what_a_runtime_needs_stands_beside_it(tmp_path: Path) -> None:
    config = {"chat_template": "{{ messages }}", "truncation_side": "left", "model_max_length": 77}
    model = bert(tmp_path / "model", config)
    assert_written_as_loaded(model, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "chat_template.jinja").read_text() == "{{ messages }}"
    settings = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert settings["truncation_side"] == "left"
    assert settings["model_max_length"] == 77
    assert settings["pad_token"] == "[PAD]"
    assert settings["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert str(tmp_path) not in json.dumps(settings)


def test_the_kind_keeps_its_own_name(tmp_path: Path) -> None:
    """Runtimes that look for it know the names of transformers 4."""
    model = bert(tmp_path / "model", {"tokenizer_class": "BertTokenizerFast"})
    assert_written_as_loaded(model, tmp_path / "bundle")
    settings = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "BertTokenizerFast"


class TestRefusals:
    @pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer"])
    def test_kinds_without_a_fast_form(self, tmp_path: Path, kind: str) -> None:
        import transformers

        configs = {"ByT5Tokenizer": transformers.T5Config, "CanineTokenizer": transformers.CanineConfig}
        configs[kind]().save_pretrained(tmp_path)
        getattr(transformers, kind)().save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path) is not None, "training takes it"
        with pytest.raises(
            InputError, match=rf"its tokenizer \({kind}\) has no form .*; --no-tokenizer exports"
        ) as error:
            exportable_tokenizer(tmp_path)
        assert str(error.value).startswith(f"model {tmp_path}: ")

    def test_a_vocabulary_that_is_missing_is_not_made_up(self, tmp_path: Path) -> None:
        model = bert(tmp_path / "model", {"do_lower_case": True})
        (model / "vocab.txt").unlink()
        with pytest.raises(InputError, match=r"expected the vocabulary .*, found tokenizer_config\.json alone"):
            exportable_tokenizer(model)

    def test_what_does_not_load(self, tmp_path: Path) -> None:
        model = bert(tmp_path / "model")
        (model / "tokenizer.json").write_text("{}")
        with pytest.raises(InputError, match=r"not a readable tokenizer: .*; --no-tokenizer exports a bundle"):
            exportable_tokenizer(model)

    def test_a_sentencepiece_model_and_nothing_to_read_it(self, tmp_path: Path, monkeypatch: Any) -> None:
        from transformers import T5Config

        from adapter_export.models import tokenizer

        T5Config().save_pretrained(tmp_path)
        (tmp_path / "spiece.model").write_bytes(b"\x0a\x0e\x0a\x05<pad>")
        monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="a sentencepiece model needs the package sentencepiece to be installed"):
            exportable_tokenizer(tmp_path)

    def test_a_class_that_does_in_python_what_no_file_can(self, tmp_path: Path, monkeypatch: Any) -> None:
        from transformers import BertTokenizer

        (tmp_path / "bundle").mkdir()
        tokenizer = exportable_tokenizer(bert(tmp_path / "model"))
        own = BertTokenizer._encode_plus
        monkeypatch.setattr(
            BertTokenizer, "_encode_plus", lambda self, text, **kwargs: own(self, text.replace("fox", "x"), **kwargs)
        )
        with pytest.raises(InputError, match=r"its tokenizer \(BertTokenizer\) makes other tokens of 'The quick brown"):
            write_tokenizer(tokenizer, tmp_path / "bundle")

    def test_nothing_is_no_mistake(self, tmp_path: Path) -> None:
        from transformers import BertConfig

        BertConfig().save_pretrained(tmp_path)
        assert exportable_tokenizer(tmp_path) is None
        with pytest.raises(InputError, match=r"expected a tokenizer .*, found none"):
            load_tokenizer(tmp_path)


def test_samples_are_of_all_kinds() -> None:
    joined = "".join(SAMPLES)
    for wanted in ("\x00", "\u2028", "😀", "你", "ё", "ש", "e\u0301", "É", "\t", "<|im_start|>"):
        assert wanted in joined
    assert "" in SAMPLES
    assert max(map(len, SAMPLES)) > 5000


def test_training_and_serving_read_the_same(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    random_adapter: Callable[..., Any],
    save_checkpoint: Callable[..., Path],
    export: Callable[..., Any],
) -> None:
    """Tokenizer.json lowercases, tokenizer_config.json says not to; by train, export, parity and run."""
    from adapter_export.bundle.manifest import read_manifest
    from adapter_export.export.export import export_onnx
    from adapter_export.models.base_model import load_base
    from adapter_export.parity.checks.tokens import check_tokens
    from adapter_export.runtime.text import TextEncoder
    from adapter_export.training.data import prepare
    from adapter_export.training.tables import DataTable

    model = Path(shutil.copytree(tiny_model("bert", vocab_size=500), tmp_path / "model"))
    source = bert(tmp_path / "bert", {"do_lower_case": False, "model_max_length": 60})
    raw(source, lowercase=True)
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copyfile(source / name, model / name)
    settings = {"do_lower_case": False, "model_max_length": 60, "tokenizer_class": "BertTokenizer"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    base = load_base(model, "text-classification", labels=("a", "b"))
    folder = save_checkpoint(random_adapter(base.info, "ia3", labels=("a", "b")), base.info)
    bundle = export(model, {"ia3": folder}).bundle

    texts = [text for text in SAMPLES if text.strip()]
    table = DataTable(tmp_path / "data.csv", texts, ["a", "b"] * (len(texts) // 2) + ["a"] * (len(texts) % 2), texts)
    trained = prepare(base, table, max_length=60, labels=("a", "b")).train.rows
    encoder = TextEncoder(str(bundle), read_manifest(bundle))
    for text, row in zip(texts, trained, strict=True):
        assert encoder.encode([text]).inputs["input_ids"][0].tolist() == row["input_ids"]
    assert check_tokens(model, bundle, read_manifest(bundle)).verdict.value == "pass"

    # Without a tokenizer the bundle says so, and takes token ids.
    export_onnx(model, {"ia3": folder}, tmp_path / "ids", mode="merged", tokenizer=False)
    assert not list((tmp_path / "ids").glob("*token*"))
    with pytest.raises(InputError, match=r"expected tokenizer\.json to encode texts with, found none"):
        TextEncoder(tmp_path / "ids", read_manifest(tmp_path / "ids"))


def test_an_export_without_a_fast_form_is_refused_before_it_loads_anything(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import CanineTokenizer

    from adapter_export.export.export import export_onnx
    from tests.merging.models import write_adapter

    model = Path(shutil.copytree(tiny_model("llama", "causal-lm"), tmp_path / "model"))
    for path in model.glob("*token*"):
        path.unlink()
    CanineTokenizer().save_pretrained(model)
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"its tokenizer \(CanineTokenizer\) has no form"):
        export_onnx(model, {"a": write_adapter(tmp_path / "adapter")}, tmp_path / "bundle", mode="swappable")
    assert not (tmp_path / "bundle").exists()


def test_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    """T5's folder with spiece.model: the tokens are those of the sentencepiece library itself, on texts that its
    normalization leaves as they are; that of others transformers does in a way of its own."""
    import unicodedata

    import sentencepiece
    from transformers import T5Config

    texts = [text for text in SAMPLES if text.isprintable() and unicodedata.normalize("NFKC", text) == text]
    # Texts that spell special tokens are the tokenizer's own matter.
    texts = [text for text in texts if 1 < len(text) < 200 and "<" not in text]
    (tmp_path / "texts").write_text("\n".join(texts * 20), encoding="utf-8")
    folder = tmp_path / "model"
    T5Config(vocab_size=300).save_pretrained(folder)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"), model_prefix=str(folder / "spiece"), vocab_size=300, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=3,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    (tmp_path / "bundle").mkdir()
    write_tokenizer(exportable_tokenizer(folder), tmp_path / "bundle")
    written = read_tokenizer(tmp_path / "bundle")
    for text in texts:
        assert written.encode(text) == [*library.encode(text), 1], text
