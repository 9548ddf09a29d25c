"""Makes batches of texts: each text is tokenised once, and padded to the longest of its batch.

Symbols: B batch, T sequence. Labels are aligned with the logits: `labels[:, t]` is the target of `logits[:, t]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.models.tokenizer import load_tokenizer
from adapter_export.training.causal import Ending, Lesson, lessons
from adapter_export.training.chat import Chat
from adapter_export.training.conversations import Conversations
from adapter_export.training.metrics import IGNORED
from adapter_export.training.tables import DataTable, label_ids

if TYPE_CHECKING:
    import torch

    # One text: its model inputs (token ids and others) as lists. `labels` is an int for a class, and a list of token
    # ids for a text.
    Example = dict[str, Any]

# Texts are cut to this many tokens, unless the caller gives another number or the model takes fewer.
DEFAULT_MAX_LENGTH = 128

# Tokenizers without a length limit state a limit of 10^30.
_UNLIMITED = 10**9


@dataclass(frozen=True)
class Examples:
    """Tokenised rows.

    Attributes:
        rows: The rows.
        lengths: Number of tokens of each row, input and target together.
        truncated: How many texts were cut.
        left_out: How many rows are missing here, because cutting left nothing of them to learn.
    """

    rows: Sequence[Example]
    lengths: Sequence[int]
    truncated: int
    left_out: int = 0

    def longest_first(self) -> list[Example]:
        """Returns the rows for evaluation, longest first: there the order does not matter, and padding costs time."""
        return [self.rows[i] for i in sorted(range(len(self.rows)), key=lambda i: -self.lengths[i])]


@dataclass(frozen=True)
class ExampleEncoder:
    """Makes examples of tables, for one model and task.

    Attributes:
        base: The base model.
        tokenizer: The tokenizer, as transformers loads it.
        max_length: Texts are cut to this many tokens.
        labels: Class names of a text classification; empty for other tasks.
    """

    base: BaseModel
    tokenizer: Any
    max_length: int
    labels: tuple[str, ...] = ()

    def __call__(self, table: DataTable | Conversations) -> Examples:
        """Tokenises a table.

        Raises:
            InputError: A row has no tokens, or its label is not in `labels`. The error names the first such row.
        """
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
        """Returns examples for a decoder; `labels[t]` is the token after `input_ids[t]`, where that token is
        learned.
        """
        self._check_ids(max(max(lesson.ids) for lesson in lessons))
        rows = []
        for lesson in lessons:
            ids, learned = lesson.ids[: self.max_length], lesson.learned[: self.max_length]
            # The first token is never learned, as no token comes before it.
            if any(learned[1:]):
                next_ids = [token if counts else IGNORED for token, counts in zip(ids[1:], learned[1:], strict=True)]
                rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [*next_ids, IGNORED]})
        if not rows:
            raise InputError(f"{path}: --max-length {self.max_length}: leaves nothing to learn of any row")
        lengths = [len(row["input_ids"]) for row in rows]
        cut = sum(len(lesson.ids) > self.max_length for lesson in lessons)
        return Examples(rows, lengths, cut, len(lessons) - len(rows))

    def _tokenise(self, table: DataTable, texts: Sequence[str], *, target: bool = False) -> tuple[list[Example], int]:
        """Returns one row for each text, and how many texts were cut."""
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
        # GPT-2 looks up type ids in the embeddings of its words.
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
    """All data of a training run.

    Attributes:
        train: Examples to train on.
        evaluation: Examples to evaluate on, or None.
        collate: Makes a batch of examples, see `collator`.
        max_length: Texts are cut to this many tokens.
        pad_token_id: The token that inputs are padded with.
    """

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
    """Tokenises the data with the tokenizer in the model's folder.

    Args:
        base: The base model.
        train: Rows to train on.
        evaluation: Rows to evaluate on, or None.
        max_length: Texts are cut to this many tokens. None takes DEFAULT_MAX_LENGTH, or the model's limit where that is
            less.
        labels: Class names of a text classification; empty for other tasks.

    Raises:
        InputError: The folder has no readable tokenizer, `max_length` is beyond the model's limit, or a row cannot be
            used, see `ExampleEncoder`.
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
    """Returns the token to pad with. The config of a classifier without a padding token is set to this token.

    The model's own padding token comes first: classifiers that are decoders find the end of a text by it.
    """
    config = base.module.config.get_text_config()
    candidates = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    chosen = next((int(value) for value in candidates if value is not None), 0)
    if base.task == "text-classification" and config.pad_token_id is None:
        config.pad_token_id = chosen
    return chosen


def collator(pad_id: int) -> Callable[[Sequence[Example]], dict[str, torch.Tensor]]:
    """Returns a function that makes a batch of int64 tensors of examples, padded on the right to the longest
    example.
    """
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
    """Returns for how many positions the model has embeddings or, where they are computed, on how many it was
    trained.
    """
    from torch import nn

    for name, module in base.module.base_model.named_modules():
        # RoBERTa and models derived from it count positions from the one after the padding token's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(base.module.config.get_text_config(), "max_position_embeddings", None)
    return _UNLIMITED if limit is None else int(limit)
