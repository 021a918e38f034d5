"""Which failed requests may be sent again: decided here, once, with reasons."""

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
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)


class Retry(Enum):
    """What is known about a request that got no good answer."""

    #: It was certainly not carried out.
    ALWAYS = auto()
    #: It may have been carried out.
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
    429: RetryRule(Retry.ALWAYS, "the server turned it away before it looked at it"),
    502: RetryRule(Retry.IF_IDEMPOTENT, "a proxy lost the server, perhaps after it did the work"),
    503: RetryRule(Retry.ALWAYS, "the server is not ready and did no work"),
    504: RetryRule(Retry.IF_IDEMPOTENT, "a proxy lost patience while the server worked"),
}

#: First match counts, so that special cases stand before their base classes.
EXCEPTION_RULES: Final[tuple[tuple[type[BaseException], RetryRule], ...]] = (
    (aiohttp.InvalidURL, RetryRule(Retry.NEVER, "the address is not a URL")),
    (
        aiohttp.ClientConnectorCertificateError,
        RetryRule(Retry.NEVER, "a certificate does not become valid by asking again"),
    ),
    (aiohttp.ClientSSLError, RetryRule(Retry.NEVER, "the two sides agree on no encryption")),
    (aiohttp.ClientConnectorError, RetryRule(Retry.ALWAYS, "no connection was made")),
    (aiohttp.ConnectionTimeoutError, RetryRule(Retry.ALWAYS, "no connection was made in time")),
    (
        aiohttp.ClientConnectionError,
        RetryRule(Retry.IF_IDEMPOTENT, "the connection broke before the answer came"),
    ),
    (aiohttp.ClientPayloadError, RetryRule(Retry.IF_IDEMPOTENT, "the answer was cut")),
    (asyncio.TimeoutError, RetryRule(Retry.IF_IDEMPOTENT, "no answer came in time")),
    (
        aiohttp.ClientError,
        RetryRule(Retry.NEVER, "the other side does not speak HTTP as this program knows it"),
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


class AddressRefusedError(PermissionDeniedError):
    """A signed address does not hold any more, or never did; a new one may."""


class UnansweredError(UnreachableError):
    """No good answer; `rule` tells whether the request may be repeated."""

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
    """Message, code and hint of the first error in an answer, as far as it has them."""
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
    """What was seen: the system's own words where no connection was made, else the library's."""
    cause = getattr(error, "os_error", None)
    if not isinstance(cause, OSError):
        return str(error) or type(error).__name__
    if cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)


def error_of_code(code: str | None, message: str, hint: str | None = None) -> LaunchError:
    """The error that a code of the wire stands for; an unknown one is the server's failure."""
    return _CLASSES.get(code or "", ServerError)(message, hint=hint)


def error_of_status(
    status: int, message: str, *, code: str | None = None, hint: str | None = None
) -> LaunchError:
    """The error that an HTTP status stands for, where the body names no better one."""
    if code in _CLASSES:
        return error_of_code(code, message, hint)
    return _STATUS_CLASSES.get(status, ServerError)(message, hint=hint)
