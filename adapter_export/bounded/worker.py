"""The child process: reads requests from stdin and answers on stdout, one JSON object a line.

It imports nothing of this package, and jinja2 only where a template is asked for. Memory is limited by the system where
that can be (not on Windows); how long a request may take is the parent's to say, who then ends this process.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

# Older sandboxes let templates out (CVE-2025-27516).
_SAFE_JINJA2 = (3, 1, 6)
_MAX_TEXT = 16 << 20


def main() -> None:
    """Answer requests until stdin ends. Arguments: bytes of memory, seconds after which to end without a parent."""
    limit, seconds = int(sys.argv[1]), int(sys.argv[2])
    _limit_memory(limit)
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            # The default action ends the process, in the middle of an expression as well.
            signal.alarm(seconds)
        answer = json.dumps(_answer(json.loads(line)))
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        if request["kind"] == "match":
            return {"found": _match(request["patterns"], request["names"], request["whole"])}
        return {"text": _render(request["template"], request["given"])}
    except MemoryError:
        return {"exceeded": True}
    except Exception as error:  # whatever the expression or template makes Python raise
        return {"error": " ".join(str(error).split())[:1000] or type(error).__name__}


def _match(patterns: list[str], names: list[str], whole: bool) -> list[bool]:
    found = [False] * len(names)
    for pattern in patterns:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on style
            compiled = re.compile(pattern)
        match = compiled.fullmatch if whole else compiled.match
        found = [known or match(name) is not None for known, name in zip(found, names, strict=True)]
    return found


def _render(template: str, given: dict[str, Any]) -> str:
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
        """`{% generation %}` marks what the assistant said, for training; here it is text like any other."""

        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class Notes(Namespace):
        """A template's `namespace()`: what it keeps there cannot stand in for Python's own attributes."""

        def __init__(*args: Any, **values: Any) -> None:
            # No `self`: a template may keep something of that name.
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
    # jinja2's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


if __name__ == "__main__":
    main()
