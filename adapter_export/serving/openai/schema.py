"""The requests of OpenAI's API, as far as they are served here. A field that would change the answer and is not served
is refused if it has another value than its default.

Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tokens = list[Annotated[int, Field(ge=0)]]
Text = Annotated[str, Field(min_length=1)]
# Fields that are not served -> the values with which they change nothing.
_NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "web_search_options": (None,),
}


class StreamOptions(BaseModel):
    """Settings of a stream."""

    include_usage: bool = False


class Generating(BaseModel):
    """What requests that generate have in common. `top_k` and `repetition_penalty` are additions of this server."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: Annotated[int, Field(ge=1, le=128)] = 1
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _refuse(self) -> Generating:
        """Refuses what is not served."""
        for name, value in (self.model_extra or {}).items():
            if name not in _NOT_SERVED:
                raise ValueError(f"{name[:100]!r} is not a field of this request, or not served")
            if value not in _NOT_SERVED[name]:
                raise ValueError(f"{name!r} is not served")
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' needs stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a row."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Generating):
    """A request to /v1/completions."""

    prompt: str | Tokens | Annotated[list[str] | list[Tokens], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or a list of tokens."""
        given = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)) or not given:
            return [given]  # type: ignore[list-item]
        return list(given)  # type: ignore[arg-type]


class TextPart(BaseModel):
    """A part of the content of a message. Parts other than texts are not served."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, Field(max_length=64)]
    content: str | list[TextPart]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """Returns the message as chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatRequest(Generating):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        """Refuses fields that contradict each other."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("'max_tokens' and 'max_completion_tokens' differ; expected one of the two")
        return self


class EmbeddingRequest(BaseModel):
    """A request to /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
