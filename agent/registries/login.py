"""Ways to a login, asked one after the other."""

from typing import Protocol

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.registry import Credentials


class LoginSource(Protocol):
    """One place that logins come from."""

    async def login(self, repository: str) -> Credentials | None:
        """A login for the registry of the repository; `None`: ask elsewhere.

        Raises:
            JobError: `IMAGE_AUTH`.
        """


def missing_extra(service: str, package: str, extra: str) -> JobError:
    """A cloud's library is not installed."""
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} wants a login, and the package `{package}` that gets one is not installed.",
        hint=f"Install `launch-agent[{extra}]`, or log the agent's machine in with `docker login`.",
    )


def refused(service: str, why: str) -> JobError:
    """A cloud gave no login."""
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} gives the agent no login: {why.strip().rstrip('.')}.",
        hint="Check the cloud account that the agent's machine works with.",
    )
