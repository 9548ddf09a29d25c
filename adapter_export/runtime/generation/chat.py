"""Turns chat messages into the text of a prompt, with the bundle's chat template."""

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
    """Returns messages as the text that the model was trained on, up to the start of its answer.

    The template is a program that comes with the model. It runs in jinja2's sandbox, in a child process with limits of
    time and memory; it can only read the messages, and change nothing. It gets what transformers gives to templates:
    the special tokens, `add_generation_prompt`, `tojson`, `raise_exception`, `strftime_now`, `break`, `continue`, and
    `generation` blocks.

    Args:
        bundle: Folder of the bundle.
        messages: The messages, each `{"role": ..., "content": ...}`.

    Returns:
        The text of the prompt.

    Raises:
        InputError: The bundle has no template, the template fails, or no version of jinja2 with a safe sandbox is
            installed.
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
    """Returns the file of the template, and the template's text."""
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
