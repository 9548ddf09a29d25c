"""The command `serve` from its start to its end, with one process and with several."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.bundles import Exported
from tests.served import Answer, Client, started

INFER = "/v2/models/ia3_two/infer"
REQUEST = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won"]}]}
WORDS = {"model": "ia3", "prompt": "the cat", "max_tokens": 80, "temperature": 1.0, "seed": 5}


def metric(client: Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").body.decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def children(client: Client) -> list[int]:
    """Processes of the workers."""
    assert client.process is not None
    command = ["pgrep", "-P", str(client.process.pid), "-f", "spawn_main"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


class TestOneProcess:
    def test_sigterm_finishes_what_was_accepted(self, writers_bundle: Path) -> None:
        with started(writers_bundle, "--max-batch", "2") as client:
            answers: list[Answer] = []
            threads = [
                threading.Thread(target=lambda: answers.append(client.post("/v1/completions", {**WORDS, "n": 2})))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            while metric(client, "adapter_export_generating_rows") < 2:
                time.sleep(0.005)
            assert client.process is not None
            client.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            assert [answer.status for answer in answers] == [200] * 3
            assert client.process.wait(30) == 0
        requests = [line for line in client.lines if line["message"] == "request" and line["method"] == "POST"]
        assert [(line["status"], line["model"], line["completion_tokens"] > 0) for line in requests] == [
            (200, "ia3", True)
        ] * 3

    def test_readiness_fails_before_requests_do(self, bank_bundle: Exported) -> None:
        with started(bank_bundle.bundle, "--drain-seconds", "1") as client:
            assert client.process is not None
            client.process.send_signal(signal.SIGTERM)
            end = time.monotonic() + 10
            while (ready := client.get("/v2/health/ready")).status == 200 and time.monotonic() < end:
                time.sleep(0.01)
            assert (ready.status, ready.json) == (503, {"ready": False})
            assert client.post(INFER, REQUEST).status == 200
            assert client.process.wait(30) == 0

    def test_nothing_of_a_request_is_logged(self, bank_bundle: Exported) -> None:
        with started(bank_bundle.bundle, environment={"ADAPTER_EXPORT_TOKEN": "secret-token"}) as client:
            given = {"Authorization": "Bearer secret-token"}
            assert client.post(INFER, REQUEST).status == 401
            assert client.post(INFER, REQUEST, **given).status == 200
            assert client.post("/secret-path?secret-query", REQUEST, **given).status == 404
            assert client.process is not None
            client.process.terminate()
            client.process.wait(30)
        assert [line["status"] for line in client.lines if line["message"] == "request"] == [401, 200, 404]
        logged = str(client.lines)
        assert "team" not in logged
        assert "secret" not in logged


class TestSeveralProcesses:
    def test_changes_reach_all_workers_also_one_that_starts_later(self, bank_bundle: Exported, tmp_path: Path) -> None:
        source = bank_bundle.bundle / "adapters" / "houlsby_two.onnx_adapter"
        bundle = Path(shutil.copytree(bank_bundle.bundle, tmp_path / "bundle"))
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "new.onnx_adapter").write_bytes(source.read_bytes())
        with started(bundle, "--workers", "2", "--adapters", str(tmp_path / "more")) as client:
            new = "/v2/models/new/infer"
            # The other worker must go on alone later, and could not start without the manifest.
            end, asked = time.monotonic() + 180, 60
            while metric(client, "adapter_export_ready") < 2 and time.monotonic() < end:
                time.sleep(0.1)
            assert client.post(new, REQUEST).status == 404
            assert client.post("/v2/repository/models/new/load").status == 200
            # From now on no worker says that it does not know it.
            assert {client.post(new, REQUEST).status for _ in range(30)} == {200}
            first, *_ = children(client)
            # A worker that cannot start again leaves the others as they are, and is tried again.
            (bundle / "manifest.json").rename(tmp_path / "manifest.json")
            os.kill(first, signal.SIGKILL)
            while first in children(client):
                time.sleep(0.01)
            while sum(line["message"] == "worker ended" for line in list(client.lines)) < 2:
                assert client.post(new, REQUEST).status == 200
                asked += 1
                assert time.monotonic() < end
                time.sleep(0.1)
            (tmp_path / "manifest.json").rename(bundle / "manifest.json")
            while (len(children(client)) < 2 or first in children(client)) and time.monotonic() < end:
                time.sleep(0.1)
            while metric(client, "adapter_export_ready") < 2 and time.monotonic() < end:
                time.sleep(0.1)
            assert {client.post(new, REQUEST).status for _ in range(30)} == {200}
            assert client.post("/v2/repository/models/new/unload").status == 200
            assert {client.post(new, REQUEST).status for _ in range(30)} == {404}
            answered = 'adapter_export_requests_total{endpoint="/v2/models/{model}/infer",model="new",status="200"}'
            assert metric(client, answered) == asked
            assert client.process is not None
            client.process.terminate()
            assert client.process.wait(30) == 0

    def test_workers_end_with_the_process_that_started_them(self, bank_bundle: Exported) -> None:
        with started(bank_bundle.bundle, "--workers", "2") as client:
            workers = children(client)
            assert len(workers) == 2
            assert client.process is not None
            client.process.kill()
            end = time.monotonic() + 30
            while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
                time.sleep(0.1)
            assert not any(Path(f"/proc/{worker}").exists() for worker in workers)

    def test_a_bundle_that_is_none_ends_at_once(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "adapter_export", "serve", "--bundle", str(tmp_path), "--port", "0"]
        for workers in ("1", "2"):
            done = subprocess.run(
                [*command, "--workers", workers], capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 2
            assert f"{tmp_path}" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "0"), "workers: expected a whole number from 1"),
        (("--max-queue", "-1"), "max_queue: expected a whole number from 1"),
        (("--port", "70000"), "port: expected a number from 0 to 65535"),
        (("--timeout", "0"), "seconds: expected a number above 0"),
        (("--host", "256.0.0.1"), "256.0.0.1:0: cannot listen there"),
        (("--token-file", "none"), "none"),
    ],
)
def test_settings_that_are_refused(bank_bundle: Exported, arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "adapter_export", "serve", "--bundle", str(bank_bundle.bundle), "--port", "0"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
