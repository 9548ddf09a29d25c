"""What holds for the sources as a whole: a method and an architecture are named in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import adapter_export
from adapter_export.architectures.registry import recorded
from adapter_export.methods import registry

PACKAGE = Path(adapter_export.__file__).parent
# Where a method may be named: its own file, and its modules in the formats of other libraries. The command line names
# some in help texts. The recorder runs where the library that trained an adapter is, by that library's names.
OF_METHODS = ("methods", "checkpoints/peft", "checkpoints/adapterhub", "cli", "parity/recording")
OF_ARCHITECTURES = ("architectures", "checkpoints/peft/defaults.py")


def sources(without: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if not name.startswith(without):
            yield name, ast.parse(file.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    """Identities of the constants that are docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds)]
    first = [body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)]
    return {id(value) for value in first}


def words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Identifiers and strings that are no docstrings, with their lines."""
    known = docstrings(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            yield line, node.value
        for field in ("id", "name", "attr", "arg", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield line, value


def test_no_method_is_named_outside_its_own_modules() -> None:
    methods = {name.lower() for name in registry.names()}
    found = [
        f"{name}:{line}: {word!r:.60}"
        for name, tree in sources(OF_METHODS)
        for line, word in words(tree)
        if any(method in word.lower() for method in methods)
    ]
    assert found == []


def test_no_architecture_is_named_outside_the_records() -> None:
    architectures = set(recorded())
    found = [
        f"{name}: {node.value}"
        for name, tree in sources(OF_ARCHITECTURES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in architectures
    ]
    # AdapterHub's name for a way to draw initial weights.
    assert found == ["checkpoints/adapterhub/config.py: bert"]
