"""Samples show what a user can write: the public names of the package, and its command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").rglob("*.py"))
_DEEP = re.compile(r"adapter_export\.\w+")


def imported(tree: ast.AST) -> list[str]:
    """Modules that are imported, anywhere in the file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_there_are_samples() -> None:
    assert {"demo.py", "demo_llm.py", "quickstart.py"} <= {path.name for path in SAMPLES}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_no_sample_imports_deeper_than_the_package(path: Path) -> None:
    assert [name for name in imported(ast.parse(path.read_text(encoding="utf-8"))) if _DEEP.match(name)] == []


def test_a_deep_import_is_seen() -> None:
    assert imported(ast.parse("def f():\n    from adapter_export.cli import main\n    import a.b")) == [
        "adapter_export.cli",
        "a.b",
    ]
