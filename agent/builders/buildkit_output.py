"""BuildKit's plain progress: reading it as it comes, and the error that it ends with."""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agent.builders.image.plan import INSTALL_STEP, Plan
from agent.builders.requirements import NONE
from agent.builders.uv import UNEXPLAINED, explain, install_error, last_lines
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.redact import Redactor

_LINE: Final = re.compile(r"#(?P<step>\d+) (?P<text>.*)")
_TIMED: Final = re.compile(r"\d+\.\d+ (?P<text>.*)")
_NAME: Final = re.compile(r"\[.*?\] .+")
#: A cache that cannot be read is reported, and the build goes on.
_IMPORT: Final = "importing cache manifest from "
_MAX_LINE_BYTES: Final = 4096
_KEPT_LINES: Final = 60


#: What the docker program says of the engine, also when another BuildKit's image is loaded into it.
_NO_ENGINE: Final = re.compile(
    r"cannot connect to the docker daemon|error during connect|failed to connect to the docker"
    r"|docker daemon is not running",
    re.IGNORECASE,
)
_NO_BUILDKIT: Final = re.compile(
    r"code = unavailable|connection reset by peer|failed to list workers|closing transport"
    # Its daemon shuts down: who cancels a build here ends buildx instead.
    r"|failed to solve: canceled",
    re.IGNORECASE,
)
#: 128 and the number of SIGKILL: a step's own programs rarely end so.
_KILLED: Final = re.compile(r"did not complete successfully: exit code: 137\b")
#: The subject of messages about the agent's engine.
ENGINE: Final = "The container engine"
#: Step of buildx itself that fails when a configured `buildkitd` does not answer.
_WAITING = "[internal] waiting for connection"
_NO_PLATFORM = re.compile(r"no match for platform in manifest|exec format error", re.IGNORECASE)
_NO_IMAGE = re.compile(
    r"not found|does not exist|pull access denied|manifest unknown|denied", re.IGNORECASE
)


@dataclass
class BuildProgress:
    """Takes the output as it comes; memory stays bounded."""

    #: Name of a step: `[stage-0 2/4] RUN make`.
    names: dict[str, str] = field(default_factory=dict)
    #: The step that failed, and BuildKit's message about it.
    failed: str | None = None
    error: str = ""
    #: Steps that may fail without an effect on the build.
    _harmless: set[str] = field(default_factory=set)
    _tails: dict[str, deque[str]] = field(default_factory=dict)
    _rest: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _partial: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of output."""
        *lines, last = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace")[:_MAX_LINE_BYTES].rstrip("\r"))
        self._partial = last[-_MAX_LINE_BYTES:]

    def finish(self) -> None:
        """There is no more output."""
        self.feed(b"\n")

    @property
    def failed_step(self) -> str:
        """Name of the failed step; empty when none was named."""
        return self.names.get(self.failed or "", "")

    @property
    def failed_output(self) -> str:
        """The last lines of the failed step."""
        return "\n".join(self._tails.get(self.failed or "", ()))

    @property
    def rest(self) -> str:
        """The last lines that belong to no step: BuildKit's summary."""
        return "\n".join(self._rest)

    def _line(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            self._unnumbered(line)
            return
        step, text = match["step"], match["text"]
        timed = _TIMED.fullmatch(text)
        if timed is not None:
            self._tails.setdefault(step, deque(maxlen=_KEPT_LINES)).append(timed["text"])
        elif text.startswith(_IMPORT):
            self._harmless.add(step)
        elif text.startswith("ERROR: ") and step not in self._harmless:
            self.failed, self.error = step, text.removeprefix("ERROR: ")
        elif _NAME.fullmatch(text):
            self.names.setdefault(step, text)
        elif re.fullmatch(r"(DONE \S+|CACHED)", text):
            self._tails.pop(step, None)

    def _unnumbered(self, line: str) -> None:
        if line.strip():
            self._rest.append(line)
        if line.startswith("ERROR: ") and not self.error:
            self.error = line.removeprefix("ERROR: ")


_DENIED: Final = re.compile(r'source "(?P<what>[^"]+)" (?:denied|not allowed) by policy')


def build_error(title: str, plan: Plan, progress: BuildProgress, builder: str) -> JobError:
    """The error of a failed build; `builder` is the subject of messages about its BuildKit."""
    messages = f"{progress.error}\n{progress.rest}"
    denied = _DENIED.search(messages)
    if denied is not None:
        return PolicyError(
            Cause.POLICY_SOURCE,
            f"Building {title}: '{_clean(denied['what'])}' may not be fetched.",
            hint="`FROM`, `COPY --from` and mounts take images that the Dockerfile names in full, "
            "none that was built for another job; `ADD` takes the URLs of `builder.add_urls`, "
            "else use `RUN curl`.",
        )
    if "no space left on device" in f"{messages}\n{progress.failed_output}".lower():
        return JobError(Cause.DISK_FULL, f"Building {title}: no space is left on the disk.")
    no_engine = _NO_ENGINE.search(messages)
    if no_engine or _NO_BUILDKIT.search(messages) or progress.failed_step == _WAITING:
        return unreachable(ENGINE if no_engine else builder, _last(progress))
    return _error_of_step(title, plan, progress)


def _error_of_step(title: str, plan: Plan, progress: BuildProgress) -> JobError:
    if progress.failed_step.startswith("[internal] load metadata for "):
        return _base_error(progress)
    if "failed to push" in progress.error:
        message = f"The image of {title} cannot be pushed ({_clean(progress.error)})."
        return JobError(Cause.BUILD_PUSH, message)
    if _KILLED.search(progress.error):
        message = f"Building {title}: step {_clean(progress.failed_step)} was killed, most likely"
        message += f" because memory was short.\n{last_lines(progress.failed_output)}"
        return JobError(Cause.BUILD_OUT_OF_MEMORY, message.rstrip())
    if plan.shown_dockerfile is not None:
        return _dockerfile_error(plan.shown_dockerfile, progress)
    return _generated_error(title, plan, progress)


def unreachable(builder: str, detail: str) -> JobError:
    """The error for an engine or buildkitd that does not answer."""
    return JobError(Cause.BUILD_UNAVAILABLE, f"{builder} does not answer ({_clean(detail)}).")


def _generated_error(title: str, plan: Plan, progress: BuildProgress) -> JobError:
    if INSTALL_STEP not in progress.failed_step:
        return JobError(
            Cause.BUILD_FAILED,
            f"Building {title} failed: {_clean(progress.error)}."
            f"\n{last_lines(progress.failed_output)}".rstrip(),
        )
    if "did not complete successfully" in progress.error:
        return install_error(progress.failed_output, plan.requirements)
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"Building {title}: BuildKit could not run a step: {_clean(progress.error)}.",
        hint="Check the engine or buildkitd that builds for the agent.",
    )


def _dockerfile_error(dockerfile: str, progress: BuildProgress) -> JobError:
    step = progress.failed_step
    if not step:
        return JobError(
            Cause.BUILD_DOCKERFILE,
            f"Dockerfile '{dockerfile}' cannot be built: {_clean(progress.error)}.",
        )
    output = progress.failed_output
    cause, reason = explain(output, NONE)
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
    if _NO_IMAGE.search(progress.error):
        return JobError(
            Cause.BUILD_FAILED,
            f"Base image '{shown}' does not exist, or needs a login ({_clean(progress.error)}).",
            hint="Check `--base-image`, `builder.base_image` or the Dockerfile's FROM.",
        )
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"Base image '{shown}' cannot be pulled ({_clean(progress.error)}).",
        hint="Check that registry, and the network of the machine that builds.",
    )


def _last(progress: BuildProgress) -> str:
    lines = [line for line in progress.rest.splitlines() if line.strip()]
    return progress.error or (lines[-1] if lines else "it gave no reason")


def _clean(text: str) -> str:
    return Redactor().text(text.strip().rstrip("."))[:1000]
