"""Writes docs/commands.md, the reference of the command line, from the commands themselves.

    python -m docs._commands

A test holds the page equal to what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click

from adapter_export.cli.main import COMMANDS, main

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """\
# Commands

Written by `make commands` from the commands' own help; do not edit. [Commands by example](usage.md) shows them at work,
with the exit codes.

`adapter-export --help` lists the commands, `adapter-export COMMAND --help` explains one. `adapter-export --version`
prints the version.
"""
# What Markdown would take for markup; code in backticks is meant as such.
_MARKUP = re.compile(r"([\\*<\[\]])")
# What click puts behind the help of an option.
_EXTRA = re.compile(r"\s*\[([^\[\]]+)\]$")


def page() -> str:
    """The page in Markdown."""
    group = click.Context(main, info_name="adapter-export", **main.context_settings)
    return "\n".join([_HEAD, *(_section(name, group) for name in COMMANDS)])


def _section(name: str, group: click.Context) -> str:
    command = main.get_command(group, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=group)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    options = [f"- `{names}`: {_plain(text)}" for names, text in filter(None, records) if text]
    parts = [f"## {name}", f"    {usage}", _plain(inspect.cleandoc(command.help or "")), "\n".join(options)]
    return "\n\n".join([*parts, *_example(command.epilog or "")]) + "\n"


def _example(epilog: str) -> Iterator[str]:
    """Its lines as they are: indented ones as code, others as text."""
    for part in epilog.strip("\n").split("\n\n"):
        for indented, lines in groupby(part.splitlines(), lambda line: line.startswith("  ")):
            yield "\n".join(f"  {line}" if indented else _plain(line) for line in lines)


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", _EXTRA.sub(r" (\1)", text)).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
