"""Which failed requests may be sent again, and why.

How often and how long: `retry_policy`.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import aiohttp

from agent.model.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    FencedError,
    InvalidInputError,
    LaunchError,
    LogFullError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)


class Retry(Enum):
    """Whether a request without a successful response may be sent again."""

    #: It was certainly not executed.
    ALWAYS = auto()
    #: It may have been executed.
    IF_IDEMPOTENT = auto()
    #: It would fail again.
    NEVER = auto()


@dataclass(frozen=True, slots=True)
class RetryRule:
    """May it be repeated, and why."""

    retry: Retry
    reason: str

    def allows(self, *, idempotent: bool) -> bool:
        """Whether a request of this kind may be sent again."""
        return self.retry is Retry.ALWAYS or (idempotent and self.retry is Retry.IF_IDEMPOTENT)


STATUS_RULES: Final[Mapping[int, RetryRule]] = {
    408: RetryRule(Retry.ALWAYS, "the server did not get the whole request in time"),
    429: RetryRule(Retry.ALWAYS, "the server is rate limiting"),
    502: RetryRule(Retry.IF_IDEMPOTENT, "a proxy lost the server, which may have executed it"),
    503: RetryRule(Retry.ALWAYS, "the server is not ready"),
    504: RetryRule(Retry.IF_IDEMPOTENT, "a proxy timed out, while the server may have executed it"),
}

#: First match counts, so that special cases stand before their base classes.
EXCEPTION_RULES: Final[tuple[tuple[type[BaseException], RetryRule], ...]] = (
    (aiohttp.InvalidURL, RetryRule(Retry.NEVER, "the address is not a URL")),
    (
        aiohttp.ClientConnectorCertificateError,
        RetryRule(Retry.NEVER, "the server's certificate is not valid"),
    ),
    (aiohttp.ClientSSLError, RetryRule(Retry.NEVER, "no TLS connection could be negotiated")),
    (aiohttp.ClientConnectorError, RetryRule(Retry.ALWAYS, "no connection was made")),
    (aiohttp.ConnectionTimeoutError, RetryRule(Retry.ALWAYS, "no connection was made in time")),
    (
        aiohttp.ClientConnectionError,
        RetryRule(Retry.IF_IDEMPOTENT, "the connection broke before the response"),
    ),
    (aiohttp.ClientPayloadError, RetryRule(Retry.IF_IDEMPOTENT, "the response was cut")),
    (asyncio.TimeoutError, RetryRule(Retry.IF_IDEMPOTENT, "no response in time")),
    (
        aiohttp.ClientError,
        RetryRule(Retry.NEVER, "the server does not speak HTTP as expected"),
    ),
)

_CLASSES: Final[Mapping[str, type[LaunchError]]] = {
    kind.code: kind
    for kind in (
        AlreadyExistsError,
        AuthenticationError,
        ConfigError,
        ConflictError,
        FencedError,
        InvalidInputError,
        LogFullError,
        NotFoundError,
        PermissionDeniedError,
        ServerError,
        UnreachableError,
    )
}

_STATUS_CLASSES: Final[Mapping[int, type[LaunchError]]] = {
    400: InvalidInputError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidInputError,
    422: InvalidInputError,
}


class SignedUrlRefusedError(PermissionDeniedError):
    """A signed URL was refused; it may have expired, and a new one may be accepted."""


class RequestFailedError(UnreachableError):
    """No successful response; `rule` says whether the request may be sent again."""

    def __init__(
        self,
        message: str,
        rule: RetryRule,
        *,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        #: Seconds that the server asked us to wait.
        self.retry_after = retry_after


def error_in(body: bytes) -> tuple[str | None, str | None, str | None]:
    """Message, code and hint of the first error in a response, as far as it has them."""
    try:
        first = json.loads(body)["errors"][0]
        extensions = first.get("extensions") or {}
        return first.get("message"), extensions.get("code"), extensions.get("hint")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None, None, None


def rule_for(error: BaseException) -> RetryRule:
    """The rule for an exception of the transport; raises `KeyError` for any other."""
    for kind, rule in EXCEPTION_RULES:
        if isinstance(error, kind):
            return rule
    raise KeyError(type(error))


def reason_of(error: BaseException) -> str:
    """The operating system's message where no connection was made, else the library's."""
    cause = getattr(error, "os_error", None)
    if not isinstance(cause, OSError):
        return str(error) or type(error).__name__
    if cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)


def error_of_code(code: str | None, message: str, hint: str | None = None) -> LaunchError:
    """The error class of a wire code; an unknown code is a failure of the server."""
    return _CLASSES.get(code or "", ServerError)(message, hint=hint)


def error_of_status(
    status: int, message: str, *, code: str | None = None, hint: str | None = None
) -> LaunchError:
    """The error class of an HTTP status, unless the body has a code."""
    if code in _CLASSES:
        return error_of_code(code, message, hint)
    return _STATUS_CLASSES.get(status, ServerError)(message, hint=hint)
