"""The bundle's chat template: messages to the text of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import render
from adapter_export.errors import InputError
from adapter_export.reading.files import present, read_text
from adapter_export.reading.json_files import optional_json

_MAX_TEMPLATE_BYTES = 16 << 20
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def render_chat(bundle: str | Path, messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages (`{"role": ..., "content": ...}`) as the model was taught to read them, up to where its answer begins.

    The template is a program that came with the model: it runs in jinja2's sandbox, where it reaches nothing but the
    messages and can change nothing, in a child process with limits of time and memory. It finds what transformers gives
    to templates: the special tokens, `add_generation_prompt`, `tojson`, `raise_exception`, `strftime_now`, `break`,
    `continue`, and `generation` blocks.

    Raises InputError for a bundle without a template, a template that fails, and without a jinja2 whose sandbox holds.
    """
    bundle = Path(bundle)
    path, template = _template(bundle, settings := optional_json(bundle / "tokenizer_config.json"))
    special = {name: _content(settings[name]) for name in _SPECIAL if settings.get(name) is not None}
    given = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None, **special}
    try:
        return render(template, given)
    except Failed as error:
        raise InputError(f"{path}: the chat template fails: {error}") from None
    except Exceeded as error:
        raise InputError(f"{path}: the chat template {error}") from None


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
