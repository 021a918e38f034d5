"""The engine's refusals in our causes: one table, by what it says."""

from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.runners.docker.engine import Answer

_BAD_REQUEST: Final = 400

#: Words of the engine → cause and what to do; the first that fits.
_WORDS: Final[tuple[tuple[str, Cause, str], ...]] = (
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

#: How the engine's init tells that it could not run the command, as the job's only output.
_INIT: Final = b"[FATAL tini"
_INIT_CODES: Final = frozenset({1, 126, 127})


def refusal(what: str, answer: Answer) -> JobError:
    """The error for a `create` or `start` that the engine refused."""
    lowered = answer.message.lower()
    for words, cause, hint in _WORDS:
        if words in lowered:
            return JobError(cause, f"{what}: {_last_words(answer.message)}.", hint=hint)
    message = f"{what}: {answer.message.rstrip('.')}."
    if answer.status == _BAD_REQUEST:
        hint = "Change the resource argument that the engine names."
        return PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    return JobError(Cause.START_FAILED, message)


def may_be_init(exit_code: int | None) -> bool:
    """Whether the engine's init may have failed to run the command."""
    return exit_code in _INIT_CODES


def init_failure(name: str, log: bytes) -> JobError | None:
    """The error behind an exit code of the engine's init, if the log shows that it is one."""
    line = log.rstrip(b"\n")
    if not line.startswith(_INIT) or b"\n" in line:
        return None
    words = line.partition(b"] ")[2].decode("utf-8", "replace")
    return refusal(f"'{name}' could not run its command", Answer(0, {"message": _plain(words)}))


def _plain(words: str) -> str:
    """Init's sentence in the engine's words, so that one table reads both."""
    if "exec format error" in words.lower():
        return words
    return f"unable to start container process: {words}"


def _last_words(message: str) -> str:
    """What stands behind the chain of 'failed to …: failed to …'."""
    kept = message.removesuffix(": unknown").rpartition("container process: ")[2]
    return kept.rstrip(".")
