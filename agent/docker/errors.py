"""Errors of engine calls, and what the engine's refusals mean for a job."""

from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError

_BAD_REQUEST: Final = 400
#: Parts of the engine's messages about its own broken connections.
_LOST_WITHIN: Final = (
    "unavailable",
    "eof",
    "ttrpc: closed",
    "transport is closing",
    "connection refused",
    "connection reset",
    "deadline exceeded",
    "context canceled",
)

#: Part of the engine's message → cause and hint; the first match counts.
_REFUSALS: Final[tuple[tuple[str, Cause, str], ...]] = (
    ("no such image", Cause.IMAGE_NOT_FOUND, "Check name and tag, and that it was pulled."),
    ("does not match the specified platform", Cause.IMAGE_PLATFORM, "Use another `platform`."),
    ("exec format error", Cause.IMAGE_PLATFORM, "Build the image for this machine's platform."),
    ("no space left on device", Cause.DISK_FULL, "Free space on the engine's disk."),
    ("disk quota exceeded", Cause.DISK_FULL, "Free space on the engine's disk."),
    ("executable file not found", Cause.START_ENTRYPOINT, "Check --entry-point."),
    ("unable to start container process: exec", Cause.START_ENTRYPOINT, "Check --entry-point."),
    ("docker-init", Cause.START_FAILED, "Install the engine's `docker-init` (tini)."),
    ("could not select device driver", Cause.START_FAILED, "Install NVIDIA's container toolkit."),
)


class EngineError(JobError):
    """A call of the engine failed. `reason` is the engine's or the system's message."""

    def __init__(self, address: str, what: str, reason: str, *, hint: str | None = None) -> None:
        self.reason = reason.rstrip(".")
        message = f"The container engine at {address} {what}: {self.reason}."
        super().__init__(Cause.LOST_ENGINE, message, hint=hint)
        self.address = address

    @property
    def detail(self) -> str:
        """Address and reason, for a sentence of the caller's."""
        return f"{self.address}: {self.reason}"


class EngineUnavailableError(EngineError):
    """The engine cannot be reached, or the connection broke before its response.

    `sent`: the request may have reached it, since the connection had been made.
    """

    def __init__(self, address: str, reason: str, *, sent: bool = False) -> None:
        super().__init__(
            address, "does not answer", reason, hint="Check that it runs: `docker info`."
        )
        self.sent = sent


class EngineRefusedError(EngineError):
    """The engine responded with an error status."""

    def __init__(self, address: str, status: int, reason: str) -> None:
        super().__init__(address, "refused a call", reason)
        self.status = status


def is_lost_within(message: str) -> bool:
    """Whether the engine itself got no answer, from containerd or a shim: it does not know."""
    lowered = message.lower()
    return any(part in lowered for part in _LOST_WITHIN)


def refusal(what: str, status: int, message: str) -> JobError:
    """The error of a job whose container the engine refused to create or to start.

    `what` begins the sentence; `status` and `message` are the engine's.
    """
    lowered = message.lower()
    for part, cause, hint in _REFUSALS:
        if part in lowered:
            return JobError(cause, f"{what}: {_innermost(message)}.", hint=hint)
    text = f"{what}: {message.rstrip('.')}."
    if status == _BAD_REQUEST:
        hint = "Change the resource argument that the engine names."
        return PolicyError(Cause.POLICY_RESOURCE, text, hint=hint)
    return JobError(Cause.START_FAILED, text)


def _innermost(message: str) -> str:
    """The end of a chain 'failed to …: failed to …: reason'."""
    kept = message.removesuffix(": unknown").rpartition("container process: ")[2]
    return kept.rstrip(".")
