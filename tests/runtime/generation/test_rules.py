"""generation_config.json's rules, against transformers' own `generate` on each row alone, unpadded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest, write_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import load_base
from adapter_export.models.injection import inject
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.generation.config import read_generation_config
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported

NEW = 20
# Of logits of some 10: rounding alone makes less, and closer ones may change places.
CLOSE = 2e-5
LENGTHS = (5, 1, 17, 9, 2, 12)
TASKS = {"llama": "causal-lm", "t5": "seq2seq-lm", "bart": "seq2seq-lm"}
ADAPTER = "houlsby"


def with_config(bundle: Path, target: Path, values: dict[str, Any]) -> Path:
    """A copy of the bundle whose generation_config.json has these values besides."""
    copy = Path(shutil.copytree(bundle, target))
    path = copy / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    manifest = read_manifest(copy)
    write_manifest(copy, replace(manifest, files={**manifest.files, path.name: sha256(path)}))
    return copy


class Subject:
    """A bundle, its model in PyTorch with an adapter, and six prompts."""

    def __init__(self, model_type: str, exported: Exported) -> None:
        import torch

        self.exported, self.seq2seq = exported, TASKS[model_type] == "seq2seq-lm"
        rng = np.random.default_rng(3)
        rows = [rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, length).tolist() for length in LENGTHS]
        self.prompts = [[*row, tiny.SEP] for row in rows] if self.seq2seq else rows
        base = load_base(exported.base, TASKS[model_type], dtype=torch.float32)
        inject(base.module, load_adapter(exported.adapters[ADAPTER], base.info))
        self.model: Any = base.module
        self.plain_config = self.model.generation_config.to_dict()
        self.plain = [tokens for tokens, _ in map(self.expected, self.prompts)]
        # Texts that hold what is written for them, for rules that compare the two; one keeps its single token.
        self.prompts = [
            [*new[2:4], *row] if len(row) > 1 else row for new, row in zip(self.plain, self.prompts, strict=True)
        ]
        self.plain = [tokens for tokens, _ in map(self.expected, self.prompts)]

    def expected(self, prompt: Sequence[int], **values: Any) -> tuple[list[int], list[bool]]:
        """Transformers' new tokens of that prompt alone, and at which of them the best two scores are close."""
        import torch
        from transformers import GenerationConfig

        known = GenerationConfig(**{**self.plain_config, "_from_model_config": False, **values})
        self.model.generation_config = known
        found = self.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=NEW, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        tokens = found.sequences[0, 1 if self.seq2seq else len(prompt) :].tolist()
        best = [scores[0].double().topk(2).values for scores in found.scores]
        return tokens, [bool(first - second < CLOSE) for first, second in best]


@pytest.fixture(scope="module", params=["llama", "t5", pytest.param("bart", marks=pytest.mark.thorough)])
def subject(request: pytest.FixtureRequest, export_cached: Callable[..., Exported]) -> Subject:
    return Subject(request.param, export_cached(request.param, TASKS[request.param]))


def rules(subject: Subject) -> dict[str, dict[str, Any]]:
    """Settings by name, each of which changes what some row writes."""
    plain = subject.plain
    common = [max(set(row), key=row.count) for row in plain]
    ends = {"eos_token_id": sorted({row[3] for row in plain} | {common[0]})}
    return {
        "repetition_penalty": {"repetition_penalty": 1.8},
        "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
        "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2},
        "bad_words_ids": {"bad_words_ids": [[common[0]], [common[1], plain[1][3]], plain[2][1:4], [tiny.SEP]]},
        "min_length": {**ends, "min_length": 14},
        "min_new_tokens": {**ends, "min_new_tokens": 11},
        "forced_bos_token_id": {"forced_bos_token_id": 9},
        "forced_eos_token_id": {**ends, "forced_eos_token_id": 8, "min_new_tokens": NEW},
        "suppress_tokens": {"suppress_tokens": [*common, -1, 10**6]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [row[0] for row in plain]},
        "both begins": {"forced_bos_token_id": 9, "begin_suppress_tokens": [row[1] for row in plain] + common},
        "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.4},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
        "sequence_bias": {"sequence_bias": [[[common[0]], -6.5], [[plain[3][0], 11], 30.0], [[12], 0.5]]},
        "exponential_decay": {"eos_token_id": 7, "exponential_decay_length_penalty": [4, 1.4]},
        "renormalize": {"renormalize_logits": True, "repetition_penalty": 1.3, "remove_invalid_values": True},
        "several": {**ends, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_length": 9,
                    "suppress_tokens": [common[2]], "remove_invalid_values": True},
    }  # fmt: skip


NAMES = (
    "repetition_penalty", "no_repeat_ngram_size 1", "no_repeat_ngram_size 2", "bad_words_ids", "min_length",
    "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "both begins", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "sequence_bias", "exponential_decay",
    "renormalize", "several",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(subject: Subject, tmp_path: Path, name: str) -> None:
    values = rules(subject)[name]
    bundle = with_config(subject.exported.bundle, tmp_path / "bundle", values)
    wanted = [subject.expected(prompt, **values) for prompt in subject.prompts]
    with AdapterSession(bundle) as session:
        rows = session.generate(subject.prompts, ADAPTER, max_new_tokens=NEW).completions()
        alone = [session.generate([p], ADAPTER, max_new_tokens=NEW).completions()[0] for p in subject.prompts]
    assert rows == tuple(alone), "no row depends on its neighbours"
    whole = 0
    for row, (tokens, close) in zip(rows, wanted, strict=True):
        decided = close.index(True) if True in close else len(tokens)
        assert list(row.tokens[:decided]) == tokens[:decided]
        whole += decided == len(tokens) == len(row.tokens)
    assert whole >= 5, "of nearly every row all tokens must be decided"
    assert [tokens for tokens, _ in wanted] != subject.plain, "the setting must change something"


def test_a_callers_penalty_takes_the_place_of_the_configs(subject: Subject, tmp_path: Path) -> None:
    bundle = with_config(subject.exported.bundle, tmp_path / "bundle", {"repetition_penalty": 1.8})
    with AdapterSession(bundle) as session:
        settings: dict[str, Any] = {"max_new_tokens": NEW, "repetition_penalty": 1.0}
        rows = session.generate(subject.prompts, ADAPTER, **settings).completions()
    assert [list(row.tokens) for row in rows] == subject.plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repetition_penalty": 0}, "'repetition_penalty': expected a number above 0, found 0"),
        ({"repetition_penalty": float("nan")}, "'repetition_penalty': expected a number above 0, found nan"),
        ({"repetition_penalty": "2"}, "'repetition_penalty': expected a number above 0, found '2'"),
        ({"encoder_repetition_penalty": -1.0}, "'encoder_repetition_penalty': expected a number above 0, found -1.0"),
        ({"no_repeat_ngram_size": 2.0}, "'no_repeat_ngram_size': expected a whole number, found 2.0"),
        ({"min_length": True}, "'min_length': expected a whole number, found True"),
        ({"min_new_tokens": "a"}, "'min_new_tokens': expected a whole number, found 'a'"),
        ({"bad_words_ids": [3]}, "'bad_words_ids': expected a list of lists of token ids, found [3]"),
        ({"bad_words_ids": [[]]}, "'bad_words_ids': expected a list of lists of token ids, found [[]]"),
        ({"bad_words_ids": [[-4]]}, "'bad_words_ids': expected a list of lists of token ids, found [[-4]]"),
        ({"suppress_tokens": [1.5]}, "'suppress_tokens': expected a whole number or a list of them, found [1.5]"),
        ({"begin_suppress_tokens": {}}, "'begin_suppress_tokens': expected a whole number or a list of them, found {}"),
        ({"forced_bos_token_id": [1, 2]}, "'forced_bos_token_id': expected one token id, found [1, 2]"),
        ({"forced_eos_token_id": "x"}, "'forced_eos_token_id': expected a whole number or a list of them, found 'x'"),
        (
            {"sequence_bias": [[[1], "a"]]},
            "'sequence_bias': expected a list of pairs, a list of token ids and a number",
        ),
        ({"sequence_bias": {"1": 2}}, "'sequence_bias': expected a list of pairs"),
        (
            {"exponential_decay_length_penalty": [1]},
            "'exponential_decay_length_penalty': expected a list of two",
        ),
        ({"exponential_decay_length_penalty": [1, 0]}, "'exponential_decay_length_penalty': expected a list of two"),
        ({"max_new_tokens": 1.5}, "'max_new_tokens': expected a whole number or a list of them, found 1.5"),
    ],
)
def test_something_else_is_one_line(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as error:
        read_generation_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'generation_config.json'}: field {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [{"forced_bos_token_id": 10**9}, {"forced_eos_token_id": [3, 10**9]}, {"bad_words_ids": [[1, 10**9]]},
     {"sequence_bias": [[[10**9], 1.0]]}],
)  # fmt: skip
def test_a_token_that_no_model_has(llama_bundle: Exported, tmp_path: Path, values: dict[str, Any]) -> None:
    bundle = with_config(llama_bundle.bundle, tmp_path / "bundle", values)
    (name,) = values
    wanted = (
        f"generation_config.json: field '{name}': expected tokens from 0 to below {tiny.VOCABULARY}, found 10{'0' * 8}"
    )
    with AdapterSession(bundle) as session, pytest.raises(InputError, match=wanted):
        session.generate([[5]], max_new_tokens=1)


def test_rules_that_leave_nothing(llama_bundle: Exported, tmp_path: Path) -> None:
    bundle = with_config(llama_bundle.bundle, tmp_path / "bundle", {"suppress_tokens": list(range(tiny.VOCABULARY))})
    with AdapterSession(bundle) as session:
        generation = session.generate([[5]], max_new_tokens=1)
        with pytest.raises(InputError, match=r"prompt 0: generation_config\.json leaves no token to choose from"):
            next(generation)


def test_each_row_of_a_bank_by_itself(export_cached: Callable[..., Exported], tmp_path: Path) -> None:
    """Rows of different adapters in one batch, against each adapter alone in transformers."""
    bank = export_cached("llama", mode="bank")
    values = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "bad_words_ids": [[9], [20]]}
    bundle = with_config(bank.bundle, tmp_path / "bundle", values)
    subject = Subject("llama", bank)
    names = [ADAPTER if row % 2 else None for row in range(len(subject.prompts))]
    with AdapterSession(bundle) as session:
        rows = session.generate(subject.prompts, adapters=names, max_new_tokens=NEW).completions()
    for row, name, prompt in zip(rows, names, subject.prompts, strict=True):
        if name == ADAPTER:
            tokens, close = subject.expected(prompt, **values)
            decided = close.index(True) if True in close else len(tokens)
            assert list(row.tokens[:decided]) == tokens[:decided]


def test_sounds(whisper_bundle: Exported, tmp_path: Path) -> None:
    """Whisper by transformers' common loop: its own adds timestamps."""
    import torch
    from transformers import GenerationConfig, GenerationMixin

    base = load_base(whisper_bundle.base, "seq2seq-lm", dtype=torch.float32)
    inject(base.module, load_adapter(whisper_bundle.adapters[ADAPTER], base.info))
    values: dict[str, Any] = {"forced_bos_token_id": 9, "begin_suppress_tokens": [7], "suppress_tokens": [11]}
    values |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2}
    config = GenerationConfig(**{**base.module.generation_config.to_dict(), "_from_model_config": False, **values})
    base.module.generation_config = config
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal((tiny.MEL, tiny.FRAMES)).astype(np.float32) for _ in range(3)]
    bundle = with_config(whisper_bundle.bundle, tmp_path / "bundle", values)
    with AdapterSession(bundle) as session:
        rows = session.generate(sounds, ADAPTER, max_new_tokens=8).completions()
    for row, sound in zip(rows, sounds, strict=True):
        with pytest.warns(UserWarning, match="encoder_no_repeat_ngram_size` requires some form of `input_ids`"):
            found = GenerationMixin.generate(
                base.module, input_features=torch.from_numpy(sound[None]), do_sample=False, max_new_tokens=8
            )
        assert list(row.tokens) == found[0, 1:].tolist()
        assert row.tokens[0] == 9, "a forced token is one of those asked for"


def test_a_folder_whose_config_has_the_rules(
    t5_bundle: Exported, export: Callable[..., Exported], tmp_path: Path
) -> None:
    """Older folders have no generation_config.json: transformers then reads config.json, and so does an export."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    base = Path(shutil.copytree(t5_bundle.base, tmp_path / "base"))
    (base / "generation_config.json").unlink()
    rules = {"no_repeat_ngram_size": 2, "forced_bos_token_id": 9, "repetition_penalty": 1.4, "num_beams": 1}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **rules}))
    bundle = export(base, {"ia3": t5_bundle.adapters["ia3"]}, task="seq2seq-lm").bundle
    written = json.loads((bundle / "generation_config.json").read_text())
    assert {name: written[name] for name in ("no_repeat_ngram_size", "forced_bos_token_id")} == {
        "no_repeat_ngram_size": 2,
        "forced_bos_token_id": 9,
    }
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    prompts = [[5, 9, 20, tiny.SEP], [7, tiny.SEP]]
    with AdapterSession(bundle) as session:
        rows = session.generate(prompts, max_new_tokens=12).completions()
    for row, prompt in zip(rows, prompts, strict=True):
        wanted = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0, 1:].tolist()
        assert list(row.tokens) == wanted
        assert wanted[0] == 9


def test_an_export_refuses_and_notes(
    llama_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """What is wrong in the model's own file is told before anything is traced; what is not read, too."""
    from adapter_export.export import export as module

    def stop(*_: Any) -> None:
        raise InputError("traced")

    monkeypatch.setattr(module, "lower_mode", stop)
    base = Path(shutil.copytree(llama_bundle.base, tmp_path / "base"))
    path = base / "generation_config.json"
    before = json.loads(path.read_text())
    for values, message in (
        (
            {"repetition_penalty": "much"},
            f"{path}: field 'repetition_penalty': expected a number above 0, found 'much'",
        ),
        ({"forced_bos_token_id": 10**6}, f"{path}: field 'forced_bos_token_id': expected tokens from 0 to below "),
        ({"num_beams": 4, "do_sample": True, "top_p": 0.9}, "traced"),
    ):
        path.write_text(json.dumps({**before, **values}))
        with pytest.raises(InputError) as error:
            module.export_onnx(base, llama_bundle.adapters, tmp_path / "bundle", mode="swappable")
        assert str(error.value).startswith(message)
    assert f"model {base}: generation_config.json: not read: num_beams, do_sample, top_p" in caplog.messages


@pytest.mark.parametrize("pad", [tiny.VOCABULARY, 10**30, -1])
def test_a_padding_token_that_the_model_has_no_row_for(llama_bundle: Exported, tmp_path: Path, pad: int) -> None:
    """It is masked: rows of unequal lengths are what they are alone."""
    bundle = with_config(llama_bundle.bundle, tmp_path / "bundle", {"pad_token_id": pad})
    prompts = [[5, 9, 20], [7]]
    with AdapterSession(bundle) as session:
        rows = session.generate(prompts, max_new_tokens=6).completions()
        alone = [session.generate([prompt], max_new_tokens=6).completions()[0] for prompt in prompts]
    assert rows == tuple(alone)
