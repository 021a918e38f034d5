"""What the engine's refusals, and its init's last words, mean."""

import pytest

from agent.docker.errors import refusal
from agent.model.cause import Cause
from agent.runners.docker.container_state import init_failure


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        (404, "No such image: a:b", Cause.IMAGE_NOT_FOUND),
        (404, "image x was found but does not match the specified platform", Cause.IMAGE_PLATFORM),
        (500, "write /var/lib/x: no space left on device", Cause.DISK_FULL),
        (
            400,
            'runc create failed: unable to start container process: exec: "x": not found',
            Cause.START_ENTRYPOINT,
        ),
        (400, "Minimum memory limit allowed is 6MB", Cause.POLICY_RESOURCE),
        (500, 'could not select device driver "nvidia"', Cause.START_FAILED),
        (500, "something new", Cause.START_FAILED),
    ],
)
def test_refusals_have_causes(status: int, words: str, cause: Cause) -> None:
    error = refusal("The container 'x' could not be started", status, words)
    assert error.cause is cause
    assert error.message.startswith("The container 'x' could not be started: ")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (b"[FATAL tini (7)] exec x failed: No such file or directory\n", Cause.START_ENTRYPOINT),
        (b"[FATAL tini (7)] exec x failed: Exec format error\n", Cause.IMAGE_PLATFORM),
        (b"[FATAL tini (7)] said by the job\nitself\n", None),
        (b"sh: x: not found\n", None),
        (b"", None),
    ],
)
def test_only_inits_own_single_line_is_its_failure(log: bytes, cause: Cause | None) -> None:
    failure = init_failure("job", log)
    assert (failure.cause if failure else None) is cause
