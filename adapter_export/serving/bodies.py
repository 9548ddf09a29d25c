"""Reads the bodies of requests."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from adapter_export.serving.problems import Problem

T = TypeVar("T", bound=BaseModel)
_MOST_CHARACTERS = 300


def parsed(schema: type[T], body: bytes) -> T:
    """Returns a JSON body as an object of the schema.

    Raises:
        Problem: 400; the message names the first field that is wrong, and what was expected.
    """
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        message = f"{field}: {reason}" if field else f"body: {reason}"
        raise Problem(400, message[:_MOST_CHARACTERS], param=field or None) from None
