"""The command group: quick help, and one line and one exit code for every way to fail."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from adapter_export.cli import main
from adapter_export.cli.main import COMMANDS, LazyGroup
from adapter_export.cli.options import Command, ExitCode, debug_option, emit, json_option
from adapter_export.errors import AdapterExportError, InputError

HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "rich",
    "tokenizers",
    "pyarrow",
    "numpy",
}


def run(action: Callable[[], Any], *args: str) -> Result:
    """Run `action` as the body of a command `go` of a group of its own."""

    @click.command("go", cls=Command)
    @click.option("--size", type=int)
    @json_option
    @debug_option
    def go(size: int | None, as_json: bool) -> Any:
        return action()

    return CliRunner().invoke(LazyGroup("group", commands={"go": go}), ["go", *args])


def fail(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_help_imports_no_framework() -> None:
    code = (
        "import sys\n"
        "from adapter_export.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_lines, modules = done.stdout.splitlines()
    assert "click" in modules.split()
    assert not HEAVY & set(modules.split())
    listed = [line.split()[0] for line in help_lines[help_lines.index("Commands:") + 1 :] if line.strip()]
    assert listed == list(COMMANDS)


def test_without_a_command_the_help_is_printed() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == ExitCode.DONE
    assert "Commands:" in result.stdout


def test_python_m_runs_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "adapter_export", "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == "error: No such command 'nope'. (see 'adapter-export --help')\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"], prog_name="adapter-export")
    assert result.exit_code == ExitCode.DONE, result.output
    # The usage line, above the options, names the command too.
    options_and_example = result.stdout.partition("Options:")[2]
    assert f"adapter-export {name} " in options_and_example
    # A server has no result; its log is JSON.
    assert ("--json" in options_and_example) is (name != "serve")
    assert "--debug" in options_and_example


@pytest.mark.parametrize("name", COMMANDS)
def test_example_names_only_options_that_exist(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, Command)
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    # An example may show the command under a launcher too, whose own options come before our module's name.
    lines = [line.rpartition("-m adapter_export")[2] for line in (command.epilog or "").splitlines()]
    used = {word.partition("=")[0] for line in lines for word in line.split() if word.startswith("--")}
    assert used <= known | {"--help"}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.json: 'r': expected 3, found 'x'"), 2, "error: a.json: 'r': expected 3, found 'x'"),
        (AdapterExportError("two\n  lines"), 2, "error: two lines"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a  b.json"), 2, "error: a  b.json: No such file"),
        (OSError("no space"), 2, "error: no space"),
        (click.FileError("a.txt", "unreadable"), 2, "error: Could not open file 'a.txt': unreadable"),
        (KeyError("x"), 3, "internal error: KeyError: 'x' (run again with --debug for the traceback)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_is_one_line_and_a_code(error: BaseException, code: int, line: str) -> None:
    result = run(fail(error))
    assert result.exit_code == code
    assert result.stderr.strip() == line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [(InputError("bad"), 2, "error: bad"), (KeyError("x"), 3, "internal error: KeyError: 'x'")],
)
def test_debug_shows_the_traceback(error: Exception, code: int, last: str) -> None:
    result = run(fail(error), "--debug")
    assert result.exit_code == code
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.splitlines()[-1] == last


def test_bad_usage_is_one_line() -> None:
    result = run(lambda: None, "--size", "big")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stderr == "error: Invalid value for '--size': 'big' is not a valid integer. (see 'group go --help')\n"


def test_exit_code_is_what_ctx_exit_says_and_never_what_a_command_returns() -> None:
    assert run(lambda: click.get_current_context().exit(ExitCode.PARITY)).exit_code == ExitCode.PARITY
    assert run(lambda: 1).exit_code == ExitCode.DONE


def test_errors_reach_a_caller_that_asks_for_them() -> None:
    with pytest.raises(click.UsageError):
        main.main(["nope"], standalone_mode=False)


def test_json_is_one_object_whatever_libraries_print() -> None:
    def action() -> None:
        print("chatter")
        emit({"path": Path("a"), "worst": float("nan"), "rows": (1, 2)}, True, pytest.fail)

    result = run(action, "--json")
    assert json.loads(result.stdout) == {"path": "a", "worst": None, "rows": [1, 2]}
    assert result.stderr == "chatter\n"


def test_without_json_a_person_reads_it() -> None:
    result = run(lambda: emit({"n": 3}, False, lambda found: click.echo(f"{found['n']} adapters")))
    assert result.stdout == "3 adapters\n"
