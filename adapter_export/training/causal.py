"""The training examples of decoders: the tokens of each row, and for which of them the loss counts.

Symbols: s tokens of the prompt as generation will read it, c of the completion, e the token that ends a text.
    a text alone       t_0 t_1 ... e, all of them learned
    with a completion  s_0 s_1 ... c_0 c_1 ... e, learned from c_0 on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.training.tables import DataTable


@dataclass(frozen=True)
class Lesson:
    """One row of training data for a decoder.

    Attributes:
        ids: Token ids.
        learned: For each token, whether the loss counts it.
    """

    ids: list[int]
    learned: list[bool]


@dataclass(frozen=True)
class Ending:
    """How texts of a model end.

    Attributes:
        stops: Tokens at which generation ends.
        token: The token that is added to a text that ends with none of `stops`; None: nothing is added.
    """

    stops: frozenset[int]
    token: int | None

    @staticmethod
    def of(base: BaseModel, tokenizer: Any) -> Ending:
        """Returns how texts end for a model: with the tokenizer's end token, unless generation does not end at that
        token.
        """
        config = getattr(base.module, "generation_config", None) or base.module.config.get_text_config()
        found = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        known = base.module.get_input_embeddings().num_embeddings
        stops = [token for token in found if token is not None and 0 <= token < known]
        own = tokenizer.eos_token_id
        if own is None or (stops and own not in stops):
            own = stops[0] if stops else None
        return Ending(frozenset(stops if own is None else [*stops, own]), own)

    def of_text(self, ids: list[int]) -> list[int]:
        """Returns the tokens with an end. `ids` must not be empty."""
        return ids if self.token is None or ids[-1] in self.stops else [*ids, self.token]


def lessons(tokenizer: Any, ending: Ending, table: DataTable) -> Iterator[Lesson]:
    """Yields one lesson for each row.

    Args:
        tokenizer: The tokenizer, as transformers loads it.
        ending: How texts of the model end.
        table: The rows. With labels, the texts are prompts and the labels are completions.

    Raises:
        InputError: A row's text or completion has no tokens. The error names the first such row.
    """
    if table.labels is None:
        for place, ids in zip(table.places, _encode(tokenizer, table.texts), strict=True):
            if not ids:
                raise _nothing(table, place)
            whole = ending.of_text(ids)
            yield Lesson(whole, [True] * len(whole))
        return
    prompts = _encode(tokenizer, table.texts)
    joint = _encode(tokenizer, [prompt + text for prompt, text in zip(table.texts, table.labels, strict=True)])
    for place, read, both, completion in zip(table.places, prompts, joint, table.labels, strict=True):
        # Some tokenizers add an end token to every text.
        prompt = read[:-1] if read and read[-1] in ending.stops else read
        ids, start = _continued(tokenizer, prompt, both, completion)
        if start == len(ids):
            raise _nothing(table, place)
        whole = ending.of_text(ids)
        yield Lesson(whole, [index >= start for index in range(len(whole))])


def _continued(tokenizer: Any, prompt: list[int], joint: list[int], completion: str) -> tuple[list[int], int]:
    """Returns the tokens of a prompt and its completion, and the index at which the completion begins.

    In most cases these are the tokens of the joint text. Where the joint text has a token across the border (a prompt
    that ends in a space), that token does not follow the prompt in generation. Then prompt and completion are tokenised
    separately, unless the tokenizer would put a space between them.
    """
    if joint[: len(prompt)] == prompt:
        return joint, len(prompt)
    apart = prompt + _encode(tokenizer, [completion], special=False)[0]
    if _decode(tokenizer, apart) == _decode(tokenizer, joint):
        return apart, len(prompt)
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, joint, strict=False))
    return joint, len(list(shared))


def _encode(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """Returns the tokens of whole texts. The caller cuts texts that are too long."""
    encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _nothing(table: DataTable, place: str) -> InputError:
    return InputError(f"{table.path}: {place}: expected text, found nothing that the tokenizer knows")
