"""Conversations by chat templates of several kinds: what the assistant said is learned, after what it will be asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.runtime.generation.chat import render_chat
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.training.conversations import Conversation, Conversations
from adapter_export.training.data import Data, prepare
from adapter_export.training.metrics import IGNORED
from adapter_export.training.train import train
from tests.tiny import CLS, SEP, UNK, WORDS
from tests.training.conftest import write_jsonl

GOOD, NIGHT, OLD, DOG, YOU, ME = (4 + WORDS.index(word) for word in ("good", "night", "old", "dog", "you", "me"))

# A head for each message, [SEP] and the word "a" behind it; the user is "you", the assistant "me".
EACH, HEAD = "{% for m in messages %}", "[CLS] {{ 'me' if m.role == 'assistant' else 'you' }} "
ASK = "{% endfor %}{% if add_generation_prompt %}[CLS] me {% endif %}"
PLAIN = EACH + HEAD + "{{ m.content }} [SEP] a " + ASK
_MARK = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }} [SEP]{% endgeneration %}"
MARKED = EACH + HEAD + _MARK + "{% else %}{{ m.content }} [SEP]{% endif %} a " + ASK
# What the assistant said before its last message is shortened to its first word, as some do with its thoughts.
_SHORT = "{{ m.content if loop.last or m.role != 'assistant' else m.content.split()[0] }}"
FORGETFUL = PLAIN.replace("{{ m.content }}", _SHORT)
ENDLESS = EACH + "{{ m.role }} {{ m.content }} " + ASK.replace("[CLS] me", "assistant")
A = 4 + WORDS.index("a")
TALK = [
    {"role": "user", "content": "good night"},
    {"role": "assistant", "content": "old dog"},
    {"role": "user", "content": "dog"},
    {"role": "assistant", "content": "night good"},
]


@pytest.fixture
def with_template(tiny_base: Callable[..., BaseModel], tmp_path: Path) -> Callable[..., BaseModel]:
    """Called as (template) -> a tiny LLaMA with it."""

    def make(template: str | None) -> BaseModel:
        base = tiny_base("llama", "causal-lm")
        folder = tmp_path / "model"
        shutil.copytree(base.folder, folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return replace(base, folder=folder)

    return make


def talks(*rows: Conversation) -> Conversations:
    return Conversations(Path("data.jsonl"), rows, [f"line {i + 1}" for i in range(len(rows))])


def learned(data: Data, row: int = 0) -> list[tuple[int, bool]]:
    """Each token of a row, and whether it is learned."""
    example = data.train.rows[row]
    marks = [False] + [label != IGNORED for label in example["labels"][:-1]]
    for token, label in zip(example["input_ids"][1:], example["labels"], strict=False):
        assert label in (token, IGNORED), "a label is the next token"
    return list(zip(example["input_ids"], marks, strict=True))


def expected(*parts: tuple[bool, tuple[int, ...]]) -> list[tuple[int, bool]]:
    return [(token, mark) for mark, tokens in parts for token in tokens]


FIRST, SECOND = (False, (CLS, YOU, GOOD, NIGHT, SEP, A, CLS, ME)), (False, (A, CLS, YOU, DOG, SEP, A, CLS, ME))
OLD_DOG, NIGHT_GOOD = (OLD, DOG, SEP), (NIGHT, GOOD, SEP)


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
def test_every_message_of_the_assistant_is_learned_with_its_end(
    with_template: Callable[..., BaseModel], template: str
) -> None:
    data = prepare(with_template(template), talks(Conversation(TALK)))
    assert learned(data) == expected(FIRST, (True, OLD_DOG), SECOND, (True, NIGHT_GOOD), (False, (A,)))


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
def test_of_a_prompt_nothing_is_learned(with_template: Callable[..., BaseModel], template: str) -> None:
    data = prepare(with_template(template), talks(Conversation(TALK, first=3)))
    assert learned(data) == expected(FIRST, (False, OLD_DOG), SECOND, (True, NIGHT_GOOD), (False, (A,)))


def test_a_message_that_the_template_rewrites_later_is_not_learned(with_template: Callable[..., BaseModel]) -> None:
    data = prepare(with_template(FORGETFUL), talks(Conversation(TALK)))
    assert learned(data) == expected(FIRST, (False, (OLD, SEP)), SECOND, (True, NIGHT_GOOD), (False, (A,)))


def test_a_template_without_ends_gets_one(with_template: Callable[..., BaseModel]) -> None:
    data = prepare(with_template(ENDLESS), talks(Conversation(TALK[:2]), Conversation(TALK[:3])))
    assert learned(data) == expected((False, (UNK, GOOD, NIGHT, UNK)), (True, OLD_DOG))
    assert learned(data, 1) == expected((False, (UNK, GOOD, NIGHT, UNK)), (True, (OLD, DOG)), (False, (UNK, DOG)))


def test_what_stands_before_is_what_the_runtime_reads(with_template: Callable[..., BaseModel]) -> None:
    base = with_template(PLAIN)
    row = learned(prepare(base, talks(Conversation(TALK, first=3))))
    prompt = PromptTexts(base.folder).encode(render_chat(base.folder, TALK[:3]), special=False)
    assert [token for token, _ in row[: len(prompt)]] == prompt
    assert [mark for _, mark in row].index(True) == len(prompt)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"model .*model: messages need a chat template \(chat_template\.jinja, .*\), found none"),
        ("{{ raise_exception('no system\nprompt') }}", "line 1: the chat template of .*model fails: no system prompt"),
        ("{{ messages[9].content.x }}", "line 1: the chat template of .* fails: "),
        (EACH, "line 1: the chat template of .* fails: "),
        (
            PLAIN.replace("[CLS] me {% e", "[CLS] me dog {% e"),
            "line 1: the chat template of .* begins the assistant's last",
        ),
        (MARKED.replace("{% if m.role == 'a", "{% if m.role == 'b"), "writes nothing that the assistant said"),
        ("dog", "line 1: the chat template of .* writes nothing that the assistant said"),
    ],
)
def test_templates_that_cannot_be_used(
    with_template: Callable[..., BaseModel], template: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepare(with_template(template), talks(Conversation(TALK)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"), [(PLAIN, "begins the assistant's last"), (MARKED, "writes the prompt")]
)
def test_a_template_that_writes_a_prompt_otherwise_later(
    with_template: Callable[..., BaseModel], template: str, message: str
) -> None:
    with pytest.raises(InputError, match=f"line 1: the chat template of .* {message}"):
        prepare(with_template("{{ 'dog ' * messages|length }}" + template), talks(Conversation(TALK, first=3)))


def test_a_template_reaches_nothing_of_python(with_template: Callable[..., BaseModel]) -> None:
    with pytest.raises(InputError, match="fails: access to attribute '__class__' of 'str' object is unsafe"):
        prepare(with_template("{{ ''.__class__.__mro__ }}" + PLAIN), talks(Conversation(TALK)))


def test_a_conversation_is_cut_at_its_end(with_template: Callable[..., BaseModel]) -> None:
    base = with_template(PLAIN)
    cut = prepare(base, talks(Conversation(TALK), Conversation(TALK, first=3), Conversation(TALK[2:])), max_length=10)
    assert [len(row["input_ids"]) for row in cut.train.rows] == [10, 10]
    assert learned(cut) == expected(FIRST, (True, (OLD, DOG))), "no end where the text is cut"
    assert (cut.truncated, cut.left_out) == (3, 1)
    with pytest.raises(InputError, match=r"data\.jsonl: --max-length 8: leaves nothing to learn of any row"):
        prepare(base, talks(Conversation(TALK)), max_length=8)


def test_trained_from_a_file(with_template: Callable[..., BaseModel], tmp_path: Path) -> None:
    """Messages in one column, or in two of which the second is learned: the same rows give the same adapter."""
    model = with_template(PLAIN).folder
    one = write_jsonl(tmp_path / "one.jsonl", [{"messages": TALK[:2]}, {"messages": TALK[2:]}])
    two = write_jsonl(
        tmp_path / "two.jsonl",
        [{"prompt": talk[:1], "completion": talk[1:]} for talk in (TALK[:2], TALK[2:])],
    )
    results = [
        train(model, "ia3", "causal-lm", data, tmp_path / data.stem, eval=data, max_steps=2, batch_size=2)
        for data in (one, two)
    ]
    assert results[0].metrics == results[1].metrics
    stored = [(result.output / "adapter_model.safetensors").read_bytes() for result in results]
    assert stored[0] == stored[1]
