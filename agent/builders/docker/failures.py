"""What a failed build means: one table from BuildKit's words to a cause and a sentence."""

import re
from dataclasses import dataclass

from agent.builders.docker.dockerfile import INSTALL_STEP
from agent.builders.docker.progress import BuildProgress
from agent.builders.requirements import Requirements
from agent.builders.uv import UNEXPLAINED, blame, install_error, last_lines
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.redact import Redactor

_AWAY = re.compile(
    r"cannot connect to the docker daemon|error during connect|failed to connect to the docker"
    r"|code = unavailable|connection reset by peer|docker daemon is not running"
    r"|failed to list workers|closing transport",
    re.IGNORECASE,
)
#: Step of buildx itself: a `buildkitd` of one's own is not there.
_WAITING = "[internal] waiting for connection"
_NO_PLATFORM = re.compile(r"no match for platform in manifest|exec format error", re.IGNORECASE)
_NOT_THERE = re.compile(
    r"not found|does not exist|pull access denied|manifest unknown|denied", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried."""

    title: str
    #: Path of the job's own Dockerfile for messages; `None` when it was generated.
    dockerfile: str | None
    requirements: Requirements | None


def build_error(attempt: Attempt, progress: BuildProgress) -> JobError:
    """The error for a build that ended badly."""
    words = f"{progress.error}\n{progress.rest}"
    if re.search(r"no space left on device", f"{words}\n{progress.failed_output}", re.IGNORECASE):
        return JobError(Cause.DISK_FULL, f"Building {attempt.title}: no space is left on the disk.")
    if _AWAY.search(words) or progress.failed_step == _WAITING:
        return engine_away(_last(progress))
    if progress.failed_step.startswith("[internal] load metadata for "):
        return _base_error(progress)
    if INSTALL_STEP in progress.failed_step and attempt.dockerfile is None:
        return install_error(progress.failed_output, attempt.requirements)
    if attempt.dockerfile is None:
        return JobError(
            Cause.BUILD_FAILED,
            f"Building {attempt.title} failed: {_clean(progress.error)}."
            f"\n{last_lines(progress.failed_output)}".rstrip(),
        )
    return _dockerfile_error(attempt.dockerfile, progress)


def engine_away(detail: str) -> JobError:
    """The engine does not answer."""
    return JobError(
        Cause.BUILD_UNAVAILABLE, f"The container engine does not answer ({_clean(detail)})."
    )


def _dockerfile_error(dockerfile: str, progress: BuildProgress) -> JobError:
    step = progress.failed_step
    if not step:
        return JobError(
            Cause.BUILD_DOCKERFILE,
            f"Dockerfile '{dockerfile}' cannot be built: {_clean(progress.error)}.",
        )
    output = progress.failed_output
    cause, reason = blame(output, None)
    named = f" ({reason})" if reason != UNEXPLAINED and cause is Cause.BUILD_REQUIREMENTS else ""
    return JobError(
        Cause.BUILD_DOCKERFILE,
        f"Dockerfile '{dockerfile}', step {_clean(step)} failed: {_clean(progress.error)}{named}."
        f"\n{last_lines(output)}".rstrip(),
    )


def _base_error(progress: BuildProgress) -> JobError:
    image = progress.failed_step.removeprefix("[internal] load metadata for ")
    shown = image.removeprefix("docker.io/library/")
    if _NO_PLATFORM.search(progress.error):
        return JobError(
            Cause.BUILD_FAILED, f"Base image '{shown}' does not exist for this machine's platform."
        )
    if _NOT_THERE.search(progress.error):
        return JobError(
            Cause.BUILD_FAILED,
            f"Base image '{shown}' does not exist, or needs a login ({_clean(progress.error)}).",
            hint="Check `--base-image`, `builder.base_image` or the Dockerfile's FROM.",
        )
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"Base image '{shown}' cannot be pulled ({_clean(progress.error)}).",
    )


def _last(progress: BuildProgress) -> str:
    lines = [line for line in progress.rest.splitlines() if line.strip()]
    return progress.error or (lines[-1] if lines else "it gave no reason")


def _clean(text: str) -> str:
    return Redactor().text(text.strip().rstrip("."))[:1000]
