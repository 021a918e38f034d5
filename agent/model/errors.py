"""All errors that this product raises.

That a job failed is a value (`agent.model.phase`), not one of these. Foreign exceptions
are wrapped where they arise. A message names the thing, says what was seen and what to do.
"""

from agent.model.cause import Cause

__all__ = [
    "AlreadyExistsError",
    "AuthenticationError",
    "ConfigError",
    "ConflictError",
    "FencedError",
    "InvalidInputError",
    "JobError",
    "LaunchError",
    "LogFullError",
    "NotFoundError",
    "PermissionDeniedError",
    "PolicyError",
    "ServerError",
    "TooLargeError",
    "UnavailableError",
    "UnreachableError",
]


class LaunchError(Exception):
    """The base class of all errors.

    `code` is stable and machine-readable; `exit_code` is what a command ends with
    (1 general, 2 usage and bad input, 3 unreachable, 4 sign-in).
    """

    code = "ERROR"
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidInputError(LaunchError):
    """Something the user wrote cannot be accepted."""

    code = "INVALID_INPUT"
    exit_code = 2


class ConfigError(InvalidInputError):
    """A configuration file, environment variable or flag cannot be accepted."""

    code = "INVALID_CONFIG"


class TooLargeError(InvalidInputError):
    """More bytes than the control plane accepts."""

    code = "TOO_LARGE"


class NotFoundError(LaunchError):
    """Something named does not exist, or the caller may not know that it does."""

    code = "NOT_FOUND"


class AlreadyExistsError(LaunchError):
    """Something of that name exists already."""

    code = "ALREADY_EXISTS"


class ConflictError(LaunchError):
    """The present state does not allow the operation."""

    code = "CONFLICT"


class AuthenticationError(LaunchError):
    """No key, or a key that the server does not know."""

    code = "UNAUTHENTICATED"
    exit_code = 4


class PermissionDeniedError(LaunchError):
    """The key is known and does not allow this."""

    code = "FORBIDDEN"
    exit_code = 4


class UnreachableError(LaunchError):
    """The server cannot be reached or does not answer in time."""

    code = "UNREACHABLE"
    exit_code = 3


class ServerError(LaunchError):
    """The server answered with a failure of its own."""

    code = "SERVER_ERROR"
    exit_code = 3


class FencedError(LaunchError):
    """The attempt belongs to another agent by now: stop, and touch nothing."""

    code = "FENCED"


class LogFullError(LaunchError):
    """A log has as many bytes as the control plane stores of one."""

    code = "LOG_FULL"


class JobError(LaunchError):
    """An attempt cannot continue.

    `pipeline.release_rules` says whether its item is released; else `pipeline.outcome` makes an
    outcome of the cause. Sources, builders and runners raise it with the cause that explains it
    best.
    """

    code = "JOB_ERROR"

    def __init__(self, cause: Cause, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class UnavailableError(JobError):
    """What the agent runs and builds jobs with does not answer, or its disk is full.

    Before the start permit this ends no job: the item is released to its queue, and the agent
    claims nothing for that backend until it answers again.
    """

    code = "UNAVAILABLE"


class PolicyError(JobError):
    """The specification is not valid, or the administrator's rules forbid it.

    It becomes a `Refused` outcome.
    """

    code = "REFUSED"
