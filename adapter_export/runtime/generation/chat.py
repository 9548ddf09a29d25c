"""The bundle's chat template: messages to the text of a prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from adapter_export.checkpoints.files import optional_json
from adapter_export.errors import InputError
from adapter_export.reading.files import present, read_text

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_TEMPLATE_BYTES = 16 << 20
# Older sandboxes let templates out (CVE-2025-27516).
_SAFE_JINJA2 = (3, 1, 6)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def render_chat(bundle: str | Path, messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages (`{"role": ..., "content": ...}`) as the model was taught to read them, up to where its answer begins.

    The template is a program that came with the model: it runs in jinja2's sandbox, where it reaches nothing but the
    messages and can change nothing. It finds what transformers gives to templates: the special tokens,
    `add_generation_prompt`, `tojson`, `raise_exception`, `strftime_now`, `break`, `continue`, and `generation` blocks.

    Raises InputError for a bundle without a template, a template that fails, and without a jinja2 whose sandbox holds.
    """
    bundle = Path(bundle)
    path, template = _template(bundle, settings := optional_json(bundle / "tokenizer_config.json"))
    special = {name: _content(settings[name]) for name in _SPECIAL if settings.get(name) is not None}
    given = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None, **special}
    environment = _environment()
    try:
        return str(environment.from_string(template).render(given))
    except Exception as error:  # whatever the template makes Python raise
        raise InputError(f"{path}: the chat template fails: {' '.join(str(error).split())}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    try:
        import jinja2
        from jinja2 import nodes
        from jinja2.exceptions import SecurityError, TemplateError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from jinja2.utils import Namespace
    except ImportError:
        raise InputError("--chat: expected the package jinja2 to be installed, found none") from None
    if tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]) < _SAFE_JINJA2:
        raise InputError(f"--chat: expected jinja2 3.1.6 or newer, whose sandbox holds, found {jinja2.__version__}")

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


def _template(bundle: Path, settings: Mapping[str, Any]) -> tuple[Path, str]:
    """Where the template stands, and its text."""
    file = bundle / "chat_template.jinja"
    if present(file):
        return file, read_text(file, _MAX_TEMPLATE_BYTES)
    path = bundle / "tokenizer_config.json"
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}.get("default")
    if not isinstance(found, str):
        raise InputError(f"bundle {bundle}: expected a chat template ({file.name}, or in {path.name}), found none")
    return path, found


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # jinja2's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
