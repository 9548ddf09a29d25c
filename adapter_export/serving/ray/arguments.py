"""What a Ray Serve application of a bundle can be told, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapter_export.errors import InputError
from adapter_export.reading.files import decoded, read_given
from adapter_export.serving.settings import ServerSettings

_MAX_TOKEN_BYTES = 4096


class Arguments(BaseModel):
    """The arguments of `build`. On the command line of `serve run` they are written NAME=VALUE.

    Attributes:
        bundle: Folder of the bundle, at the same path on every node.
        provider: `cpu` or `cuda`.
        max_batch: Largest number of rows in a batch of a replica.
        max_queue: Largest number of rows that wait in a replica.
        max_body: Largest number of bytes of a request.
        max_tokens: Largest number of new tokens of a row; None for as many as fit in the model.
        cache_bytes: Bytes for the caches of rows that generate, in each replica.
        seconds: Largest time of a request in seconds.
        slots: In mode bank, how many adapters are in memory at once; None for the number in the manifest.
        expect_sha256: Expected digest of the bundle's manifest; None for any.
        token_file: File with the bearer token of requests, on every node; None if requests need none.
        replicas: Number of replicas, if it is fixed.
        min_replicas: Smallest number of replicas, if it is not fixed.
        max_replicas: Largest number of replicas; None if it is fixed.
        target_requests: How many requests each replica should have at once, which the number of replicas follows; None
            for `max_batch`.
        ingress_replicas: Number of processes that read requests and choose replicas.
        cpus: Cores of a node that each replica takes.
        gpus: GPUs of a node that each replica takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path
    provider: str = ServerSettings.provider
    max_batch: int = ServerSettings.max_batch
    max_queue: int = ServerSettings.max_queue
    max_body: int = ServerSettings.max_body
    max_tokens: int | None = ServerSettings.max_tokens
    cache_bytes: int = ServerSettings.cache_bytes
    seconds: float = ServerSettings.seconds
    slots: int | None = ServerSettings.slots
    expect_sha256: str | None = ServerSettings.expect_sha256
    token_file: Path | None = None
    replicas: int = Field(1, ge=1)
    min_replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    target_requests: float | None = Field(None, gt=0)
    ingress_replicas: int = Field(2, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Arguments:
        if self.max_replicas is None:
            for name in ("min_replicas", "target_requests"):
                if name in self.model_fields_set:
                    raise ValueError(f"{name}: expected only with max_replicas")
        elif "replicas" in self.model_fields_set:
            raise ValueError("replicas: expected only without max_replicas")
        elif self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: expected at most {self.max_replicas}, found {self.min_replicas}")
        return self

    def settings(self) -> ServerSettings:
        """Returns the settings of the server in each replica.

        Raises:
            InputError: A value is out of range, or the token's file cannot be read.
        """
        return ServerSettings(
            **{name: getattr(self, name) for name in _SHARED},
            token=None if self.token_file is None else _token(self.token_file),
        )


# Arguments that are settings of the server as well.
_SHARED = (
    "bundle",
    "provider",
    "max_batch",
    "max_queue",
    "max_body",
    "max_tokens",
    "cache_bytes",
    "seconds",
    "slots",
    "expect_sha256",
)


def checked(given: Mapping[str, Any]) -> Arguments:
    """Returns the arguments.

    Raises:
        InputError: An argument is unknown, missing or out of range. The error names it.
    """
    try:
        arguments = Arguments.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{field}: {reason}" if field else reason) from None
    # The token's file is read on the nodes. It may not be here.
    arguments.model_copy(update={"token_file": None}).settings()
    return arguments


def _token(file: Path) -> str:
    if not (token := decoded(file, read_given(file, _MAX_TOKEN_BYTES)).strip()):
        raise InputError(f"{file}: expected a token, found an empty file")
    return token
