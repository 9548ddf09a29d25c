"""Models and adapters by their names on the hub, against a stand-in for it on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.errors import InputError
from adapter_export.hub import local, source_of
from tests.bundles import Exported

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for what its client asks: a revision's list of files, and each file."""

    repositories: ClassVar[dict[str, Path]] = {}

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.revision(
                "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", parts[4] if len(parts) > 4 else ""
            )
        elif len(parts) > 4 and parts[2] == "resolve":
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
        else:
            self.missing("EntryNotFound")

    def revision(self, repository: str, revision: str, what: str) -> None:
        if (folder := self.repositories.get(repository)) is None:
            return self.missing("RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self.missing("RevisionNotFound")
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        if what == "tree":
            tree = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0" * 40}
                for name in files
            ]
            return self.send(json.dumps(tree).encode())
        answer = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        return self.send(json.dumps(answer).encode())

    def file(self, repository: str, revision: str, name: str, body: bool) -> None:
        path = self.repositories.get(repository, Path("/nowhere")) / name
        if revision != COMMIT or not path.is_file():
            return self.missing("EntryNotFound")
        return self.send(path.read_bytes(), body)

    def send(self, data: bytes, body: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub(merged_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a process that knows this hub: `team/base` and `team/adapter`."""
    Hub.repositories = {"team/base": merged_bundle.base, "team/adapter": merged_bundle.adapters["ia3_three"]}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
    yield environment
    server.shutdown()
    server.server_close()
    thread.join()


def run(environment: dict[str, str], *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adapter_export", *map(str, arguments)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1]), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    environ = {**os.environ, **paths, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ, check=False)


def test_merge_and_export_by_name(hub: dict[str, str], merged_bundle: Exported, tmp_path: Path) -> None:
    named = ("--model", "team/base", "--adapter")
    merged = run(hub, "merge", *named, "team/adapter@v1", "--output", "merged", cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    receipt = json.loads((tmp_path / "merged" / "adapter_export.json").read_text())["merged"][0]
    assert receipt["adapter_source"] == f"team/adapter@{COMMIT}"
    assert receipt["base_source"] == f"team/base@{COMMIT}"
    # Without a network, from the hub's own cache: the same commit.
    export = ("onnx", *named, "a=team/adapter@v1", "--mode", "merged", "--output", "bundle")
    exported = run({**hub, "HF_HUB_OFFLINE": "1"}, *export, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.base_source == f"team/base@{COMMIT}"
    assert manifest.adapter("a").source == f"team/adapter@{COMMIT}"
    assert manifest.base.sha256 == read_manifest(merged_bundle.bundle).base.sha256
    assert "Traceback" not in merged.stderr + exported.stderr


def test_only_weights_settings_tokenizers_and_licenses_are_fetched(hub: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    for name in (
        "config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "pytorch_model.bin", "model.onnx", "code.py",
        "training_args.bin", "onnx/config.json", "adapter_model.bin", "README.md",
        "README.txt", "LICENSE", "LICENCE.md", "NOTICE.txt", "COPYING", "license-two",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    Hub.repositories = {"team/whole": folder}
    code = (
        "from adapter_export.hub import local; print(*sorted(p.name for p in local('team/whole', 'model').iterdir()))"
    )
    environ = {**os.environ, **hub, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert found.stdout.split() == [
        "COPYING", "LICENCE.md", "LICENSE", "NOTICE.txt", "README.md", "README.txt", "adapter_model.bin", "config.json",
        "license-two", "model.safetensors", "tokenizer.json", "vocab.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("team/nothing", "the hub has no such repository, or it is private (HF_TOKEN)"),
        ("team/base@nowhere", "the hub's repository of that name has no such revision"),
    ],
)
def test_what_the_hub_has_not(name: str, message: str, hub: dict[str, str], tmp_path: Path) -> None:
    result = run(hub, "merge", "--model", name, "--adapter", "team/adapter", "--output", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: model {name}: is no folder, and {message}\n"


def test_without_a_network_it_is_refused(tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    result = run(nowhere, "merge", "--model", "team/base", "--adapter", "a/b", "--output", "out", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: model team/base: is no folder, and ")


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("team/base").mkdir(parents=True)
    assert local("team/base", "model") == Path("team/base")


def test_paths_are_no_names(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", Path("../up/there"), Path("one"), Path("a/b/c"), Path("-x/y")):
        assert local(path, "model") == path


def test_the_commit_is_known_by_the_folder(tmp_path: Path) -> None:
    snapshots = tmp_path / "models--team--base" / "snapshots"
    assert source_of(snapshots / COMMIT) == f"team/base@{COMMIT}"
    assert source_of(snapshots / "main") is None
    assert source_of(tmp_path / "models--team--base" / COMMIT) is None
    assert source_of(tmp_path) is None


def test_names_the_hub_cannot_have() -> None:
    with pytest.raises(InputError, match=r"is no folder, and it is no name that the hub can have"):
        local("team/base..x", "model")
