"""What a request is refused for, with its HTTP status."""

from __future__ import annotations

from adapter_export.errors import InputError, ProviderError, Unavailable

# Seconds after which a client may try again.
RETRY_SECONDS = 1
# The status in logs and metrics of a request whose client went away. No response has it.
CLIENT_CLOSED = 499


class Problem(Exception):
    """The end of a request that has no answer. Each API writes it in its own form.

    Attributes:
        status: The HTTP status.
        message: What is wrong, in one line, for the client.
        param: The field of the request that is wrong; None if it is none in particular.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.headers = {"retry-after": str(RETRY_SECONDS)} if status in (429, 503) else {}


class ClientGone(Exception):
    """The client has closed its connection before the answer."""


def problem_of(error: Exception) -> Problem | None:
    """Returns the problem that an error of the runtime is; None for an error of the server itself."""
    match error:
        case Problem():
            return error
        case Unavailable():
            closed = "closed" in str(error)
            return Problem(503 if closed else 429, "the server is ending" if closed else "too many requests wait")
        case InputError():
            return Problem(400, " ".join(str(error).split()))
        case ProviderError() | MemoryError():
            return Problem(503, "the server cannot run this now")
        case _:
            return None
