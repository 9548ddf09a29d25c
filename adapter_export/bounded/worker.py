"""The program of the child process: reads requests from stdin and answers on stdout, each one JSON object in a line.

The first line says that it has started. The system limits its memory (not on Windows). The parent ends the process when
a request takes too long.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from adapter_export.bounded.worker_templates import render
from adapter_export.bounded.worker_tokenizers import Tokenizers
from adapter_export.reading.panics import is_panic


def main() -> None:
    """Answers requests until stdin ends. Arguments: bytes of memory, and seconds after which to end without a
    parent.
    """
    limit, seconds = int(sys.argv[1]), int(sys.argv[2])
    _limit_memory(limit)
    tokenizers = Tokenizers()
    _write("{}")
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            # The default action ends the process, even while a regular expression is matched.
            signal.alarm(seconds)
        answer = _answer(line, tokenizers)
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        _write(answer)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(line: str, tokenizers: Tokenizers) -> str:
    try:
        return json.dumps(_found(json.loads(line), tokenizers))
    except MemoryError:
        return '{"exceeded": true}'
    except BaseException as error:  # A library can raise anything for an expression, a template or a tokenizer.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        return json.dumps({"error": " ".join(str(error).split())[:1000] or type(error).__name__})


def _found(request: Mapping[str, Any], tokenizers: Tokenizers) -> dict[str, Any]:
    match request["kind"]:
        case "match":
            return {"found": _match(request["patterns"], request["names"], request["whole"])}
        case "render":
            return {"text": render(request["template"], request["given"])}
        case _:
            return tokenizers.answer(request)


def _match(patterns: list[str], names: list[str], whole: bool) -> list[bool]:
    found = [False] * len(names)
    for pattern in patterns:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Warnings about style.
            compiled = re.compile(pattern)
        match = compiled.fullmatch if whole else compiled.match
        found = [known or match(name) is not None for known, name in zip(found, names, strict=True)]
    return found


if __name__ == "__main__":
    main()
