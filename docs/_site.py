"""Collects the pages that Zensical builds the site from. `make docs` runs it.

    python docs/_site.py

The pages of docs/ and the Markdown files at the top of the repository come together in one folder, build/pages, with
build/zensical.toml beside it. README.md becomes index.md, the page that the site opens with. Links follow their
targets: a page to its new name, any other file of the repository to a copy in build/pages/files.

Needs the standard library alone.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
_AT_THE_TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
# Pages that a checkout may lack: `make faults` writes this one, and takes an hour.
_OPTIONAL = ("reliability.md",)

_FENCED = re.compile(r"^ *(?P<marks>`{3,}|~{3,})[^\n]*\n.*?^ *(?P=marks)\n", re.DOTALL | re.MULTILINE)
# Code first, so that what looks like a link in it is not one: `](target)`, or `[name]: target`.
_LINK = re.compile(
    r"(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|\]\((?P<inline>[^()\s]+)\)"
    r"|^\[[^\]\n]+\]: (?P<reference>\S+)",
    re.DOTALL | re.MULTILINE,
)
_ELSEWHERE = re.compile(r"[a-z]+:|//", re.IGNORECASE)
_LIST = re.compile(r"[-*+] |1\. ")


def sources() -> dict[str, str]:
    """Path in the repository -> name in the site, of every page."""
    pages = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return _AT_THE_TOP | pages


def links(text: str) -> list[str]:
    """The targets of a page's links in their order, except those that lead out of the repository."""
    found: list[str] = []

    def kept(target: str) -> str:
        found.append(target)
        return target

    with_links(text, kept)
    return found


def with_links(text: str, change: Callable[[str], str]) -> str:
    """The page with every target of a link changed, except those that lead out of the repository."""

    def changed(match: re.Match[str]) -> str:
        target = match["inline"] or match["reference"]
        if target is None or _ELSEWHERE.match(target):
            return match[0]
        start = match.start("inline" if match["inline"] else "reference") - match.start()
        return match[0][:start] + change(target) + match[0][start + len(target) :]

    return outside_fences(text, lambda part: _LINK.sub(changed, part))


def separated(text: str) -> str:
    """The page with an empty line before each list, table and block, as Zensical's Markdown wants it.

    Elsewhere these may follow a line of text directly.
    """

    def spaced(part: str) -> str:
        lines: list[str] = []
        in_list = False
        for line in part.splitlines():
            begins = _LIST.match(line) is not None
            above = lines[-1] if lines else ""
            apart = (begins and not in_list) or (line.startswith("|") and not above.startswith("|"))
            if apart and above.strip():
                lines.append("")
            in_list = bool(line.strip()) and (in_list or begins)
            lines.append(line)
        return "\n" + "\n".join(lines).strip("\n") + "\n\n"

    return outside_fences(text, spaced).strip("\n") + "\n"


def outside_fences(text: str, change: Callable[[str], str], keep: Callable[[str], str] = lambda fence: fence) -> str:
    """The page with what is not in a fenced block changed. keep: what becomes of the blocks."""
    parts, end = [], 0
    for match in _FENCED.finditer(text):
        parts += [change(text[end : match.start()]), keep(match[0])]
        end = match.end()
    return "".join([*parts, change(text[end:])])


def page(source: str, files: set[Path]) -> str:
    """A page as the site has it. files: the files that it links to are added."""
    names = sources()

    def moved(target: str) -> str:
        path, mark, anchor = target.partition("#")
        if not path:
            return target
        there = (ROOT / source).parent.joinpath(path).resolve()
        if not there.is_relative_to(ROOT) or not there.is_file():
            sys.exit(f"{source}: a link to {target}, which is no file of the repository")
        name = there.relative_to(ROOT).as_posix()
        if name in names:
            return names[name] + mark + anchor
        files.add(there)
        return f"files/{name}"

    return separated(with_links((ROOT / source).read_text(encoding="utf-8"), moved))


def config(names: set[str]) -> str:
    """docs/zensical.toml, without the lines of optional pages that are not there."""
    lines = (ROOT / "docs/zensical.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    missing = [name for name in _OPTIONAL if name not in names]
    return "".join(line for line in lines if not any(f'"{name}"' in line for name in missing))


def main() -> None:
    """Write build/pages and build/zensical.toml anew."""
    pages = BUILD / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    names, files = sources(), set[Path]()
    text = config(set(names.values()))
    for source, name in names.items():
        if f'"{name}"' not in text:
            sys.exit(f"docs/zensical.toml: {source} is not in its `nav`")
        (pages / name).write_text(page(source, files), encoding="utf-8")
    for file in files:
        copy = pages / "files" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    (BUILD / "zensical.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
