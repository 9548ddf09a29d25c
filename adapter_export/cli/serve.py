"""`adapter-export serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import PATH, Command, bundle_option, debug_option, provider_option, quiet_unless_debug
from adapter_export.errors import InputError

EXAMPLE = """\
Examples:
  adapter-export serve --bundle bundle
  adapter-export serve --bundle writer --host 0.0.0.0 --workers 2 --token-file token --adapters more-adapters

  curl localhost:8080/v2/models/topics/infer -d \\
    '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won"]}]}'
  curl localhost:8080/v1/completions -d '{"model": "poems", "prompt": "the night", "max_tokens": 8}'

The model of a request is the name of an adapter; 'base' is the model without one.
"""
_MEGABYTE, _GIGABYTE = 1 << 20, 1 << 30
_TOKEN = "ADAPTER_EXPORT_TOKEN"
_MAX_TOKEN_BYTES = 4096


@click.command("serve", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle folder to serve.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=8080, show_default=True, help="Port to listen on; 0 for a free one.")
@provider_option
@click.option("--workers", type=int, default=1, show_default=True, help="Processes, each with a session of its own.")
@click.option("--max-batch", type=int, default=16, show_default=True, help="Most rows in a batch.")
@click.option(
    "--max-queue", type=int, default=256, show_default=True, help="Most waiting rows; further ones get status 429."
)
@click.option(
    "--max-body", "max_megabytes", type=int, default=16, show_default=True, help="Most megabytes (MiB) of a request."
)
@click.option("--max-tokens", type=int, help="Most new tokens of a row; as many as fit, if not given.")
@click.option(
    "--cache", "cache_gigabytes", type=float, default=1.0, show_default=True, help="Gigabytes (GiB) for caches of rows."
)
@click.option("--timeout", "seconds", type=float, default=300.0, show_default=True, help="Most seconds of a request.")
@click.option("--slots", type=int, help="Adapters of a bank in memory at once; as in its manifest, if not given.")
@click.option(
    "--adapters",
    type=PATH,
    metavar="FOLDER",
    help="Allow loading and unloading over HTTP, of NAME.onnx_adapter files of this folder and adapters of the bundle.",
)
@click.option(
    "--token-file", type=PATH, metavar="FILE", help=f"File with the bearer token of requests (or set {_TOKEN})."
)
@click.option("--drain-seconds", type=float, default=0.0, show_default=True, help="Time between SIGTERM and the end.")
@click.option("--expect-sha256", metavar="DIGEST", help="Refuse a bundle whose manifest.json has another digest.")
@debug_option
def command(max_megabytes: int, cache_gigabytes: float, token_file: Path | None, **settings: Any) -> None:
    """Serve a bundle over HTTP: the Open Inference Protocol (V2), OpenAI's API, and metrics for Prometheus.

    Requests of all clients share batches, in a bundle of mode bank also those for different adapters. A bundle that
    generates takes new prompts between two tokens. On SIGTERM, accepted requests finish.
    """
    from adapter_export.serving.settings import ServerSettings
    from adapter_export.serving.workers import serve

    quiet_unless_debug()
    serve(
        ServerSettings(
            max_body=max_megabytes * _MEGABYTE,
            cache_bytes=int(cache_gigabytes * _GIGABYTE),
            token=_token(token_file),
            **settings,
        )
    )


def _token(file: Path | None) -> str | None:
    """Returns the bearer token of the file, or of the environment; None for none."""
    from adapter_export.reading.files import decoded, read_given

    if file is None:
        return os.environ.get(_TOKEN) or None
    if not (token := decoded(file, read_given(file, _MAX_TOKEN_BYTES)).strip()):
        raise InputError(f"{file}: expected a token, found an empty file")
    return token
