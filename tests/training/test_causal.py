"""What a decoder learns to write: tokens of prompts and completions, where they meet, and how they end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.training.causal import Ending, lessons
from adapter_export.training.data import prepare
from adapter_export.training.metrics import IGNORED
from adapter_export.training.tables import DataTable
from adapter_export.training.train import TrainResult, train
from tests.tiny import SEP, WORDS
from tests.training.conftest import write_jsonl

GOOD, NIGHT, OLD, DOG = (4 + WORDS.index(word) for word in ("good", "night", "old", "dog"))
END = 0


def table(*rows: tuple[str, str]) -> DataTable:
    texts, completions = zip(*rows, strict=True)
    return DataTable(Path("data.jsonl"), texts, completions, [f"line {i + 1}" for i in range(len(rows))])


ROWS = table(("good night", " old"), ("old", " dog night good"))


def test_the_completion_is_learned_after_its_prompt(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("gpt2", "causal-lm"), ROWS)
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[GOOD, NIGHT, OLD, SEP, 0], [OLD, DOG, NIGHT, GOOD, SEP]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, OLD, SEP, x, x], [DOG, NIGHT, GOOD, SEP, x]]
    assert (data.train.lengths, data.truncated, data.left_out) == ([4, 5], 0, 0)


def tokenizer_of(kind: str, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of letters and of one word that begins with a space: "bytes" knows spaces as GPT-2 does, "words" puts
    one before every text as LLaMA 2 does, and "ends" is "bytes" with tokens around every text.
    """
    space = "▁" if kind == "words" else "Ġ"
    vocabulary = {
        token: i for i, token in enumerate(("<end>", "<begin>", "a", "b", "c", space, f"{space}b", f"{space}a"))
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [(space, "b"), (space, "a")]))
    if kind == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    if kind == "ends":
        special = [("<begin>", 1), ("<end>", 0)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<begin> $A <end>", special_tokens=special)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<begin>", eos_token="<end>")
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize(
    ("kind", "prompt", "completion", "read", "written"),
    [
        ("bytes", "a c", " b", ["a", "Ġ", "c"], ["Ġb"]),
        # The joint text would be "Ġb", where generating the prompt leaves "Ġ".
        ("bytes", "a ", "b", ["a", "Ġ"], ["b"]),
        ("bytes", "a", "b ab", ["a"], ["b", "Ġa", "b"]),
        ("ends", "a ", "b", ["<begin>", "a", "Ġ"], ["b"]),
        ("ends", "a", " b", ["<begin>", "a"], ["Ġb"]),
        ("words", "a", " b", ["▁a"], ["▁b"]),
        ("words", "a", "b", ["▁a"], ["b"]),
        # Apart they would be "▁a ▁" and "▁b", which is another text.
        ("words", "a ", "b", ["▁a"], ["▁b"]),
    ],
)
def test_where_a_completion_begins(
    tmp_path: Path, kind: str, prompt: str, completion: str, read: list[str], written: list[str]
) -> None:
    tokenizer = tokenizer_of(kind, tmp_path)
    (lesson,) = lessons(tokenizer, Ending(frozenset([END]), END), table((prompt, completion)))
    assert tokenizer.convert_ids_to_tokens(lesson.ids) == [*read, *written, "<end>"]
    assert lesson.learned == [False] * len(read) + [True] * (len(written) + 1)
    assert tokenizer.decode(lesson.ids, skip_special_tokens=True) == prompt + completion
    if kind == "bytes":
        assert PromptTexts(tmp_path).encode(prompt) == lesson.ids[: len(read)], "what the runtime reads"


@pytest.mark.parametrize(
    ("tokenizers", "stops", "ending"),
    [
        (SEP, SEP, Ending(frozenset([SEP]), SEP)),
        (SEP, [NIGHT, SEP], Ending(frozenset([SEP, NIGHT]), SEP)),
        (
            SEP,
            [NIGHT, OLD],
            Ending(frozenset([NIGHT, OLD]), NIGHT),
        ),  # a chat's turns end otherwise than texts
        (SEP, None, Ending(frozenset([SEP]), SEP)),
        (SEP, [-1, 50256], Ending(frozenset([SEP]), SEP)),  # settings of another vocabulary
        (None, NIGHT, Ending(frozenset([NIGHT]), NIGHT)),
        (None, None, Ending(frozenset(), None)),
    ],
)
def test_the_end_is_one_that_generation_stops_at(
    tiny_base: Callable[..., BaseModel], tokenizers: int | None, stops: Any, ending: Ending
) -> None:
    base = tiny_base("llama", "causal-lm")
    base.module.generation_config.eos_token_id = stops
    assert Ending.of(base, SimpleNamespace(eos_token_id=tokenizers)) == ending


def test_an_end_that_is_there_is_not_doubled_and_without_one_there_is_none(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bytes", tmp_path)
    rows = table(("a", "b<end>"), ("a", "b"))
    assert [lesson.ids for lesson in lessons(tokenizer, Ending(frozenset([END]), END), rows)] == [[2, 3, END]] * 2
    assert [lesson.ids for lesson in lessons(tokenizer, Ending(frozenset(), None), rows)] == [[2, 3, END], [2, 3]]
    whole = replace(rows, labels=None)
    assert [lesson.ids for lesson in lessons(tokenizer, Ending(frozenset([3]), 3), whole)] == [[2, 3]] * 2


def test_a_completion_without_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bytes", tmp_path)
    with pytest.raises(InputError, match=r"data\.jsonl: line 2: expected text, found nothing that the tokenizer knows"):
        list(lessons(tokenizer, Ending(frozenset(), None), table(("a", "b"), ("a", "x"))))


def test_the_end_is_cut_first_and_a_row_with_nothing_left_is_left_out(tiny_base: Callable[..., BaseModel]) -> None:
    base = tiny_base("gpt2", "causal-lm")
    rows = table(("good night", " old dog"), ("good night old dog", " old"), ("good", " dog"))
    data = prepare(base, rows, rows, max_length=3)
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[GOOD, NIGHT, OLD], [GOOD, DOG, SEP]]
    assert batch["labels"].tolist() == [[IGNORED, OLD, IGNORED], [DOG, SEP, IGNORED]]
    assert (data.train.truncated, data.train.left_out) == (2, 1)
    assert (data.truncated, data.left_out) == (4, 2)
    with pytest.raises(InputError, match=r"data\.jsonl: --max-length 2: leaves nothing to learn of any row"):
        prepare(base, table(("good night", " old dog")), max_length=2)


@pytest.fixture
def taught(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainResult]:
    """Called as (rows, output, **settings): IA3 in a tiny LLaMA learns these completions, and is evaluated on them."""

    def run(rows: DataTable, output: str, **settings: Any) -> TrainResult:
        pairs = [
            dict(zip(("prompt", "completion"), pair, strict=True))
            for pair in zip(rows.texts, rows.labels or (), strict=True)
        ]
        data = write_jsonl(tmp_path / "data.jsonl", pairs)
        return train(
            tiny_model("llama", "causal-lm"), "ia3", "causal-lm", data, tmp_path / output, eval=data, **settings
        )

    return run


def test_the_loss_is_that_of_the_completions_tokens(
    taught: Callable[..., TrainResult], tiny_base: Callable[..., BaseModel]
) -> None:
    """Against float64 by hand: log p of each counted token, from a forward pass over its row alone."""
    oracle = tiny_base("llama", "causal-lm", dtype=torch.float64).module
    losses: list[float] = []
    for ids, start in (
        ([GOOD, NIGHT, OLD, SEP], 2),
        ([OLD, DOG, NIGHT, GOOD, OLD, GOOD, SEP], 1),
        ([DOG, NIGHT, GOOD, SEP], 1),
    ):
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0].numpy()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-log_p[at - 1, ids[at]] for at in range(start, len(ids))]
    assert len(losses) == 2 + 6 + 3
    loss = float(np.mean(losses))

    # A fresh IA3 is the identity, and the only update changes nothing. Evaluated in batches of two rows and one.
    rows = table(("good night", " old"), ("old", " dog night good old good"), ("dog", " night good"))
    result = taught(rows, "out", learning_rate=1e-30, batch_size=2, max_steps=1)
    assert result.metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    whole = taught(rows, "whole", learning_rate=1e-30, batch_size=3, max_steps=1)
    assert whole.loss == pytest.approx(loss, rel=1e-6), "the loss that is trained on"


def test_an_update_in_parts_weighs_tokens_not_parts(taught: Callable[..., TrainResult]) -> None:
    """One completion of thirty tokens beside three of one: as two batches of two, and as one of four."""
    long = " ".join(WORDS[20:50])
    rows = table(("good", f" {long}"), ("night old", " dog"), ("dog", " night"), ("old good", " good"))
    whole = taught(rows, "whole", batch_size=4, max_steps=6, learning_rate=1e-2)
    parts = taught(rows, "parts", batch_size=4, max_steps=6, learning_rate=1e-2, gradient_accumulation=2)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    stored = load_file(whole.output / "adapter_model.safetensors")
    assert all((tensor != 1).any() for tensor in stored.values())
    for name, tensor in load_file(parts.output / "adapter_model.safetensors").items():
        np.testing.assert_allclose(tensor, stored[name], atol=2e-5, err_msg=name)
