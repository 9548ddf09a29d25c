"""The image and the composition in samples/docker, as far as they can be checked without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from adapter_export.cli.serve import command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "samples/docker"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile in their order, each with its arguments in one line."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


STEPS = dict(instructions())


def test_the_image_starts_the_server_as_process_1_and_as_no_root() -> None:
    # Both in the form of a list: a shell in between would not pass SIGTERM on.
    entry, arguments = json.loads(STEPS["ENTRYPOINT"]), json.loads(STEPS["CMD"])
    assert f'{entry[0]} = "adapter_export.cli:main"' in PROJECT
    assert entry[1:] == [command.name]
    options = command.make_context("serve", arguments).params
    assert options["host"] == "0.0.0.0"
    assert STEPS["EXPOSE"] == str(options["port"])
    assert int(STEPS["USER"]) > 0
    words = [word for word, _ in instructions()]
    assert words.index("RUN") < words.index("USER") < words.index("ENTRYPOINT")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    # Files that the build of the package reads.
    assert {'readme = "README.md"', 'license-files = ["LICENSE"]'} <= set(PROJECT.splitlines())
    assert {"pyproject.toml", "README.md", "LICENSE"} <= copied


def test_the_server_alone_is_installed() -> None:
    first = next(rest for word, rest in instructions() if word == "RUN")
    assert "'/source[serve]'" in first
    # The version of ONNX Runtime is read from what pip lists.
    expression = re.search(r"sed -n '([^']+)'", first)
    assert expression is not None
    listed = "onnx==1.2.3\nonnxruntime-gpu==1.31.1\nonnx-ir==0.1\n"
    found = subprocess.run(["sed", "-n", expression[1]], input=listed, capture_output=True, text=True, check=True)
    assert found.stdout == "1.31.1\n"


@pytest.fixture
def answering() -> Iterator[tuple[int, dict[str, int]]]:
    """A server that answers with the status of each path: its port, and these statuses."""
    statuses: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, statuses
        server.shutdown()
        thread.join()


def test_the_health_check_fails_until_the_server_is_ready(answering: tuple[int, dict[str, int]]) -> None:
    port, statuses = answering
    checked = json.loads(STEPS["HEALTHCHECK"].partition("CMD ")[2])
    code = checked[-1].replace(":8080/", f":{port}/")
    assert code != checked[-1]
    for status, expected in ((503, 1), (200, 0)):
        statuses["/v2/health/ready"] = status
        done = subprocess.run([sys.executable, *checked[1:-1], code], capture_output=True, timeout=60, check=False)
        assert done.returncode == expected


def test_the_composition_runs_the_image() -> None:
    (server,) = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    assert (FOLDER / server["build"]["context"]).resolve() == ROOT
    assert (ROOT / server["build"]["dockerfile"]).is_file()
    options = command.make_context("serve", list(server["command"])).params
    ((_, published, port),) = (entry.split(":") for entry in server["ports"])
    assert published == port == str(options["port"])
    (volume,) = server["volumes"]
    assert volume.endswith(f":{options['bundle']}:ro")
    assert int(server["stop_grace_period"].removesuffix("s")) > options["drain_seconds"] + options["seconds"]
