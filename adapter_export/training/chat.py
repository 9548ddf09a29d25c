"""Conversations as the model's chat template writes them, and which part of them the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import render
from adapter_export.errors import InputError
from adapter_export.training.causal import Ending, Lesson
from adapter_export.training.conversations import Conversation, Conversations

# The tag by which a template marks the assistant's text, for transformers.
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Chat:
    """Tokenises conversations with a tokenizer's chat template.

    The template is a program that came with a model. transformers runs it in jinja2's sandbox.
    """

    def __init__(self, tokenizer: Any, ending: Ending, folder: Path) -> None:
        """Prepares the chat template.

        Args:
            tokenizer: The tokenizer, as transformers loads it.
            ending: How texts of the model end.
            folder: The model's folder, for error messages.

        Raises:
            InputError: The tokenizer has no template, or cannot say which characters a token stands for.
        """
        if not tokenizer.chat_template:
            raise InputError(
                f"model {folder}: messages need a chat template (chat_template.jinja, or in tokenizer_config.json), "
                "found none"
            )
        if not tokenizer.is_fast:
            raise InputError(f"model {folder}: messages need a tokenizer of the tokenizers library (tokenizer.json)")
        self._tokenizer, self._ending, self._folder = tokenizer, ending, folder
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:  # several, and none of them the default
            raise InputError(f"model {folder}: its chat template cannot be chosen: {error}") from None
        self._marked = _MARK.search(template) is not None
        _refuse_runaway(template, folder)

    def lessons(self, data: Conversations) -> Iterator[Lesson]:
        """Yields one lesson for each row: the whole conversation, of which the assistant's messages and their ends are
        learned.

        If the template marks the assistant's text, the marks decide. If it does not, a message is learned where the
        text before it is exactly what generation would read there. For the last message this must hold.

        Raises:
            InputError: The template refuses a row, or the last message does not follow what generation would read. The
                error names the first such row.
        """
        for place, conversation in zip(data.places, data.rows, strict=True):
            where = f"{data.path}: {place}"
            try:
                ids, learned = self._marks(conversation) if self._marked else self._compared(conversation)
                if not any(learned):
                    raise InputError(f"the chat template of {self._folder} writes nothing that the assistant said")
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            except Exception as error:  # A template can make Python raise any error.
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(f"{where}: the chat template of {self._folder} fails: {reason[:300]}") from None
            if learned[-1]:
                ids = self._ending.of_text(ids)
                learned += [True] * (len(ids) - len(learned))
            yield Lesson(ids, learned)

    def _marks(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Returns the tokens, and for each whether the template marks it."""
        encoded = self._tokenizer.apply_chat_template(
            conversation.messages,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        )
        learned = [bool(mark) for mark in encoded["assistant_masks"]]
        if conversation.first:
            prompt = self._render(conversation.messages[: conversation.first])
            if not self._render(conversation.messages).startswith(prompt):
                raise InputError(f"the chat template of {self._folder} writes the prompt otherwise before a completion")
            for index, (_, stop) in enumerate(encoded["offset_mapping"]):
                learned[index] &= stop > len(prompt)
        return list(encoded["input_ids"]), learned

    def _compared(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Returns the tokens, and for each whether it is of a message that follows what generation would read."""
        text = self._render(conversation.messages)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        learned = [False] * len(ids)
        for message in (turns := conversation.turns):
            if (span := self._span(conversation, message, text)) is None:
                if message == turns[-1]:
                    raise InputError(
                        f"the chat template of {self._folder} begins the assistant's last message otherwise than it "
                        "asks for one; mark what is the assistant's with {% generation %} and {% endgeneration %}"
                    )
                continue
            within = [index for index, (begin, stop) in enumerate(offsets) if stop > span[0] and begin < span[1]]
            # Templates put a line break behind the end of a message, where generation stops.
            last = max((index for index in within if ids[index] in self._ending.stops), default=len(ids))
            for index in within:
                learned[index] = index <= last
        return ids, learned

    def _span(self, conversation: Conversation, message: int, text: str) -> tuple[int, int] | None:
        """Returns where in `text` the message that follows a prompt begins and ends; None if it follows none."""
        try:
            before = self._render(conversation.messages[:message], add_generation_prompt=True)
            after = self._render(conversation.messages[: message + 1])
        except Exception:  # The template does not take such a conversation.
            return None
        return (len(before), len(after)) if after.startswith(before) and text.startswith(after) else None

    def _render(self, messages: list[dict[str, Any]], **asked: bool) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **asked))


def _refuse_runaway(template: str, folder: Path) -> None:
    """Refuses a template that takes more time or memory for a short conversation than a real template does.

    transformers runs templates in this process, without limits, so it must not get a template that never ends.

    Raises:
        InputError: The template exceeds the limits.
    """
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        render(template, {"messages": messages, "add_generation_prompt": False, "tools": None, "documents": None})
    except Exceeded as error:
        raise InputError(f"model {folder}: its chat template {error}") from None
    except Failed:
        # A template that refuses this conversation may accept the data: transformers passes it more than is passed
        # here.
        return
