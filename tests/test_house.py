"""What holds for the sources as a whole: a method and an architecture are named in one place."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import grimp

import adapter_export
from adapter_export.architectures.registry import recorded
from adapter_export.bundle.graphs import GraphRole
from adapter_export.bundle.manifest import SiteRole
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.bundle.precision import Fusion, Precision, Quantization
from adapter_export.dtypes import DType
from adapter_export.methods import registry
from adapter_export.providers import Provider

PACKAGE = Path(adapter_export.__file__).parent
# Where a method may be named: its own file, and its modules in the formats of other libraries. The command line names
# some in help texts. The recorder runs where the library that trained an adapter is, by that library's names.
OF_METHODS = (
    "methods",
    "checkpoints/peft",
    "checkpoints/adapterhub",
    "checkpoints/onnx_adapter",
    "cli",
    "parity/recording",
)
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


CHOICES = (Mode, Binding, DType, Precision, Quantization, Fusion, GraphRole, SiteRole, Provider)
# A case's padding is no such choice, and has a property for the rest of the package. The recorder runs without it.
OF_WORDS = ("parity/cases.py", "parity/recording")


def test_no_word_of_a_choice_is_compared_with() -> None:
    """What a mode, a dtype or a provider means is asked of its type."""
    known = {word for choice in CHOICES for word in choice.words()}
    found = [
        f"{name}:{node.lineno}: {ast.unparse(node):.80}"
        for name, tree in sources(OF_WORDS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.MatchValue)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in known
    ]
    assert found == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types and inside functions count, too."""
    graph = grimp.build_graph("adapter_export", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # Raises an error with the modules of a circle.
    order = list(graphlib.TopologicalSorter(imports).static_order())
    assert len(order) == len(graph.modules)


def test_every_pass_and_every_package_has_tests() -> None:
    tests = Path(__file__).parent
    passes = [file.stem for file in (PACKAGE / "export/passes").glob("*.py") if file.stem != "__init__"]
    assert len(passes) >= 10
    assert [name for name in passes if not (tests / f"export/passes/test_{name}.py").is_file()] == []
    packages = {file.parent.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py")}
    # Records of architectures are data, which the tests of architectures read.
    packages -= {Path("architectures/families")}
    assert [str(package) for package in sorted(packages) if not list((tests / package).glob("test_*.py"))] == []
