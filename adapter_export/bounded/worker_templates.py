"""Renders chat templates in jinja2's sandbox, in the child process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

# Templates can break out of older sandboxes (CVE-2025-27516).
_SAFE_JINJA2 = (3, 1, 6)
_MAX_TEXT = 16 << 20


def render(template: str, given: Mapping[str, Any]) -> str:
    """Returns the text that a template makes of `given`."""
    text = str(_environment().from_string(template).render(given))
    if len(text) > _MAX_TEXT:
        raise ValueError(f"it writes more than {_MAX_TEXT:,} characters")
    return text


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ValueError("expected the package jinja2 to be installed, found none") from None
    if tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]) < _SAFE_JINJA2:
        raise ValueError(f"expected jinja2 3.1.6 or newer, whose sandbox holds, found {jinja2.__version__}")
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Marks(Extension):
        """`{% generation %}` marks the assistant's text, for training. Here it has no effect on the text."""

        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class Notes(Namespace):
        """A template's `namespace()`. Values in it cannot replace Python's own attributes."""

        def __init__(*args: Any, **values: Any) -> None:
            # Without `self`, as a template may use this name for a value.
            _refuse_private(dict(*args[1:], **values))
            Namespace.__init__(*args, **values)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse_private([name])
            super().__setitem__(name, value)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def _refuse_private(names: Iterable[str]) -> None:
        if private := [name for name in names if name.startswith("_")]:
            raise SecurityError(f"a namespace cannot keep {private[0]!r}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Marks])
    environment.filters["tojson"] = _tojson
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": Notes,
        "dict": lambda **values: values,
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # jinja2's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
