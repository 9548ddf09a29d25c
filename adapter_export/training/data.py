"""From texts to batches: every text is tokenised once, and padded to the longest of its batch.

Symbols: B batch, T sequence. Labels line up with the logits: `labels[:, t]` is the right answer to `logits[:, t]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export.basemodel import BaseModel
from adapter_export.errors import InputError
from adapter_export.tokenizer import load_tokenizer
from adapter_export.training.causal import Ending, Lesson, lessons
from adapter_export.training.chat import Chat
from adapter_export.training.conversations import Conversations
from adapter_export.training.metrics import IGNORED
from adapter_export.training.tables import DataTable, label_ids

if TYPE_CHECKING:
    import torch

    # One text: token ids and the like as lists; `labels` is an int for a class and a list of token ids for text.
    Example = dict[str, Any]

# Tokens a text is cut to, unless the caller says otherwise or the model takes fewer.
DEFAULT_MAX_LENGTH = 128

# Tokenizers without a length limit of their own claim one of 10^30.
_UNLIMITED = 10**9


@dataclass(frozen=True)
class Examples:
    """Tokenised rows. lengths: tokens of each, input and target. truncated: how many texts were cut. left_out: how many
    rows are not here, since nothing was left of what they had to teach.
    """

    rows: Sequence[Example]
    lengths: Sequence[int]
    truncated: int
    left_out: int = 0

    def longest_first(self) -> list[Example]:
        """The rows for evaluation, where the order does not matter and padding costs time."""
        return [self.rows[i] for i in sorted(range(len(self.rows)), key=lambda i: -self.lengths[i])]


@dataclass(frozen=True)
class ExampleEncoder:
    """Turns tables into examples for one model and task. labels: of a text classification, else empty."""

    base: BaseModel
    tokenizer: Any
    max_length: int
    labels: tuple[str, ...] = ()

    def __call__(self, table: DataTable | Conversations) -> Examples:
        """Raises InputError naming the first row that the tokenizer finds no tokens in, or a label not in `labels`."""
        if isinstance(table, Conversations):
            chat = Chat(self.tokenizer, Ending.of(self.base, self.tokenizer), self.base.folder)
            return self._written(table.path, list(chat.lessons(table)))
        match self.base.task:
            case "text-classification":
                inputs, cut = self._tokenise(table, table.texts)
                return _examples(inputs, label_ids(table, self.labels), cut)
            case "causal-lm":
                return self._written(
                    table.path, list(lessons(self.tokenizer, Ending.of(self.base, self.tokenizer), table))
                )
            case _:
                inputs, cut = self._tokenise(table, table.texts)
                targets, cut_targets = self._tokenise(table, table.labels or (), target=True)
                labels = [row["input_ids"] for row in targets]
                return _examples(inputs, labels, cut + cut_targets, [len(target) for target in labels])

    def _written(self, path: Path, lessons: Sequence[Lesson]) -> Examples:
        """What a decoder reads and learns; `labels[t]` is the token after `input_ids[t]`, where it is learned."""
        self._check_ids(max(max(lesson.ids) for lesson in lessons))
        rows = []
        for lesson in lessons:
            ids, learned = lesson.ids[: self.max_length], lesson.learned[: self.max_length]
            # Nothing comes before the first token, so it is never learned.
            if any(learned[1:]):
                next_ids = [token if counts else IGNORED for token, counts in zip(ids[1:], learned[1:], strict=True)]
                rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [*next_ids, IGNORED]})
        if not rows:
            raise InputError(f"{path}: --max-length {self.max_length}: leaves nothing to learn of any row")
        lengths = [len(row["input_ids"]) for row in rows]
        cut = sum(len(lesson.ids) > self.max_length for lesson in lessons)
        return Examples(rows, lengths, cut, len(lessons) - len(rows))

    def _tokenise(self, table: DataTable, texts: Sequence[str], *, target: bool = False) -> tuple[list[Example], int]:
        """One row a text, and how many were cut."""
        encoded = self.tokenizer(
            **{"text_target" if target else "text": list(texts)}, truncation=True, max_length=self.max_length
        )
        names = self._input_names(encoded)
        rows = [{name: list(encoded[name][i]) for name in names} for i in range(len(texts))]
        for row, place in zip(rows, table.places, strict=True):
            if not row["input_ids"]:
                raise InputError(f"{table.path}: {place}: expected text, found nothing that the tokenizer knows")
        self._check_ids(max(max(row["input_ids"]) for row in rows))
        return rows, sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())

    def _input_names(self, encoded: Mapping[str, Any]) -> list[str]:
        config = self.base.module.config.get_text_config()
        wanted = ["input_ids", "attention_mask"]
        # GPT-2 would look type ids up among its words.
        if getattr(config, "type_vocab_size", 0):
            wanted.append("token_type_ids")
        accepted = inspect.signature(self.base.module.forward).parameters
        return [name for name in wanted if name in encoded and name in accepted]

    def _check_ids(self, largest: int) -> None:
        known = self.base.module.get_input_embeddings().num_embeddings
        if largest >= known:
            raise InputError(
                f"model {self.base.folder}: its tokenizer gives token {largest}, but its embeddings end at {known - 1}"
            )


@dataclass(frozen=True)
class Data:
    """All that training reads. collate: from examples to a batch, see `collator`. pad_token_id: what pads them."""

    train: Examples
    evaluation: Examples | None
    collate: Callable[[Sequence[Example]], dict[str, torch.Tensor]]
    max_length: int
    pad_token_id: int

    @property
    def truncated(self) -> int:
        """How many texts were cut."""
        return self.train.truncated + (self.evaluation.truncated if self.evaluation else 0)

    @property
    def left_out(self) -> int:
        """How many rows were left out."""
        return self.train.left_out + (self.evaluation.left_out if self.evaluation else 0)


def prepare(
    base: BaseModel,
    train: DataTable | Conversations,
    evaluation: DataTable | Conversations | None = None,
    *,
    max_length: int | None = None,
    labels: tuple[str, ...] = (),
) -> Data:
    """Tokenise with the tokenizer in the model's folder. max_length: None takes DEFAULT_MAX_LENGTH or, where that is
    less, the model's limit.

    Raises InputError without a readable tokenizer, for a length beyond the model's limit, and as `ExampleEncoder` does.
    """
    tokenizer = load_tokenizer(base.folder)
    limit = int(min(_positions(base), tokenizer.model_max_length, _UNLIMITED))
    if max_length is None:
        max_length = min(DEFAULT_MAX_LENGTH, limit)
    if not 2 <= max_length <= limit:
        upper = " or more" if limit == _UNLIMITED else f" to {limit}, the model's limit"
        raise InputError(f"--max-length {max_length}: expected 2{upper}")
    encode = ExampleEncoder(base, tokenizer, max_length, labels)
    pad = padding_id(base, tokenizer)
    return Data(
        train=encode(train),
        evaluation=None if evaluation is None else encode(evaluation),
        collate=collator(pad),
        max_length=max_length,
        pad_token_id=pad,
    )


def padding_id(base: BaseModel, tokenizer: Any) -> int:
    """The token to pad with; a classifier that names none is told.

    The model's own comes first: classifiers made of decoders look for it to find where a text ends.
    """
    config = base.module.config.get_text_config()
    candidates = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    chosen = next((int(value) for value in candidates if value is not None), 0)
    if base.task == "text-classification" and config.pad_token_id is None:
        config.pad_token_id = chosen
    return chosen


def collator(pad_id: int) -> Callable[[Sequence[Example]], dict[str, torch.Tensor]]:
    """A function from examples to a batch of int64 tensors, padded on the right to the longest of them."""
    padding = {"input_ids": pad_id, "labels": IGNORED}

    def collate(rows: Sequence[Example]) -> dict[str, torch.Tensor]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        batch = {}
        for name in rows[0]:
            values = [torch.tensor(row[name]) for row in rows]
            batch[name] = (
                torch.stack(values)
                if values[0].ndim == 0
                else pad_sequence(values, batch_first=True, padding_value=padding.get(name, 0))
            )
        return batch

    return collate


def _examples(
    inputs: Sequence[Example], labels: Sequence[Any], truncated: int, target_lengths: Sequence[int] | None = None
) -> Examples:
    rows = [{**row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
    lengths = [len(row["input_ids"]) for row in inputs]
    if target_lengths is not None:
        lengths = [length + target for length, target in zip(lengths, target_lengths, strict=True)]
    return Examples(rows, lengths, truncated)


def _positions(base: BaseModel) -> int:
    """How many positions the model has embeddings for or, where they are computed, was trained on."""
    from torch import nn

    for name, module in base.module.base_model.named_modules():
        # RoBERTa and its kind count positions from behind the padding token's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(base.module.config.get_text_config(), "max_position_embeddings", None)
    return _UNLIMITED if limit is None else int(limit)
