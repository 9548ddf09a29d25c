"""Text of strangers' files on a terminal: what a terminal obeys is shown instead, wherever it comes from."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from adapter_export.cli import main
from adapter_export.terminal import console, visible, written
from tests.bundles import Exported
from tests.merging.models import write_adapter, write_model

# A title, a colour in eight bits, a line that goes back over itself, and one that runs from right to left.
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202eline\r\x08\u2028X\x7f"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eline\x0d\x08\u2028X\x7f"


def is_obeyed(character: str) -> bool:
    """By Unicode's own data: controls but line breaks and tabs, separators, surrogates, and what sets a direction."""
    kind, name = unicodedata.category(character), unicodedata.name(character, "")
    directs = any(word in name for word in ("RIGHT-TO-LEFT", "LEFT-TO-RIGHT", "DIRECTIONAL", "LETTER MARK", "STRONG"))
    return (kind == "Cc" and character not in "\n\t") or kind in ("Cs", "Zl", "Zp") or (kind == "Cf" and directs)


def obeyed(text: str) -> list[str]:
    return [character for character in text if is_obeyed(character)]


def test_everything_that_is_obeyed_and_nothing_else() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    changed = {character for character in every if visible(character) != character}
    assert changed == {*obeyed("".join(every))}
    assert not obeyed("".join(visible(character) for character in every))
    assert visible(HOSTILE) == SHOWN
    assert visible(visible(HOSTILE)) == SHOWN
    assert visible("é 日本 \U0001f44d\u200d\n\tb") == "é 日本 \U0001f44d\u200d\n\tb"
    assert visible("a\r\n\tb", lines=False) == r"a\r\n\tb"
    assert visible("\udcff") == r"\udcff"


def test_whatever_writes() -> None:
    """Prints, warnings, logs and tracebacks of any library."""
    code = f"""
import logging, sys, traceback, warnings
from adapter_export.terminal import written
with written():
    print({HOSTILE!r})
    sys.stdout.writelines([{HOSTILE!r}, "\\n"])
    assert not hasattr(sys.stdout, "buffer")
    warnings.warn({HOSTILE!r})
    logging.getLogger("strange").warning({HOSTILE!r})
    try:
        raise ValueError({HOSTILE!r})
    except ValueError as error:
        traceback.print_exception(error)
print("as before")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == f"{SHOWN}\n{SHOWN}\nas before\n"
    assert not obeyed(done.stderr.decode())
    # The traceback quotes the source as well, which spells them as escapes already.
    assert done.stderr.decode().count(SHOWN) >= 3


def test_a_console_obeys_its_own_codes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    with written():
        console().print(visible(HOSTILE), HOSTILE, "[b]x[/b] :smile:", style="bold", highlight=False, soft_wrap=True)
    text = screen.getvalue()
    assert text.startswith("\x1b[1m")
    assert SHOWN in text
    assert text.count(r"\x1b]0;owned") == 2
    assert "[b]x[/b] :smile:" in text
    assert not obeyed(text.replace("\x1b[1m", "").replace("\x1b[0m", ""))


def edited(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def bundle(swappable_bundle: Exported, tmp_path: Path) -> Path:
    """Whose labels, version and inputs have hostile names."""
    shutil.copytree(swappable_bundle.bundle, folder := tmp_path / "bundle")

    def change(manifest: Any) -> None:
        manifest["project_version"] = HOSTILE
        for adapter in manifest["adapters"]:
            adapter["labels"] = [f"{name}{HOSTILE}" for name in adapter["labels"]]

    edited(folder / "manifest.json", change)
    return folder


def ran(*arguments: str | Path) -> tuple[int, str]:
    """Exit code, and all that was written."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert not obeyed(done.output), [hex(ord(c)) for c in obeyed(done.output)]
    return done.exit_code, done.output


def test_a_bundle(bundle: Path, tmp_path: Path) -> None:
    code, output = ran("inspect", bundle)
    assert code == 0
    assert r"\x1b]0;owned" in output
    code, output = ran("run", "--bundle", bundle, "--adapter", "ia3_two", "--text", f"good {HOSTILE}")
    assert code == 0
    assert r"\x1b]0;owned" in output
    info = json.loads((bundle / "manifest.json").read_text())["base"]
    assert info["model_type"] == "bert"
    code, output = ran("add", "--bundle", bundle, "--adapter", f"x={tmp_path / HOSTILE.replace('/', '')}")
    assert code == 2
    assert r"\x1b]0;owned" in output


def test_json_keeps_the_text(bundle: Path) -> None:
    arguments = ["run", "--bundle", str(bundle), "--adapter", "ia3_two", "--text", HOSTILE, "--json"]
    done = CliRunner().invoke(main, arguments)
    assert not obeyed(done.stdout)
    result = json.loads(done.stdout)["results"][0]
    assert result["text"] == HOSTILE
    assert all(name.endswith(HOSTILE) for name in result["probabilities"])


def test_errors_and_tracebacks(bundle: Path, tmp_path: Path) -> None:
    edited(bundle / "manifest.json", lambda manifest: manifest.update(mode=HOSTILE))
    for more in ((), ("--debug",)):
        code, output = ran("inspect", bundle, *more)
        assert code == 2
        assert "field 'mode': expected one of" in output
    assert ran("inspect", tmp_path / HOSTILE)[0] == 2
    assert ran(HOSTILE)[0] == 2
    assert ran("inspect", f"--{HOSTILE}")[0] == 2


def test_checkpoints(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    edited(adapter / "adapter_config.json", lambda config: config.update({HOSTILE: HOSTILE, "revision": HOSTILE}))
    assert ran("inspect", adapter)[0] == 0
    save_file({HOSTILE: np.ones(3, np.float32)}, adapter / "adapter_model.safetensors")
    assert ran("inspect", adapter)[0] == 2
    model = write_model(tmp_path / "model")
    code, _ = ran("merge", "--model", model, "--adapter", adapter, "--output", tmp_path / "out")
    assert code == 2


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff\x1b[2J")
    try:
        adapter.rename(folder)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    code, output = ran("inspect", folder)
    assert code == 0
    assert r"bad\udcff\x1b[2J" in output


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal(bundle: Path) -> None:
    """Of all codes that reach it, those are rich's that set a style."""
    parent, child = os.openpty()
    command = [sys.executable, "-m", "adapter_export", "inspect", str(bundle)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150"}
    started = subprocess.Popen(command, stdout=child, stderr=child, env=environment)
    os.close(child)
    found = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:  # how Linux tells the end
            break
        if not chunk:
            break
        found += chunk
    os.close(parent)
    assert started.wait() == 0
    text = found.decode().replace("\r\n", "\n")
    assert r"\x1b]0;owned" in text
    assert "\x1b[" in text
    pieces = text.split("\x1b[")
    assert all(piece.partition("m")[0].replace(";", "").isdigit() for piece in pieces[1:])
    assert not obeyed("".join([pieces[0], *(piece.partition("m")[2] for piece in pieces[1:])]))
