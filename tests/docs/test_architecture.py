"""docs/architecture.md names every part of the package, by what is there."""

from __future__ import annotations

import ast
import re

from tests.docs.blocks import ROOT

PACKAGE = ROOT / "adapter_export"
TABLE = re.compile(
    r"^\| `(?P<part>[\w.]+)` \| (?P<purpose>[^|]+) \| `(?P<file>[\w/.]+): (?P<name>\w+)` \|$", re.MULTILINE
)
PARTS = [match.groupdict() for match in TABLE.finditer((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))]


def test_every_part_is_there_once() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(part["part"] for part in PARTS) == sorted(modules | packages)


def test_what_to_begin_with_is_there() -> None:
    for part in PARTS:
        assert part["file"].partition("/")[0] == part["part"]
        tree = ast.parse((PACKAGE / part["file"]).read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert part["name"] in names, part
