"""The fenced blocks of a page in Markdown, and how each language is run: as the page has it, to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_export.training.columns import find_columns
from adapter_export.training.conversations import read_conversations
from adapter_export.training.tables import read_table
from samples import environments
from samples.assets import AssetError
from tests import node

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<language>[^`\n]*)$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")
SECONDS = 300


@dataclass(frozen=True)
class Block:
    """page: its path in the repository. line: of the opening fence. reason: why it is not run, None where it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README, CONTRIBUTING, SECURITY and docs."""
    return [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ]


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page, in order. text: in place of the page's own. Raises ValueError for one without an end."""
    lines = iter(
        enumerate((ROOT / page).read_text(encoding="utf-8").splitlines() if text is None else text.splitlines(), 1)
    )
    blocks, above = [], ""
    for number, line in lines:
        if (fence := _FENCE.match(line)) is None:
            above = line
            continue
        content, closed = [], False
        for _, inner in lines:
            if closed := inner.strip() == fence["marks"]:
                break
            content.append(inner.removeprefix(fence["indent"]))
        if not closed:
            raise ValueError(f"{page}:{number}: a block without an end")
        told = _NOT_RUN.fullmatch(above.strip())
        blocks.append(
            Block(page, number, fence["language"].strip(), "\n".join(content) + "\n", told and told["reason"])
        )
        above = ""
    return blocks


def run(block: Block, folder: Path) -> None:
    """Run it in `folder`; fails where it does, skips where what it needs cannot be had here."""
    if block.language not in _RUNNERS:
        pytest.fail(f"{block}: expected one of {', '.join(_RUNNERS)}, found language {block.language!r}")
    _RUNNERS[block.language](block, folder)


def _bash(block: Block, folder: Path) -> None:
    _process(block, folder, ["bash", "-euo", "pipefail", "-c", block.text])


def _python(block: Block, folder: Path) -> None:
    others = (environments.CLIENTS, environments.GENAI, environments.OPENVINO)
    needed = [environment for environment in others if re.search(rf"(import|from) {environment.module}\b", block.text)]
    if not needed:
        _process(block, folder, [sys.executable, "-W", "error", "-c", block.text])
        return
    try:
        python = environments.python(*needed)
    except AssetError as error:
        pytest.skip(str(error))
    _process(block, folder, [python, "-c", block.text], PYTHONPATH="")


def _json(block: Block, folder: Path) -> None:
    json.loads(block.text)


def _jsonl(block: Block, folder: Path) -> None:
    """Lines to train on, read as `train` reads them."""
    file = folder / f"{block.line}.jsonl"
    file.write_text(block.text, encoding="utf-8")
    columns = find_columns(file, "causal-lm")
    rows = read_conversations(file, columns) if columns.messages else read_table(file, columns.text, columns.label)
    assert len(rows) == len(block.text.splitlines())


def _js(block: Block, folder: Path) -> None:
    node.beside(folder)
    script = folder / f"{block.line}.mjs"
    script.write_text(block.text, encoding="utf-8")
    _process(block, folder, ["node", script])


_RUNNERS: Mapping[str, Callable[[Block, Path], None]] = {
    "bash": _bash,
    "js": _js,
    "json": _json,
    "jsonl": _jsonl,
    "python": _python,
}


def _process(block: Block, folder: Path, command: list[str | Path], **variables: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{_programs(folder)}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        # As pytest finds it by itself where the package is installed, and not run from its sources.
        "PYTEST_PLUGINS": "adapter_export.pytest_plugin",
        **variables,
    }
    result = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, timeout=SECONDS,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if result.returncode:
        pytest.fail(f"{block}: exit code {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")


def _programs(folder: Path) -> Path:
    """What the pages call, of the environment that runs the tests."""
    programs = folder / ".programs"
    if not programs.exists():
        programs.mkdir()
        for name, arguments in (("python", ""), ("adapter-export", "-m adapter_export "), ("pytest", "-m pytest ")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n', encoding="utf-8")
            program.chmod(0o755)
    return programs
