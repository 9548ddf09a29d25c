"""Chat templates, against transformers' own rendering, and against templates that mean harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapter_export.bounded.programs import keeper
from adapter_export.errors import InputError
from adapter_export.runtime.generation.chat import render_chat

MESSAGES = [
    {"role": "system", "content": "be <brief> & kind"},
    {"role": "user", "content": "what is \u00e9?\n"},
    {"role": "assistant", "content": "a letter"},
    {"role": "user", "content": "thanks"},
]
CHATML = """\
{%- set ns = namespace(count=0) -%}
{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'assistant' %}{% continue %}{% endif %}
    {% set ns.count = ns.count + 1 %}
    {{- '<|' + message['role'] + '|>' }}
    {%- generation %}{% set said = message['content'] | trim %}{{ said + eos_token }}{% endgeneration %}
    {{- said is defined }}
{% endfor %}
{% if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{{ ns.count }} {{ messages[0] | tojson }} {{ dict(a=1) | tojson(indent=1) }}
{% if add_generation_prompt %}<|assistant|>{% endif %}
"""


def bundle(tmp_path: Path, template: Any, *, in_file: bool = True, **settings: Any) -> Path:
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}, **settings}
    if in_file:
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        settings["chat_template"] = template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.parametrize("in_file", [True, False])
def test_as_transformers_renders_it(tiny_model: Any, tmp_path: Path, in_file: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama", "causal-lm"), bos_token="<s>", eos_token="</s>")
    wanted = tokenizer.apply_chat_template(MESSAGES, chat_template=CHATML, tokenize=False, add_generation_prompt=True)
    assert render_chat(bundle(tmp_path, CHATML, in_file=in_file), MESSAGES) == wanted
    assert "<|user|>what is \u00e9?</s>False" in wanted
    assert wanted.endswith("<|assistant|>")


def test_of_several_templates_the_default(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    assert render_chat(bundle(tmp_path, several, in_file=False), MESSAGES) == MESSAGES[0]["content"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ lipsum() }}",
        "{{ cycler.__init__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% set ns = namespace(_Namespace__attrs=1) %}",
        "{% set ns = namespace({'__html__': 1}) %}",
        "{{ ('%s' | attr('format')).__globals__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
        "{{ none + 1 }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(tmp_path: Path, template: str) -> None:
    messages = [dict(message) for message in MESSAGES]
    found, message = None, None
    try:
        found = render_chat(bundle(tmp_path, template), messages)
    except InputError as refusal:
        message = str(refusal)
    # jinja2 shows an attribute it refuses as nothing at all.
    assert found in (None, "")
    if message is not None:
        assert message.startswith(f"{tmp_path / 'chat_template.jinja'}: the chat template fails: ")
        assert "\n" not in message
    assert messages == MESSAGES


def test_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the chat template fails: roles must alternate$"):
        render_chat(bundle(tmp_path, "{{ raise_exception('roles must alternate') }}"), MESSAGES)


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a chat template \(chat_template.jinja, or in tokenizer_"):
        render_chat(tmp_path, MESSAGES)
    with pytest.raises(InputError, match="found none"):
        render_chat(bundle(tmp_path, [{"name": "tools", "template": "no"}], in_file=False), MESSAGES)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template.jinja: expected UTF-8"):
        render_chat(tmp_path, MESSAGES)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("__version__ = '3.1.5'", "expected jinja2 3.1.6 or newer, whose sandbox holds, found 3.1.5"),
        ("raise ImportError", "expected the package jinja2 to be installed, found none"),
    ],
)
def test_no_jinja2_or_one_whose_sandbox_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, told: str
) -> None:
    (other := tmp_path / "other").mkdir()
    (other / "jinja2.py").write_text(found)
    folder = bundle(tmp_path, CHATML)
    with monkeypatch.context() as patch:
        # The child is to look for its packages anew.
        keeper.end()
        patch.syspath_prepend(str(other))
        with pytest.raises(InputError, match=told):
            render_chat(folder, MESSAGES)
    keeper.end()
    assert render_chat(folder, MESSAGES)
