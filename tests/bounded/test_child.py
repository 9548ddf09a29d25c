"""What comes with a checkpoint and runs, runs under limits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_export.bounded import child, programs
from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.bounded.programs import matching, render

NAMES = [f"encoder.layer.{i}.{part}" for i in range(12) for part in ("attention.key", "output.dense", "x!")]
# Python's own matching of these never ends, or takes gigabytes.
RUNAWAY = [
    "(.*)*x!y",
    "(a|a)*(.*)*(.*)*(.*)*(.*)*(.*)*(.*)*(.*)*!!",
    "(?:a?){4000000000}",
]
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
    "{{ 'a' * 3000000000 }}",
    "{{ range(99999) | map('string') | list * 99999 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 'a' | center(3000000000) }}",
]


@pytest.mark.parametrize("pattern", [r".*\.key", r"encoder\.layer\.(?!0\.)\d+\..*dense", "nothing", r"(?i).*KEY", ""])
def test_as_python_matches(pattern: str) -> None:
    assert matching([pattern], NAMES) == {name for name in NAMES if re.fullmatch(pattern, name)}
    assert matching([pattern], NAMES, whole=False) == {name for name in NAMES if re.match(pattern, name)}


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<a", "*"])
def test_no_expression(pattern: str) -> None:
    with pytest.raises(Failed) as caught:
        matching([pattern], [])
    with pytest.raises(re.error) as original:
        re.compile(pattern)
    assert str(caught.value) == str(original.value)


@pytest.mark.parametrize("pattern", RUNAWAY)
def test_an_expression_that_runs_away(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "SECONDS", 1.5)
    with pytest.raises((Exceeded, Failed)):
        matching([pattern], [*NAMES, "a" * 60])
    # The next one has a child again.
    assert matching([".*x!"], NAMES)


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_that_never_ends_or_fills_the_memory(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "SECONDS", 1.5)
    with pytest.raises((Exceeded, Failed)):
        render(template, {})
    assert render("{{ a }}!", {"a": "b"}) == "b!"


def test_a_text_has_a_limit() -> None:
    with pytest.raises(Failed, match="writes more than 16,777,216 characters"):
        render("{{ 'a' * 20000000 }}", {})


def test_what_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="expected JSON values"):
        render("{{ a }}", {"a": object()})


def test_texts_of_any_characters() -> None:
    text = "é \u2028 \x00 \ud800 😀 \n"
    assert render("{{ a }}", {"a": text}) == text.rstrip("\n") + "\n"


def test_many_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: render("{{ n }}", {"n": number}), range(200)))
    assert found == [str(number) for number in range(200)]


def test_an_interrupted_request_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    render("{{ 1 }}", {})
    assert programs.keeper.child is not None
    with monkeypatch.context() as patch:
        patch.setattr(child._Child, "ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render("{{ 2 }}", {})
    assert render("{{ 3 }}", {}) == "3"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a matter of Unix")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork_each_has_its_own() -> None:
    assert render("{{ 1 }}", {}) == "1"
    reading, writing = os.pipe()
    if (forked := os.fork()) == 0:
        try:
            os.write(writing, render("{{ 2 }}", {}).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "2"
    os.waitpid(forked, 0)
    assert render("{{ 3 }}", {}) == "3"


def test_the_child_ends_with_its_parent() -> None:
    code = (
        "from adapter_export.bounded import programs\n"
        "programs.render('{{ 1 }}', {})\n"
        "print(programs.keeper.child._process.pid, flush=True)\n"
        "import os; os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    with pytest.raises(ProcessLookupError):  # noqa: PT012 (it takes a moment)
        for _ in range(200):
            os.kill(pid, 0)
            threading.Event().wait(0.05)


@pytest.mark.skipif(shutil.which("false") is None, reason="needs a program that fails")
def test_a_child_that_does_not_start_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault of the expression: nobody is told that it takes too long."""
    programs.keeper.end()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RuntimeError, match="does not start"):
            matching(["a"], NAMES)
    assert matching([".*x!"], NAMES)
