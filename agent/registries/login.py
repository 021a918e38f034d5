"""Ways to a login, asked one after the other."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.redact import Redactor
from agent.ports.registry import Credentials

_LONGEST: Final = 400


class LoginSource(Protocol):
    """One place that logins come from."""

    async def login(self, repository: str) -> Credentials | None:
        """A login for the registry of the repository; `None`: ask elsewhere.

        Raises:
            JobError: `IMAGE_AUTH`.
        """


@dataclass(frozen=True, slots=True)
class HostLogins:
    """`LoginSource` for the repositories of one host; `ask` gets what a cloud gives for it."""

    host: str
    ask: Callable[[], Awaitable[Credentials]]

    async def login(self, repository: str) -> Credentials | None:
        """See `LoginSource`."""
        return await self.ask() if repository.partition("/")[0] == self.host else None


def missing_extra(service: str, package: str, extra: str) -> JobError:
    """A cloud's library is not installed."""
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} wants a login, and the package `{package}` that gets one is not installed.",
        hint=f"Install `launch-agent[{extra}]`, or log the agent's machine in with `docker login`.",
    )


def refused(service: str, why: str) -> JobError:
    """A cloud gave no login; its library's words may be a page long."""
    words = Redactor().text(" ".join(why.split()))[:_LONGEST].rstrip(". ")
    return JobError(
        Cause.IMAGE_AUTH,
        f"{service} gives the agent no login: {words}.",
        hint="Check the cloud account that the agent's machine works with.",
    )
